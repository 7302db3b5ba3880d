import pytest

from asks import chat, of_choice


def request(**settings):
    return chat("Invent a name for a ship.", temperature=1, max_tokens=24, n=3) | settings


def test_several_answers_come_by_index_and_differ(client):
    answer = client.chat.completions.create(**request())
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(choice.message.role == "assistant" for choice in answer.choices)
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_usage_counts_the_prompt_once_and_every_answer(client):
    one = client.chat.completions.create(**request(n=1))
    three = client.chat.completions.create(**request(extra_body={"ignore_eos": True}))
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    assert three.usage.completion_tokens == 3 * 24


def test_every_answer_has_its_own_log_probabilities(client):
    answer = client.chat.completions.create(**request(logprobs=True, top_logprobs=1))
    for choice in answer.choices:
        tokens = choice.logprobs.content
        text = b"".join(bytes(token.bytes) for token in tokens).decode(errors="replace")
        assert text.startswith(choice.message.content) or choice.message.content.startswith(text)
        assert tokens


def test_a_seed_repeats_all_answers(exact_client):
    def texts():
        answer = exact_client.chat.completions.create(**request(seed=7))
        return [choice.message.content for choice in answer.choices]

    first = texts()
    assert texts() == first
    assert len(set(first)) > 1


def test_several_answers_stream_side_by_side(exact_client):
    asked = request(seed=11)
    whole = exact_client.chat.completions.create(**asked)
    chunks = list(exact_client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        parts = of_choice(chunks, choice.index)
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert [part.delta.role for part in parts] == ["assistant"] + [None] * (len(parts) - 1)
        reasons = [part.finish_reason for part in parts]
        assert reasons == [None] * (len(parts) - 1) + [choice.finish_reason]
    *others, last = chunks
    assert last.choices == [] and all(chunk.usage is None for chunk in others)
    assert last.usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("n", [1, 2])
def test_texts_too_are_answered_more_than_once(client, n):
    prompts = ["Once upon a time", "The sea is"]
    answer = client.completions.create(
        model=request()["model"], prompt=prompts, n=n, best_of=n, temperature=1, max_tokens=6, echo=True
    )
    # All answers to the first prompt, then all to the second.
    assert [choice.index for choice in answer.choices] == list(range(2 * n))
    for choice in answer.choices:
        assert choice.text.startswith(prompts[choice.index // n])
