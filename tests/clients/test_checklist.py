"""What drop-in clients trip on, a test for each line of the list. Each runs against a model in the server's own process and
against the same model as a remote worker, or, where it takes a fault, against a worker that is told to have it."""

import base64
import gzip
import json
import re
import struct
import time

import httpx
import openai
import pytest

from asks import CHAT, EMBEDDINGS, chat, finish, joined, user
from conftest import running, sdk
from scripted import Scripted
from server import KEY

BEHIND = """
[tenancy]
bootstrap_key = "fb-local"

[[worker]]
name = "chat"
engine = "remote"
url = "{url}"
models = ["smollm2-135m-instruct"]
dialect = "forebay"
api_key_env = "SECOND_KEY"

[[worker]]
name = "vectors"
engine = "remote"
url = "{url}"
models = ["all-minilm-l6-v2"]
kind = "embed"
dialect = "forebay"
api_key_env = "SECOND_KEY"

[[model]]
name = "smollm2-135m-instruct"
price = {{ prompt = "0.02", completion = "0.06" }}
"""

SCRIPTED = """
[tenancy]
bootstrap_key = "fb-local"

[scheduler]
retries = 0

[[worker]]
name = "scripted"
engine = "remote"
url = "{url}"
models = ["smollm2-135m-instruct"]
dialect = "openai"
"""

DEAD = """
[tenancy]
bootstrap_key = "fb-local"

[[worker]]
name = "dead"
engine = "remote"
url = "http://127.0.0.1:1"
models = ["smollm2-135m-instruct"]
dialect = "openai"
"""


@pytest.fixture(scope="module")
def remote(exact_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    config = folder / "remote.toml"
    config.write_text(BEHIND.format(url=exact_server.url))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECOND_KEY", KEY)
        yield from running(folder, config)


@pytest.fixture(scope="module", params=["in-process", "remote"])
def gateway(request, exact_server):
    return exact_server if request.param == "in-process" else request.getfixturevalue("remote")


@pytest.fixture(scope="module")
def ai(gateway):
    with sdk(gateway) as client:
        yield client


@pytest.fixture(scope="module")
def http(gateway):
    with plain(gateway) as client:
        yield client


@pytest.fixture(scope="module")
def worker():
    scripted = Scripted()
    yield scripted
    scripted.stop()


@pytest.fixture(scope="module")
def faulty(worker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    config = folder / "faulty.toml"
    config.write_text(SCRIPTED.format(url=worker.url))
    yield from running(folder, config)


def plain(server, key=KEY):
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60)


def streamed(http, **settings):
    """A stream's frames, as JSON, and all of it, as text."""
    body = chat(settings.pop("ask", "Hello"), stream=True, **settings)
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    lines = [line for line in answer.text.split("\n\n") if line and not line.startswith(":")]
    frames = [json.loads(line.removeprefix("data: ")) for line in lines if line != "data: [DONE]"]
    return frames, answer.text


def refused(http, path, body, status):
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def chunk(content=None, finish_reason=None, **more):
    delta = {"role": "assistant", "content": content} if content is not None else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    frame = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]} | more
    return f"data: {json.dumps(frame, ensure_ascii=False)}\n\n".encode()


# Stream


def test_line_01_frames_are_data_and_a_blank_line_and_the_end_is_done(http):
    answer = http.post("/v1/chat/completions", json=chat("Hello", stream=True))
    assert answer.headers["content-type"].split(";")[0] == "text/event-stream"
    *frames, rest = answer.text.split("\n\n")
    frames = [frame for frame in frames if not frame.startswith(":")]
    assert rest == "" and frames[-1] == "data: [DONE]"
    for frame in frames[:-1]:
        assert frame.startswith("data: {") and "\n" not in frame
        json.loads(frame[6:])


def test_line_02_id_and_created_are_the_same_on_each_chunk(http):
    frames, _ = streamed(http)
    assert len({(frame["id"], frame["created"]) for frame in frames}) == 1
    assert abs(frames[0]["created"] - time.time()) < 60, "in seconds"


def test_line_03_the_first_chunk_of_each_choice_has_the_role(http):
    frames, _ = streamed(http, n=2, temperature=1)
    for index in (0, 1):
        deltas = [c["delta"] for f in frames for c in f["choices"] if c["index"] == index]
        assert deltas[0]["role"] == "assistant"
        assert all(delta.get("role") is None for delta in deltas[1:])


