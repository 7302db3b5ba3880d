import openai
import pytest

from asks import CHAT, EMBEDDINGS, chat, user
from conftest import sdk


def test_a_wrong_key_is_an_authentication_error(server):
    with sdk(server, key="fb-wrong") as stranger, pytest.raises(openai.AuthenticationError) as caught:
        stranger.chat.completions.create(**chat("Hello"))
    assert caught.value.code == "invalid_api_key"


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client, stream):
    # Also for a stream: what fails before the first token has a status, not an event.
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(**chat("Hello", model="no-such-model", stream=stream))
    assert caught.value.code == "model_not_found"


def test_an_unknown_model_cannot_be_retrieved(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-such-model")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_says_so(client, stream):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**chat("word " * 40_000, stream=stream))
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("name", "value", "param"),
    [
        ("response_format", {"type": "grammar"}, "response_format.type"),
        ("tools", [{"type": "custom", "custom": {"name": "x"}}], "tools[0].type"),
        ("modalities", ["text", "audio"], "modalities"),
        ("web_search_options", {}, "web_search_options"),
    ],
)
def test_what_is_not_supported_yet_is_named(client, name, value, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**chat("Hello", **{name: value}))
    assert caught.value.param == param
    assert caught.value.code == "unsupported_parameter"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", 3),
        ("temperature", -1),
        ("top_p", 2),
        ("max_tokens", 0),
        ("messages", []),
        ("n", 129),
        ("frequency_penalty", 3),
        ("logit_bias", {"1": 101}),
        ("tool_choice", "required"),
        ("reasoning_effort", "enormous"),
        ("verbosity", "chatty"),
    ],
)
def test_a_value_out_of_range_is_named(client, name, value):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**chat("Hello", **{name: value}))
    assert caught.value.param == name


def test_a_call_that_nobody_answered_is_named(client):
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [*user("What time is it?"), {"role": "assistant", "tool_calls": [call]}, *user("Well?")]
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=CHAT, messages=messages)
    assert caught.value.param == "messages[1].tool_calls[0].id"


def test_a_chat_with_an_embeddings_model_is_a_clear_refusal(client):
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        client.chat.completions.create(model=EMBEDDINGS, messages=user("Hello"))
    assert caught.value.body["message"]


def enveloped(answer, status):
    """The OpenAI error object of an answer, whose shape SDKs rely on."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    assert answer.headers["x-request-id"]
    error = answer.json()["error"]
    assert {"message", "type", "param", "code"} <= error.keys()
    assert error["message"] and error["type"]
    assert error["code"] is None or isinstance(error["code"], str)
    return error


def test_an_unknown_path_is_404_in_the_envelope(raw):
    enveloped(raw.get("/v1/no/such/path"), 404)


def test_a_wrong_method_is_405_in_the_envelope(raw):
    enveloped(raw.get("/v1/chat/completions"), 405)


@pytest.mark.parametrize("body", ["{", '{"model": ', "[]", "null", '{"messages": 7}'])
def test_malformed_json_is_400_in_the_envelope(raw, body):
    headers = {"content-type": "application/json"}
    enveloped(raw.post("/v1/chat/completions", content=body, headers=headers), 400)


def test_a_key_that_stands_twice_is_refused(raw):
    # One of the two would be authorised, and the other run.
    body = f'{{"model": "{CHAT}", "messages": [{{"role": "user", "content": "Hi"}}], "model": "other"}}'
    enveloped(raw.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"}), 400)


def test_no_key_is_401_in_the_envelope(raw):
    request = raw.build_request("POST", "/v1/chat/completions", json=chat("Hello"))
    del request.headers["authorization"]
    error = enveloped(raw.send(request), 401)
    assert error["code"] == "invalid_api_key"


def test_every_answer_has_a_request_id_of_its_own(raw):
    # The client's own is a name it gave, never ours.
    answers = [raw.get("/v1/models", headers={"x-request-id": "mine"}) for _ in range(2)]
    answers.append(raw.post("/v1/chat/completions", json=chat("Hello", max_tokens=2)))
    answers.append(raw.get("/health"))
    assert [answer.status_code for answer in answers] == [200] * 4
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 4 and "mine" not in ids
