"""Real servers as remote workers: a second Forebay, and llama.cpp's own server, both behind a gateway."""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

from conftest import running, sdk
from server import KEY, ROOT

WEIGHTS = Path.home() / ".cache" / "forebay" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CHAT = "smollm2-135m-instruct"
WAIT_SECONDS = 60

CONFIG = """
[tenancy]
bootstrap_key = "fb-local"

[[worker]]
name = "second"
engine = "remote"
url = "{second}"
models = ["smollm2-135m-instruct"]
dialect = "forebay"
api_key_env = "SECOND_KEY"
metrics_url = "{second_metrics}/metrics"
probe_ms = 200

[[worker]]
name = "embedder"
engine = "remote"
url = "{second}"
models = ["all-minilm-l6-v2"]
kind = "embed"
dialect = "forebay"
api_key_env = "SECOND_KEY"

[[worker]]
name = "llama"
engine = "remote"
url = "{llama}"
models = ["llama"]
dialect = "llama-server"
probe_ms = 200
"""


@pytest.fixture(scope="module")
def llama():
    """llama.cpp's own server, by the address that it prints."""
    script = ROOT / "loadtest" / "peers" / "llama_server.py"
    command = [sys.executable, script, "--model-file", WEIGHTS, "--slots", "4"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("READY "):
                yield line.removeprefix("READY ").strip()
                break
        else:
            pytest.fail(f"llama.cpp's server ended with {process.wait()} before it was ready", pytrace=False)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    yield from running(tmp_path_factory.mktemp("second"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, second, llama):
    folder = tmp_path_factory.mktemp("gateway")
    config = folder / "gateway.toml"
    config.write_text(CONFIG.format(second=second.url, second_metrics=second.metrics_url, llama=llama))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECOND_KEY", KEY)
        yield from running(folder, config)


@pytest.fixture(scope="module")
def client(gateway):
    with sdk(gateway) as client:
        yield client


def row(server, model):
    rows = [row for row in server.usage() if row["model"] == model]
    names = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
    return {name: sum(row[name] for row in rows) for name in names}


def grown(before, after):
    return {name: after[name] - before[name] for name in before}


def ask(client, model, **more):
    messages = [{"role": "user", "content": "What is a dam good for? Answer in a sentence."}]
    return client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=24, **more)


def booked_as(usage):
    details = usage.prompt_tokens_details
    cached = (details.cached_tokens if details else 0) or 0
    return {
        "requests": 1,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": cached,
        "completion_tokens": usage.completion_tokens,
    }


@pytest.mark.parametrize("model", [CHAT, "llama"])
def test_the_books_say_what_the_worker_says(gateway, client, second, model):
    before, there = row(gateway, model), row(second, CHAT)
    whole = ask(client, model)
    assert whole.model == model and whole.choices[0].message.content
    middle = row(gateway, model)
    assert grown(before, middle) == booked_as(whole.usage)
    chunks = list(ask(client, model, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.strip() and all(chunk.model == model for chunk in chunks)
    assert len({chunk.id for chunk in chunks}) == 1
    after = row(gateway, model)
    assert grown(middle, after) == booked_as(chunks[-1].usage)
    if model == CHAT:
        # The second one's own books agree with the first's.
        assert grown(there, row(second, CHAT)) == grown(before, after)


def test_usage_is_booked_though_the_client_does_not_ask_for_it(gateway, client):
    before = row(gateway, "llama")
    chunks = list(ask(client, "llama", stream=True))
    assert all(chunk.usage is None for chunk in chunks)
    after = grown(before, row(gateway, "llama"))
    assert after["requests"] == 1 and after["prompt_tokens"] > 10 and 1 < after["completion_tokens"] <= 24


def test_embeddings_pass_through(client, gateway, second):
    texts = ["a dam", "a lock", "a spillway"]
    with sdk(second) as direct:
        expected = direct.embeddings.create(model="all-minilm-l6-v2", input=texts)
    answer = client.embeddings.create(model="all-minilm-l6-v2", input=texts)
    assert answer.usage == expected.usage
    for own, other in zip(answer.data, expected.data, strict=True):
        assert own.embedding == pytest.approx(other.embedding, abs=1e-6)


@pytest.mark.parametrize("model", [CHAT, "llama"])
def test_tokens_are_the_workers_own(gateway, second, model):
    def post(server, path, body):
        headers = {"authorization": f"Bearer {KEY}"}
        answer = httpx.post(f"{server.url}/v1/{path}", json=body, headers=headers, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    messages = [{"role": "user", "content": "What is a weir?"}]
    for asked in ({"prompt": "A forebay holds water. 水"}, {"messages": messages}):
        tokens = post(second, "tokenize", {"model": CHAT, **asked})["tokens"]
        assert post(gateway, "tokenize", {"model": model, **asked})["tokens"] == tokens
        text = post(second, "detokenize", {"model": CHAT, "tokens": tokens})
        assert post(gateway, "detokenize", {"model": model, "tokens": tokens}) == text


def running_on_second(second):
    text = httpx.get(f"{second.metrics_url}/metrics", trust_env=False).text
    values = [line.rsplit(" ", 1)[1] for line in text.splitlines() if line.startswith("forebay_sequences_running")]
    return sum(float(value) for value in values)


def running_on_llama(llama):
    slots = httpx.get(f"{llama}/slots", trust_env=False).json()
    return sum(slot["is_processing"] for slot in slots)


@pytest.mark.parametrize("model", [CHAT, "llama"])
@pytest.mark.parametrize("streams", [True, False])
def test_a_client_that_goes_frees_the_workers_slot(gateway, second, llama, model, streams):
    runs = (lambda: running_on_second(second)) if model == CHAT else (lambda: running_on_llama(llama))
    assert runs() == 0
    body = {
        "model": model, "stream": streams, "max_tokens": 1500, "ignore_eos": True,
        "messages": [{"role": "user", "content": "Tell me a very long story."}],
    }
    headers = {"authorization": f"Bearer {KEY}"}
    http = httpx.Client(base_url=gateway.url, headers=headers, trust_env=False, timeout=3)
    deadline = time.monotonic() + WAIT_SECONDS
    if streams:
        with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            lines = answer.iter_lines()
            while not (line := next(lines)).startswith("data: ") or not json.loads(line[6:])["choices"]:
                assert time.monotonic() < deadline
            assert runs() == 1
    else:
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/chat/completions", json=body)
    http.close()
    gone = time.monotonic()
    while runs() > 0:
        assert time.monotonic() - gone < 1.0, "it runs on for a second"
        time.sleep(0.02)


def test_a_workers_refusal_reaches_the_client(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=CHAT, messages=[{"role": "user", "content": "x"}], temperature="hot")
    assert refused.value.type == "invalid_request_error"
    assert refused.value.param == "temperature"