def test_line_04_finish_reason_is_always_there_and_comes_once(http):
    frames, _ = streamed(http, n=2, temperature=1)
    for index in (0, 1):
        reasons = [c["finish_reason"] for f in frames for c in f["choices"] if c["index"] == index]
        assert reasons[-1] in ("stop", "length") and reasons[:-1] == [None] * (len(reasons) - 1)


def test_line_05_include_usage_gives_null_and_a_last_chunk_without_choices(http):
    frames, _ = streamed(http, stream_options={"include_usage": True})
    assert all(frame["usage"] is None for frame in frames[:-1])
    assert frames[-1]["choices"] == [] and frames[-1]["usage"]["total_tokens"] > 0


def test_line_06_no_usage_chunk_where_nobody_asked(http):
    frames, _ = streamed(http)
    assert all(frame["choices"] and frame.get("usage") is None for frame in frames)


def test_line_07_what_fails_before_generation_is_a_status(http):
    answer = http.post("/v1/chat/completions", json=chat("Hello", stream=True, temperature=9))
    assert answer.status_code == 400
    assert answer.headers["content-type"].startswith("application/json")


def test_line_08_what_fails_in_mid_stream_is_an_error_event_and_no_done(faulty, worker):
    worker.says(chunk("begun"), b'data: {"error": {"message": "out of memory"}}\n\n')
    with plain(faulty) as http:
        answer = http.post("/v1/chat/completions", json=chat("Hello", stream=True))
        *_, last, rest = answer.text.split("\n\n")
        assert answer.status_code == 200 and rest == ""
        assert set(json.loads(last.removeprefix("data: "))["error"]) == {"message", "type", "param", "code"}
        assert "[DONE]" not in answer.text
    with sdk(faulty) as client, pytest.raises(openai.APIError):
        list(client.chat.completions.create(**chat("Hello", stream=True)))


def test_line_09_silence_is_filled_with_comments_that_have_no_id(faulty, worker):
    worker.says(chunk("slow"), 17, chunk(finish_reason="stop"), b"data: [DONE]\n\n")
    with plain(faulty) as http:
        answer = http.post("/v1/chat/completions", json=chat("Hello", stream=True))
    lines = answer.text.splitlines()
    assert any(line.startswith(":") for line in lines)
    assert not any(line.startswith("id:") for line in lines)
    assert answer.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("ask", ["Repeat these emoji: 🦀🌊👩‍🚀🇫🇷", "请用中文写一句话，介绍你自己。"])
