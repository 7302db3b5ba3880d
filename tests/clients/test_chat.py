import asyncio

import openai
import pytest

from asks import CHAT, chat, joined, user
from server import KEY


def test_a_chat_is_answered(client):
    answer = client.chat.completions.create(**chat("What is the capital of France?"))
    assert answer.object == "chat.completion"
    assert answer.model == CHAT
    assert answer.id
    [choice] = answer.choices
    assert choice.index == 0
    assert choice.message.role == "assistant"
    assert choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.completion_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_content_parts_say_the_same_as_a_string(client):
    def answer(system, question):
        messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        return client.chat.completions.create(model=CHAT, messages=messages, temperature=0, max_tokens=24)

    plain = answer("You are terse.", "Name three colours.")
    parts = answer(
        [{"type": "text", "text": "You are terse."}],
        [{"type": "text", "text": "Name three colours."}],
    )
    assert parts.choices[0].message.content == plain.choices[0].message.content
    assert parts.usage.prompt_tokens == plain.usage.prompt_tokens


def test_an_earlier_answer_may_be_part_of_the_question(client):
    messages = [
        *user("My name is Ada."),
        {"role": "assistant", "content": "Hello Ada."},
        *user("What is my name?"),
    ]
    answer = client.chat.completions.create(model=CHAT, messages=messages, temperature=0, max_tokens=24)
    assert answer.choices[0].message.content.strip()


@pytest.mark.parametrize("as_list", [False, True])
def test_a_stop_string_ends_the_answer_and_is_not_in_it(exact_client, as_list):
    question = "List the days of the week, one after another."
    full = exact_client.chat.completions.create(**chat(question)).choices[0].message.content
    # Cut inside a word, so that the stop string is not one token.
    stop = full[len(full) // 2 : len(full) // 2 + 5]
    answer = exact_client.chat.completions.create(**chat(question, stop=[stop, "\u2603"] if as_list else stop))
    assert answer.choices[0].message.content == full[: full.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_one_token_at_most_is_one_token(client):
    for name in ("max_tokens", "max_completion_tokens"):
        request = {"model": CHAT, "messages": user("Tell me a long story."), "temperature": 0, name: 1}
        answer = client.chat.completions.create(**request)
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 1


def test_log_probabilities_belong_to_the_text(client):
    request = chat("Count from one to ten.", max_tokens=8, logprobs=True)
    answer = client.chat.completions.create(**request, top_logprobs=3)
    [choice] = answer.choices
    tokens = choice.logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    for token in tokens:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        ranked = [alternative.logprob for alternative in token.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)
        # Temperature 0 takes the likeliest.
        assert token.logprob == pytest.approx(ranked[0], abs=1e-5)

    bare = client.chat.completions.create(**request).choices[0]
    assert [token.top_logprobs for token in bare.logprobs.content] == [[]] * len(tokens)


def test_logprobs_is_a_key_even_when_nobody_asked(raw):
    choice = raw.post("/v1/chat/completions", json=chat("Hello", max_tokens=2)).json()["choices"][0]
    assert choice["logprobs"] is None


def test_a_seed_repeats_and_another_differs(client):
    def text(seed):
        request = chat("Invent a name for a ship.", temperature=1, seed=seed)
        return client.chat.completions.create(**request).choices[0].message.content

    assert text(7) == text(7)
    assert len({text(seed) for seed in (7, 8, 9)}) > 1


def test_a_control_token_in_a_message_stays_text(client):
    def prompt_tokens(content):
        return client.chat.completions.create(**chat(content, max_tokens=1)).usage.prompt_tokens

    # As the template's own token it would be one; spelled out it is several.
    assert prompt_tokens("Repeat:<|im_end|>") - prompt_tokens("Repeat:") >= 3


def test_fields_that_nobody_knows_are_accepted(client):
    more = {"a_field_of_tomorrow": {"deep": [1, 2]}}
    request = chat("Hello", max_tokens=4, user="ada", metadata={"team": "red"}, store=False)
    assert client.chat.completions.create(**request, extra_body=more).choices


def test_sixteen_at_once_are_all_answered(server):
    async def ask():
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=300, http_client=http
        ) as client:

            async def whole(number):
                return await client.chat.completions.create(**chat(f"What is {number} plus one?"))

            async def streamed(number):
                stream = await client.chat.completions.create(**chat(f"What is {number} plus one?", stream=True))
                return [chunk async for chunk in stream]

            return await asyncio.gather(
                asyncio.gather(*(whole(number) for number in range(8))),
                asyncio.gather(*(streamed(number) for number in range(8, 16))),
            )

    answers, streams = asyncio.run(ask())
    assert all(answer.choices[0].message.content for answer in answers)
    assert all(joined(chunks) for chunks in streams)
    assert len({answer.id for answer in answers} | {chunks[0].id for chunks in streams}) == 16
