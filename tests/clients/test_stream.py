import json

import pytest

from asks import chat, finish, joined

PROMPTS = [
    "What is the capital of France?",
    "Write two sentences about the sea.",
    "Translate to Chinese: good morning. 请用中文回答。",
    "Repeat these emoji: 🦀🌊👩‍🚀",
]


def stream(client, content, **settings):
    return list(client.chat.completions.create(**chat(content, stream=True, **settings)))


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("max_tokens", [1, 48])
def test_a_stream_gives_what_the_whole_answer_gives(exact_client, prompt, max_tokens):
    whole = exact_client.chat.completions.create(**chat(prompt, max_tokens=max_tokens))
    chunks = stream(exact_client, prompt, max_tokens=max_tokens, stream_options={"include_usage": True})
    assert joined(chunks) == whole.choices[0].message.content
    assert finish(chunks) == whole.choices[0].finish_reason
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [getattr(chunks[-1].usage, c) for c in counts] == [getattr(whole.usage, c) for c in counts]


def test_a_stop_string_never_shows_in_a_stream(exact_client):
    question = "List the days of the week, one after another."
    full = exact_client.chat.completions.create(**chat(question)).choices[0].message.content
    stop = full[len(full) // 2 : len(full) // 2 + 5]
    chunks = stream(exact_client, question, stop=stop)
    # Not even its beginning: what came is the text before it, and that alone.
    assert joined(chunks) == full[: full.index(stop)]
    assert finish(chunks) == "stop"


def test_usage_comes_last_and_alone_when_asked_for(client):
    chunks = stream(client, "Hello", stream_options={"include_usage": True})
    *others, last = chunks
    assert last.choices == []
    assert last.usage.total_tokens > 0
    assert all(chunk.choices for chunk in others)
    # The key is there, and null.
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in others)


@pytest.mark.parametrize("settings", [{}, {"stream_options": {"include_usage": False}}])
def test_no_usage_comes_when_nobody_asked(client, settings):
    chunks = stream(client, "Hello", **settings)
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


def test_only_the_first_chunk_names_the_role(client):
    chunks = stream(client, "Hello")
    assert [chunk.choices[0].delta.role for chunk in chunks] == ["assistant"] + [None] * (len(chunks) - 1)


def test_every_chunk_has_the_same_id_time_and_model(client):
    chunks = stream(client, "Hello")
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}


def test_log_probabilities_stream_with_their_text(client):
    chunks = stream(client, "Count from one to ten.", max_tokens=8, logprobs=True, top_logprobs=2)
    tokens = [t for c in chunks if c.choices and c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert len(tokens) == 8
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == joined(chunks)
    assert all(len(token.top_logprobs) == 2 for token in tokens)


def test_frames_are_server_sent_events_that_end_with_done(raw):
    with raw.stream("POST", "/v1/chat/completions", json=chat("Hello", stream=True)) as answer:
        body = answer.read().decode()
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == "text/event-stream"
    assert answer.headers["x-request-id"]
    *frames, rest = body.split("\n\n")
    assert rest == ""
    # A line that begins with a colon is a keep-alive comment.
    frames = [frame for frame in frames if not frame.startswith(":")]
    assert frames.pop() == "data: [DONE]"
    for frame in frames:
        assert frame.startswith("data: {") and "\n" not in frame
        [choice] = json.loads(frame.removeprefix("data: "))["choices"]
        # There on every chunk, null until the last.
        assert (choice["finish_reason"] is not None) == (frame is frames[-1])


def test_a_client_may_close_a_stream_early(client):
    chunks = client.chat.completions.create(**chat("Tell me a very long story.", max_tokens=400, stream=True))
    with chunks as early:
        for _ in range(3):
            next(early)
    # The slot is free again, and the connection pool fit for use.
    assert client.chat.completions.create(**chat("Hello", max_tokens=4)).choices