def test_line_10_a_cut_character_never_shows(http, ask):
    frames, _ = streamed(http, ask=ask, max_tokens=48, logprobs=True)
    choices = [choice for frame in frames for choice in frame["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    tokens = [token for choice in choices for token in (choice.get("logprobs") or {}).get("content") or []]
    # What a model writes need not be characters: where its bytes are none, and nowhere else, the text says so.
    written = b"".join(bytes(token["bytes"] or []) for token in tokens).decode(errors="replace")
    assert text.rstrip("\ufffd") == written.rstrip("\ufffd")
    assert any(ord(character) > 0x2e80 for character in text), "the answer has such characters"


def test_line_11_a_stream_that_is_cut_anywhere_decodes_the_same(faulty, worker):
    whole = chunk("日本 🦀") + chunk("!", finish_reason="stop") + b"data: [DONE]\n\n"
    with sdk(faulty) as client:
        for cut in range(1, len(whole), 3):
            worker.says(whole[:cut], 0.002, whole[cut:])
            chunks = list(client.chat.completions.create(**chat("Hello", stream=True)))
            assert joined(chunks) == "日本 🦀!" and finish(chunks) == "stop"


@pytest.mark.parametrize("streams", [True, False])
def test_line_12_a_disconnect_frees_the_slot(gateway, exact_server, streams):
    def running_there():
        text = httpx.get(f"{exact_server.metrics_url}/metrics", trust_env=False).text
        lines = [line for line in text.splitlines() if line.startswith("forebay_sequences_running")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    body = chat("Tell me a very long story.", stream=streams, max_tokens=1500, ignore_eos=True)
    with plain(gateway) as http:
        if streams:
            with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                # Kept: dropped, it would close the answer.
                lines = answer.iter_lines()
                next(lines)
                deadline = time.monotonic() + 2
                while running_there() == 0:
                    assert time.monotonic() < deadline
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post("/v1/chat/completions", json=body, timeout=1)
    gone = time.monotonic()
    while running_there() > 0:
        assert time.monotonic() - gone < 2
        time.sleep(0.02)


def test_line_13_a_stream_gives_what_the_whole_answer_gives(ai):
    for ask in ("What is the capital of France?", "Count from one to twenty."):
        whole = ai.chat.completions.create(**chat(ask))
        chunks = list(ai.chat.completions.create(**chat(ask, stream=True, stream_options={"include_usage": True})))
        assert joined(chunks) == whole.choices[0].message.content
        assert finish(chunks) == whole.choices[0].finish_reason
        assert chunks[-1].usage == whole.usage


# Chat


def test_line_14_finish_reasons_are_openais(ai):
    stopped = ai.chat.completions.create(**chat("What is 2 + 2?", max_tokens=200)).choices[0]
    assert stopped.finish_reason == "stop"
    cut = ai.chat.completions.create(**chat("Tell me a story.", max_tokens=2)).choices[0]
    assert cut.finish_reason == "length"
    called = ai.chat.completions.create(**forced("required", parallel_tool_calls=False)).choices[0]
    assert called.finish_reason == "tool_calls"


def test_line_15_n_answers_have_their_indexes_and_the_prompt_counts_once(ai, http):
    one = ai.chat.completions.create(**chat("Hello", max_tokens=4))
    many = ai.chat.completions.create(**chat("Hello", max_tokens=4, n=5, temperature=1))
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3, 4]
    assert many.usage.prompt_tokens == one.usage.prompt_tokens
    assert one.usage.completion_tokens < many.usage.completion_tokens <= 20
    for n in (0, 129):
        assert refused(http, "/v1/chat/completions", chat("Hello", n=n), 400)["param"] == "n"
    assert len(ai.chat.completions.create(**chat("Hi", max_tokens=1, n=128, temperature=1)).choices) == 128


def test_line_16_a_stop_is_a_string_or_up_to_four_or_null(ai, http):
    full = ai.chat.completions.create(**chat("List the days of the week.")).choices[0].message.content
    stop = full[10:14]
    for value in (stop, ["nowhere", stop], ["a", "b", "c", stop][1:]):
        text = ai.chat.completions.create(**chat("List the days of the week.", stop=value)).choices[0].message.content
        assert stop not in text
    assert ai.chat.completions.create(**chat("List the days of the week.", stop=None)).choices[0].message.content == full
    assert refused(http, "/v1/chat/completions", chat("Hello", stop=list("abcde")), 400)["param"] == "stop"


def test_line_17_max_completion_tokens_goes_above_max_tokens(ai):
    answer = ai.chat.completions.create(**chat("Tell me a story.", max_tokens=20, max_completion_tokens=3))
    assert answer.usage.completion_tokens == 3 and answer.choices[0].finish_reason == "length"


def test_line_18_a_huge_max_tokens_is_cut_to_the_context(ai):
    answer = ai.chat.completions.create(**chat("What is 2 + 2?", max_tokens=1_000_000))
    assert answer.choices[0].finish_reason == "stop"


def test_line_19_logprobs_without_top_logprobs_have_an_empty_list(ai):
    answer = ai.chat.completions.create(**chat("Hello", logprobs=True, max_tokens=3))
    assert all(token.top_logprobs == [] for token in answer.choices[0].logprobs.content)


def test_line_20_top_logprobs_go_to_twenty_with_bytes(ai, http):
    answer = ai.chat.completions.create(**chat("Hello", logprobs=True, top_logprobs=20, max_tokens=3))
    logprobs = answer.choices[0].logprobs
    assert logprobs.refusal is None and set(logprobs.model_fields_set) >= {"content", "refusal"}
    for token in logprobs.content:
        assert len(token.top_logprobs) == 20 and token.bytes is not None
    too_many = chat("Hello", logprobs=True, top_logprobs=21)
    assert refused(http, "/v1/chat/completions", too_many, 400)["param"] == "top_logprobs"


def test_line_21_a_whole_choice_always_has_the_logprobs_key(http):
    choice = http.post("/v1/chat/completions", json=chat("Hello")).json()["choices"][0]
    assert "logprobs" in choice and choice["logprobs"] is None


def schema(inner):
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": inner}}


def test_line_22_a_schema_that_cannot_be_used_is_refused(http):
    for inner in ({"type": "nonsense"}, {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}):
        error = refused(http, "/v1/chat/completions", chat("Hello", response_format=schema(inner)), 400)
        assert error["param"].startswith("response_format")


def test_line_23_a_cut_off_json_answer_says_length(ai):
    inner = {"type": "object", "properties": {"text": {"type": "string", "minLength": 400}}, "required": ["text"]}
    inner["additionalProperties"] = False
    answer = ai.chat.completions.create(**chat("Hello", response_format=schema(inner), max_tokens=6))
    assert answer.choices[0].finish_reason == "length"


def test_line_24_content_parts_come_in_every_role(ai):
    def parts(text):
        return [{"type": "text", "text": text}]

    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    turns = [
        ("system", "Be short."), ("developer", "Be kind."), ("user", "What time is it?"), ("assistant", "One moment."),
        ("tool", "Noon."), ("user", "Thanks."),
    ]

    def messages(content):
        made = [{"role": role, "content": content(text)} for role, text in turns]
        made[3]["tool_calls"], made[4]["tool_call_id"] = [call], "call_1"
        return made

    texts = [
        ai.chat.completions.create(model=CHAT, messages=messages(form), temperature=0, max_tokens=12)
        .choices[0].message.content
        for form in (str, parts)
    ]
    assert texts[0] == texts[1]


def test_line_25_developer_is_system_where_the_template_lacks_it(ai):
    texts = [
        ai.chat.completions.create(
            model=CHAT, temperature=0, max_tokens=24,
            messages=[{"role": role, "content": "You are a pirate. Say Arr."}, *user("Who are you?")],
        ).choices[0].message.content
        for role in ("system", "developer")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("turn", [{"content": None}, {}, {"content": ""}])
@pytest.mark.parametrize("called", [True, False])
def test_line_26_an_assistants_content_may_be_null_absent_or_empty(http, turn, called):
    assistant = {"role": "assistant", **turn}
    messages = [*user("What time is it?"), assistant]
    if called:
        call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
        assistant["tool_calls"] = [call]
        messages.append({"role": "tool", "tool_call_id": "call_1", "content": "Noon."})
    messages += user("And now?")
    answer = http.post("/v1/chat/completions", json={"model": CHAT, "messages": messages, "max_tokens": 2})
    assert answer.status_code == 200, answer.text


def test_line_27_no_messages_is_400(http):
    body = {"model": CHAT, "messages": []}
    assert refused(http, "/v1/chat/completions", body, 400)["param"] == "messages"


def test_line_28_unknown_fields_are_ignored(http):
    answer = http.post("/v1/chat/completions", json=chat("Hello", max_tokens=2, nobody_knows_this={"a": [1]}))
    assert answer.status_code == 200


def test_line_29_fields_about_the_request_are_accepted(ai):
    answer = ai.chat.completions.create(
        **chat("Hello", max_tokens=2), user="ada", store=True, metadata={"run": "1"}, service_tier="auto",
        safety_identifier="ada", prompt_cache_key="k", prediction={"type": "content", "content": "Hello!"},
        reasoning_effort="low", verbosity="low",
    )
    assert answer.choices


def test_line_30_a_seed_repeats_and_the_fingerprint_is_given(ai):
    request = chat("Tell me a story.", temperature=1.2, seed=7)
    one, two = ai.chat.completions.create(**request), ai.chat.completions.create(**request)
    assert one.choices[0].message.content == two.choices[0].message.content
    assert one.system_fingerprint and one.system_fingerprint == two.system_fingerprint
    first = next(iter(ai.chat.completions.create(**request, stream=True)))
    assert first.system_fingerprint == one.system_fingerprint


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("temperature", [-0.1, 2.1], [0, 2]),
        ("frequency_penalty", [-2.1, 2.1], [-2, 2]),
        ("presence_penalty", [-2.1, 2.1], [-2, 2]),
    ],
)
def test_line_31_numbers_out_of_range_are_refused_by_name(http, name, bad, good):
    for value in bad:
        assert refused(http, "/v1/chat/completions", chat("Hello") | {name: value}, 400)["param"] == name
    for value in good:
        answer = http.post("/v1/chat/completions", json=chat("Hello", max_tokens=1) | {name: value})
        assert answer.status_code == 200


# Tools

CITY = {
    "type": "object", "properties": {"city": {"enum": ["Oslo", "Paris"]}}, "required": ["city"],
    "additionalProperties": False,
}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}


