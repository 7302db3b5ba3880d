"""The bill against the answers: what `forebay usage` says and what the clients were told."""

import time
from collections import Counter

import openai
import pytest

from asks import CHAT, EMBEDDINGS, chat
from conftest import sdk

COUNTS = ("requests", "prompt_tokens", "completion_tokens")


def billed(server, *projects):
    """Per model, what the ledger holds for a project (by its name or its id)."""
    totals = {}
    for row in server.usage():
        if row["project"] in projects:
            totals.setdefault(row["model"], Counter()).update({name: row[name] for name in COUNTS})
    return totals


def told(answers):
    """Per model, what the answers said: pairs of a model and its usage."""
    totals = {}
    for model, usage in answers:
        completion = getattr(usage, "completion_tokens", 0)
        counts = {"requests": 1, "prompt_tokens": usage.prompt_tokens, "completion_tokens": completion}
        totals.setdefault(model, Counter()).update(counts)
    return totals


def plus(*parts):
    totals = {}
    for part in parts:
        for model, counts in part.items():
            totals.setdefault(model, Counter()).update(counts)
    return totals


def converse(client):
    """Answers of every kind, as pairs of a model and its usage."""
    for number in range(4):
        yield CHAT, client.chat.completions.create(**chat(f"What is {number} times two?")).usage
        request = chat(f"Name {number} birds.", stream=True, stream_options={"include_usage": True})
        yield CHAT, list(client.chat.completions.create(**request))[-1].usage
    yield CHAT, client.completions.create(model=CHAT, prompt="The sea", max_tokens=8).usage
    yield EMBEDDINGS, client.embeddings.create(model=EMBEDDINGS, input=["one", "two words"]).usage


def test_the_bill_is_the_sum_of_the_answers(own_server):
    with sdk(own_server) as client:
        before = billed(own_server, "local")
        answers = list(converse(client))
        # What was refused costs nothing and stands nowhere.
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(**chat("Hello", temperature=3))
    # No waiting: an answer is complete only once its charge is on disk.
    assert billed(own_server, "local") == plus(before, told(answers))


def test_a_stream_without_a_usage_chunk_is_billed_all_the_same(own_server):
    with sdk(own_server) as client:
        usage = client.chat.completions.create(**chat("Name a river.")).usage
        before = billed(own_server, "local")
        list(client.chat.completions.create(**chat("Name a river.", stream=True)))
    assert billed(own_server, "local") == plus(before, told([(CHAT, usage)]))


def test_a_client_that_hangs_up_pays_for_what_it_got(own_server):
    question = "Tell me a very long story about the sea."
    with sdk(own_server) as client:
        prompt_tokens = client.chat.completions.create(**chat(question, max_tokens=1)).usage.prompt_tokens
        before = billed(own_server, "local")[CHAT]
        request = chat(question, max_tokens=400, stream=True)
        with client.chat.completions.create(**request, extra_body={"ignore_eos": True}) as chunks:
            # The first names the role; each of the others holds at least a token.
            for _ in range(6):
                next(chunks)

    deadline = time.monotonic() + 5
    while (now := billed(own_server, "local")[CHAT])["requests"] == before["requests"]:
        assert time.monotonic() < deadline, "the dropped stream was not booked within 5 s"
        time.sleep(0.1)
    assert now["requests"] == before["requests"] + 1
    assert now["prompt_tokens"] == before["prompt_tokens"] + prompt_tokens
    assert 5 <= now["completion_tokens"] - before["completion_tokens"] < 400


def test_a_new_project_is_served_at_once_and_billed_apart(own_server):
    identity = own_server.cli("project", "create", "acme")
    secret = own_server.cli("key", "create", "--project", "acme")
    assert identity and secret and "\n" not in secret
    local = billed(own_server, "local")

    with sdk(own_server, key=secret) as client:
        deadline = time.monotonic() + 2
        while True:
            try:
                client.models.list()
                break
            except openai.AuthenticationError:
                assert time.monotonic() < deadline, "the new key was not known within 2 s"
                time.sleep(0.1)
        answers = list(converse(client))

    assert billed(own_server, "acme", identity) == told(answers)
    assert billed(own_server, "local") == local
