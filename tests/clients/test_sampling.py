from collections import Counter

import pytest

from asks import CHAT, chat

# What SmolLM2's vocabulary has for "Hello".
HELLO = "19556"


def test_a_bias_of_100_forces_a_token(client):
    answer = client.chat.completions.create(**chat("Say goodbye.", max_tokens=4, logit_bias={HELLO: 100}))
    assert answer.choices[0].message.content == "Hello" * 4


def tokens(client, **settings):
    answer = client.completions.create(
        model=CHAT,
        prompt="ha ha ha ha ha ha ha ha ha ha",
        temperature=0,
        max_tokens=40,
        logprobs=0,
        extra_body={"ignore_eos": True} | settings,
    )
    return answer.choices[0].logprobs.tokens


@pytest.mark.parametrize("settings", [{"frequency_penalty": 2}, {"repetition_penalty": 2}])
def test_penalties_make_repetition_rarer(client, settings):
    def most(of):
        return max(Counter(of).values())

    # Each time costs 2 more, or halves the logit: no model holds on to a token for long.
    assert most(tokens(client, **settings)) < most(tokens(client))


def test_a_presence_penalty_changes_what_is_likeliest(client):
    assert tokens(client, presence_penalty=2) != tokens(client, presence_penalty=-2)


@pytest.mark.parametrize("settings", [{"top_k": 1}, {"min_p": 1}])
def test_cuts_that_leave_one_token_are_greedy(exact_client, settings):
    def text(**more):
        return exact_client.chat.completions.create(**chat("Tell me about the sea.", **more)).choices[0].message.content

    assert text(temperature=2, extra_body=settings) == text(temperature=0)


def test_the_models_own_end_waits_for_min_tokens(client):
    question = "Answer with the one word yes."
    short = client.chat.completions.create(**chat(question, max_tokens=200))
    assert short.choices[0].finish_reason == "stop"
    more = short.usage.completion_tokens + 8
    extra = {"min_tokens": more}
    answer = client.chat.completions.create(**chat(question, max_tokens=200, extra_body=extra))
    assert answer.usage.completion_tokens >= more