def tool(name, parameters):
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def forced(choice, tools=None, **settings):
    tools = tools or [tool("weather", CITY)]
    return chat("Weather in Oslo?", max_tokens=200, tools=tools, tool_choice=choice, **settings)


def named(name):
    return {"type": "function", "function": {"name": name}}


def test_line_32_a_streamed_call_has_index_always_and_its_name_once(http):
    body = forced("required", parallel_tool_calls=False)
    answer = http.post("/v1/chat/completions", json=body | {"stream": True})
    frames = [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: {")]
    deltas = [call for f in frames for c in f["choices"] for call in c["delta"].get("tool_calls") or []]
    first, *more = deltas
    assert first["index"] == 0 and first["type"] == "function" and first["id"] and first["function"]["name"]
    for delta in more:
        assert delta["index"] == 0 and not {"id", "type"} & set(delta) and "name" not in delta["function"]
    assert len(more) > 0, "arguments come in pieces"
    json.loads("".join(delta["function"]["arguments"] for delta in deltas))


def test_line_33_parallel_calls_count_from_zero(faulty, worker):
    def call(index, **fields):
        delta = {"tool_calls": [{"index": index, **fields}]}
        return chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}])

    worker.says(
        chunk(""),
        call(0, id="a", type="function", function={"name": "weather", "arguments": '{"city":'}),
        call(0, function={"arguments": ' "Oslo"}'}),
        call(1, id="b", type="function", function={"name": "clock", "arguments": "{}"}),
        chunk(finish_reason="tool_calls"),
        b"data: [DONE]\n\n",
    )
    with sdk(faulty) as client, client.chat.completions.stream(**forced("auto")) as stream:
        calls = stream.get_final_completion().choices[0].message.tool_calls
    called = [(call.function.name, call.function.arguments) for call in calls]
    assert called == [("weather", '{"city": "Oslo"}'), ("clock", "{}")]


def test_line_34_arguments_are_a_string_and_empty_braces_if_there_are_none(ai):
    answer = ai.chat.completions.create(**forced(named("now"), [tool("now", NOTHING)]))
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.arguments, str) and json.loads(call.function.arguments) == {}


def test_line_35_required_finishes_with_tool_calls_and_named_with_stop(ai):
    required = forced("required", parallel_tool_calls=False)
    assert ai.chat.completions.create(**required).choices[0].finish_reason == "tool_calls"
    assert ai.chat.completions.create(**forced(named("weather"))).choices[0].finish_reason == "stop"


def test_line_36_none_gives_no_call_and_without_parallel_there_is_one(ai):
    assert ai.chat.completions.create(**forced("none")).choices[0].message.tool_calls is None
    for seed in range(3):
        request = forced("required", parallel_tool_calls=False, temperature=1.5, seed=seed)
        assert len(ai.chat.completions.create(**request).choices[0].message.tool_calls) == 1


# Errors and HTTP


def test_line_37_an_error_has_four_fields_and_its_code_is_a_word_or_null(http):
    for body, status in ((chat("Hello", model="none"), 404), (chat("Hello", temperature=9), 400), ([], 400)):
        error = refused(http, "/v1/chat/completions", body, status)
        assert error["code"] is None or isinstance(error["code"], str)
        assert error["message"] and isinstance(error["type"], str)


def test_line_38_each_status_comes_in_the_envelope(gateway, http):
    with plain(gateway, key="wrong") as stranger:
        error = refused(stranger, "/v1/chat/completions", chat("Hello"), 401)
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    assert refused(http, "/v1/chat/completions", chat("Hello", model="none"), 404)["code"] == "model_not_found"
    assert set(http.put("/v1/models").json()["error"]) == {"message", "type", "param", "code"}
    assert http.put("/v1/models").status_code == 405
    assert refused(http, "/v1/nothing", {}, 404)["code"] == "unknown_url"
    large = http.post("/v1/chat/completions", content=b" " * (17 << 20))
    assert large.status_code == 413 and large.json()["error"]["message"]


def test_line_39_what_is_too_long_says_so(http):
    error = refused(http, "/v1/chat/completions", chat("word " * 40_000), 400)
    assert error["code"] == "context_length_exceeded"


def test_line_40_malformed_json_is_400_in_the_envelope(http):
    answer = http.post("/v1/chat/completions", content=b'{"model": ')
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_line_41_a_refusal_for_now_says_when_and_one_for_good_says_so(gateway):
    key = gateway.cli("key", "create", "--project", "local", "--requests-per-minute", "1")
    with plain(gateway, key) as http:
        assert http.post("/v1/chat/completions", json=chat("Hello", max_tokens=1)).status_code == 200
        limited = http.post("/v1/chat/completions", json=chat("Hello", max_tokens=1))
    assert limited.status_code == 429 and 0 < int(limited.headers["retry-after"]) <= 60
    spent = gateway.cli("key", "create", "--project", "local", "--budget-month", "0")
    with plain(gateway, spent) as http:
        refusal = http.post("/v1/chat/completions", json=chat("Hello"))
    assert refusal.status_code == 429 and refusal.headers["x-should-retry"] == "false"
    assert refusal.json()["error"]["code"] == "insufficient_quota"


def test_line_41_a_server_without_workers_says_when_to_come_again(dead):
    with plain(dead) as http:
        answer = http.post("/v1/chat/completions", json=chat("Hello"))
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dead")
    config = folder / "dead.toml"
    config.write_text(DEAD)
    yield from running(folder, config, until="/health")


def test_line_42_every_answer_has_an_id_and_limits_are_told_in_openais_form(gateway, http):
    ids = {http.get(path).headers["x-request-id"] for path in ("/v1/models", "/v1/nothing", "/health")}
    assert len(ids) == 3
    key = gateway.cli("key", "create", "--project", "local", "--requests-per-minute", "9", "--tokens-per-minute", "9000")
    with plain(gateway, key) as limited:
        headers = limited.post("/v1/chat/completions", json=chat("Hello", max_tokens=1)).headers
    assert headers["x-ratelimit-limit-requests"] == "9" and headers["x-ratelimit-remaining-requests"] == "8"
    assert headers["x-ratelimit-limit-tokens"] == "9000" and int(headers["x-ratelimit-remaining-tokens"]) < 9000
    for kind in ("requests", "tokens"):
        assert re.fullmatch(r"(\d+h)?(\d+m)?(\d+(\.\d+)?s)?(\d+ms)?", headers[f"x-ratelimit-reset-{kind}"])


def test_line_43_keys_come_in_any_form_and_browsers_may_ask(gateway):
    with httpx.Client(base_url=gateway.url, trust_env=False) as anybody:
        for headers in (
            {"authorization": f"bearer {KEY}"}, {"authorization": f"BEARER {KEY}"}, {"x-api-key": KEY}, {"api-key": KEY},
        ):
            assert anybody.get("/v1/models", headers=headers).status_code == 200, headers
        asks = {
            "origin": "https://app.example.com", "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-stainless-lang",
        }
        may = anybody.options("/v1/chat/completions", headers=asks)
        assert may.status_code == 200
        assert may.headers["access-control-allow-origin"] == "*"
        assert "authorization" in may.headers["access-control-allow-headers"]
        assert "POST" in may.headers["access-control-allow-methods"]
        refusal = anybody.post("/v1/chat/completions", json=chat("Hello"), headers={"origin": "https://app.example.com"})
        assert refusal.status_code == 401 and refusal.headers["access-control-allow-origin"] == "*"
        assert "x-request-id" in refusal.headers["access-control-expose-headers"]
        # Who is no page has nothing of it.
        plain = anybody.post("/v1/chat/completions", json=chat("Hello"))
        assert plain.status_code == 401 and "x-request-id" in plain.headers
        assert not [name for name in plain.headers if name.startswith("access-control-") or name == "vary"]
        assert anybody.options("/v1/chat/completions").status_code == 405


@pytest.mark.parametrize("streams", [True, False])
def test_line_44_an_idempotency_key_is_honoured(gateway, http, streams):
    def requests():
        return sum(row["requests"] for row in gateway.usage() if row["model"] == CHAT)

    def ask(key, text):
        body = chat(text, temperature=1, max_tokens=8, stream=streams)
        return http.post("/v1/chat/completions", json=body, headers={"idempotency-key": key})

    before, key = requests(), f"key-{time.time()}"
    first, again = ask(key, "Hello"), ask(key, "Hello")
    assert first.status_code == again.status_code == 200
    assert first.text == again.text and again.headers["idempotent-replayed"] == "true"
    assert first.headers["content-type"] == again.headers["content-type"]
    assert requests() == before + 1
    other = ask(key, "Something else")
    assert other.status_code == 422 and other.json()["error"]["code"] == "idempotency_key_reused"
    # What was refused has had no effect, and may be mended.
    wrong = http.post("/v1/chat/completions", json=chat("Hello", n=0), headers={"idempotency-key": key + "b"})
    assert wrong.status_code == 400 and ask(key + "b", "Hello").status_code == 200


def test_line_44_an_answer_is_made_though_its_client_went(gateway, http):
    body = chat("Tell me a story.", temperature=1, max_tokens=150, ignore_eos=True)
    headers = {"idempotency-key": f"gone-{time.time()}"}
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json=body, headers=headers, timeout=0.3)
    runs = http.post("/v1/chat/completions", json=body, headers=headers)
    if runs.status_code == 409:
        assert runs.json()["error"]["code"] == "idempotency_key_in_use" and runs.headers["retry-after"]
    deadline = time.monotonic() + 30
    while runs.status_code == 409:
        assert time.monotonic() < deadline
        time.sleep(0.2)
        runs = http.post("/v1/chat/completions", json=body, headers=headers)
    assert runs.status_code == 200 and runs.headers["idempotent-replayed"] == "true"
    assert runs.json()["usage"]["completion_tokens"] == 150


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_line_45_compression_never_buffers_a_stream(http, encoding):
    headers = {"accept-encoding": encoding}
    body = chat("Tell me a story.", stream=True, max_tokens=60)
    with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer:
        assert "content-encoding" not in answer.headers
        times = [time.monotonic() for line in answer.iter_lines() if line.startswith("data: {")]
    assert len(times) > 10 and times[-1] - times[0] > 0.05, "pieces come one by one"
    logprobs = chat("Tell me a story.", logprobs=True, top_logprobs=20, max_tokens=30)
    with http.stream("POST", "/v1/chat/completions", json=logprobs, headers=headers) as answer:
        assert answer.headers["content-encoding"] == encoding
        packed = b"".join(answer.iter_raw())
    if encoding == "gzip":
        assert json.loads(gzip.decompress(packed))["choices"]


def test_line_45_a_compressed_request_is_read_up_to_the_bound(http):
    def ask(content, encoding):
        headers = {"content-encoding": encoding, "content-type": "application/json"}
        return http.post("/v1/chat/completions", content=content, headers=headers)

    body = json.dumps(chat("Hello", max_tokens=1)).encode()
    assert ask(gzip.compress(body), "gzip").status_code == 200
    assert ask(gzip.compress(b" " * (40 << 20)), "gzip").status_code == 413
    assert ask(body, "gzip").status_code == 400
    assert ask(body, "br").status_code == 415


# Others


def test_line_46_embeddings_come_as_base64_of_little_endian_floats(ai, http):
    body = {"model": EMBEDDINGS, "input": "a dam", "encoding_format": "base64"}
    packed = http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    raw = base64.b64decode(packed)
    floats = struct.unpack(f"<{len(raw) // 4}f", raw)
    plain = http.post("/v1/embeddings", json=body | {"encoding_format": "float"}).json()["data"][0]["embedding"]
    assert list(floats) == pytest.approx(plain, abs=1e-6)
    assert ai.embeddings.create(model=EMBEDDINGS, input="a dam").data[0].embedding == pytest.approx(plain, abs=1e-6)


def test_line_47_inputs_are_a_text_texts_ids_or_lists_of_ids(ai, http):
    for value, count in (("a", 1), (["a", "b"], 2), ([1037], 1), ([[1037], [1038, 1039]], 2), (["x"] * 2048, 2048)):
        answer = http.post("/v1/embeddings", json={"model": EMBEDDINGS, "input": value})
        assert answer.status_code == 200 and [one["index"] for one in answer.json()["data"]] == list(range(count))
    assert refused(http, "/v1/embeddings", {"model": EMBEDDINGS, "input": ["x"] * 2049}, 400)["param"] == "input"


def test_line_48_dimensions_are_honoured_or_refused(http):
    body = {"model": EMBEDDINGS, "input": "a dam"}
    answer = http.post("/v1/embeddings", json=body | {"dimensions": 64})
    assert len(answer.json()["data"][0]["embedding"]) == 64
    assert refused(http, "/v1/embeddings", body | {"dimensions": 100_000}, 400)["param"] == "dimensions"


def test_line_49_model_objects_have_four_fields(http):
    models = http.get("/v1/models").json()
    assert models["object"] == "list" and {model["id"] for model in models["data"]} >= {CHAT, EMBEDDINGS}
    for model in [*models["data"], http.get(f"/v1/models/{CHAT}").json()]:
        assert set(model) >= {"id", "object", "created", "owned_by"}
        assert model["object"] == "model" and isinstance(model["created"], int)


def test_line_50_completions_take_lists_with_a_global_index_and_echo(ai):
    answer = ai.completions.create(model=CHAT, prompt=["One", "Two"], n=2, max_tokens=2, temperature=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    echoed = ai.completions.create(model=CHAT, prompt="The sea is", echo=True, max_tokens=1, logprobs=1, temperature=0)
    assert echoed.choices[0].text.startswith("The sea is")
    assert echoed.choices[0].logprobs.token_logprobs[0] is None
    assert all(value is not None for value in echoed.choices[0].logprobs.token_logprobs[1:])


def test_line_51_a_file_comes_by_multipart_and_has_its_fields(ai):
    made = ai.files.create(file=("in.jsonl", b'{"a": 1}\n'), purpose="batch")
    assert (made.bytes, made.filename, made.purpose, made.status) == (9, "in.jsonl", "batch", "processed")
    assert abs(made.created_at - time.time()) < 60 and made.object == "file"
    assert ai.files.content(made.id).read() == b'{"a": 1}\n'
    assert made.id in [file.id for file in ai.files.list(purpose="batch")]
    assert ai.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        ai.files.retrieve(made.id)


def test_line_51_a_file_may_be_larger_than_any_other_body(ai):
    content = bytes(range(256)) * (17 << 12)
    made = ai.files.create(file=("large.bin", content), purpose="user_data")
    assert made.bytes == 17 << 20
    assert ai.files.content(made.id).read() == content


def line(name, **settings):
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions",
                       "body": chat("Hello", max_tokens=2) | settings})


def run_batch(ai, lines, wanted):
    file = ai.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
    batch = ai.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    seen, deadline = [batch.status], time.monotonic() + 60
    while batch.status != wanted:
        assert time.monotonic() < deadline, (wanted, batch)
        assert batch.status in ("validating", "in_progress", "finalizing"), batch
        time.sleep(0.05)
        batch = ai.batches.retrieve(batch.id)
        seen.append(batch.status)
    assert seen[0] == "validating"
    return batch


def test_line_52_a_batch_whose_lines_all_fail_is_completed_without_an_output(ai):
    batch = run_batch(ai, [line("a", model="none"), line("b", n=0)], "completed")
    assert batch.output_file_id is None and batch.error_file_id
    assert (batch.request_counts.total, batch.request_counts.failed) == (2, 2)
    assert ai.batches.list(limit=1).data[0].id == batch.id


def test_line_52_a_batch_can_be_cancelled(ai):
    lines = "\n".join(line(f"l{number}", max_tokens=60) for number in range(400))
    file = ai.files.create(file=("in.jsonl", lines.encode()), purpose="batch")
    batch = ai.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert ai.batches.cancel(batch.id).status == "cancelling"
    deadline = time.monotonic() + 60
    while (batch := ai.batches.retrieve(batch.id)).status != "cancelled":
        assert batch.status == "cancelling" and time.monotonic() < deadline
        time.sleep(0.05)
    assert batch.cancelled_at and batch.request_counts.completed < 400


def test_line_53_a_bad_lines_error_stands_in_its_row_and_names_are_used_once(ai):
    batch = run_batch(ai, [line("good"), line("bad", temperature=9)], "completed")
    [row] = [json.loads(text) for text in ai.files.content(batch.error_file_id).text.splitlines()]
    assert row["custom_id"] == "bad" and row["response"]["status_code"] == 400
    assert row["response"]["body"]["error"]["param"] == "temperature"
    [row] = [json.loads(text) for text in ai.files.content(batch.output_file_id).text.splitlines()]
    assert row["custom_id"] == "good" and row["response"]["body"]["usage"]["completion_tokens"] > 0
    failed = run_batch(ai, [line("twice"), line("twice")], "failed")
    assert failed.errors.data[0].code == "duplicate_custom_id" and failed.errors.data[0].line == 2


@pytest.mark.parametrize("lacking", ["finish", "usage", "done", "all"])
def test_line_56_a_worker_that_never_ends_well_still_gives_a_well_formed_end(faulty, worker, lacking):
    usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    frames = [chunk("text")]
    if lacking not in ("finish", "all"):
        frames.append(chunk(finish_reason="stop"))
    if lacking not in ("usage", "all"):
        frames.append(chunk(choices=[], usage=usage))
    if lacking not in ("done", "all"):
        frames.append(b"data: [DONE]\n\n")
    worker.says(*frames)
    request = chat("Hello", stream=True, stream_options={"include_usage": True})
    with sdk(faulty) as client:
        chunks = list(client.chat.completions.create(**request))
    assert joined(chunks) == "text" and finish([c for c in chunks if c.choices]) == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens > 0
    with plain(faulty) as http:
        assert http.post("/v1/chat/completions", json=request).text.endswith("data: [DONE]\n\n")
