import openai
import pytest

from asks import CHAT, finish


def request(**settings):
    return {"model": CHAT, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 24} | settings


def test_a_text_is_continued(client):
    answer = client.completions.create(**request())
    assert answer.object == "text_completion"
    [choice] = answer.choices
    assert choice.text
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_gives_what_the_whole_text_gives(exact_client):
    whole = exact_client.completions.create(**request())
    chunks = list(exact_client.completions.create(**request(stream=True, stream_options={"include_usage": True})))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert finish(chunks) == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_a_prompt_has_no_chat_template_around_it(client):
    bare = client.completions.create(**request(max_tokens=1)).usage.prompt_tokens
    chat = client.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": "Once upon a time"}], max_tokens=1
    )
    assert bare < chat.usage.prompt_tokens


# What SmolLM2's vocabulary has for "Hello" and " world".
HELLO_WORLD = [19556, 905]


def fits(logprobs, text):
    """Each token stands in the text where its offset says."""
    assert logprobs.text_offset[0] == 0
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert text[offset:].startswith(token), (token, offset)


def test_log_probabilities_come_in_four_lists(client):
    answer = client.completions.create(**request(max_tokens=8, logprobs=3, extra_body={"ignore_eos": True}))
    [choice] = answer.choices
    logprobs = choice.logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == 8
    assert "".join(logprobs.tokens) == choice.text
    fits(logprobs, choice.text)
    for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert logprob <= 0 and len(top) == 3
        # Temperature 0 takes the likeliest.
        assert top[token] == logprob == max(top.values())


def test_the_chosen_token_is_among_the_likeliest_even_if_it_is_not(client):
    # The bias makes the choice, and has no part in the log-probabilities.
    answer = client.completions.create(**request(max_tokens=3, logprobs=2, logit_bias={str(HELLO_WORLD[0]): 100}))
    logprobs = answer.choices[0].logprobs
    assert logprobs.tokens == ["Hello"] * 3
    for logprob, top in zip(logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert top["Hello"] == logprob < 0
        assert len(top) in (2, 3)


def test_without_being_asked_for_there_are_none(client):
    assert client.completions.create(**request(max_tokens=2)).choices[0].logprobs is None


def test_echo_alone_gives_the_prompt_with_its_log_probabilities(client):
    answer = client.completions.create(**request(echo=True, max_tokens=0, logprobs=1))
    [choice] = answer.choices
    assert choice.text == "Once upon a time"
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 0
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert len(logprobs.tokens) == answer.usage.prompt_tokens
    fits(logprobs, choice.text)
    # Nothing came before the first.
    assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
    for token, logprob, top in list(zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs))[1:]:
        assert logprob <= 0 and top[token] == logprob and 1 <= len(top) <= 2


def test_echo_comes_before_what_is_generated(client):
    asked = request(echo=True, max_tokens=6, logprobs=0)
    whole = client.completions.create(**asked)
    [choice] = whole.choices
    assert choice.text.startswith("Once upon a time") and len(choice.text) > len("Once upon a time")
    assert "".join(choice.logprobs.tokens) == choice.text
    assert len(choice.logprobs.tokens) == whole.usage.total_tokens
    fits(choice.logprobs, choice.text)

    chunks = list(client.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [token for part in parts for token in part.tokens] == choice.logprobs.tokens
    assert [offset for part in parts for offset in part.text_offset] == choice.logprobs.text_offset


@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_are_answered_in_their_order(client, stream):
    prompts = ["Once upon a time", "The capital of France is", "1, 2, 3,"]
    asked = request(prompt=prompts, echo=True, max_tokens=4)
    if stream:
        texts = {0: "", 1: "", 2: ""}
        for chunk in client.completions.create(**asked, stream=True):
            for choice in chunk.choices:
                texts[choice.index] += choice.text
        texts = [texts[index] for index in range(3)]
    else:
        choices = client.completions.create(**asked).choices
        assert [choice.index for choice in choices] == [0, 1, 2]
        texts = [choice.text for choice in choices]
    for prompt, text in zip(prompts, texts, strict=True):
        assert text.startswith(prompt) and len(text) > len(prompt)


def test_token_ids_are_a_prompt(client):
    def text(prompt):
        return [c.text for c in client.completions.create(**request(prompt=prompt, echo=True, max_tokens=0)).choices]

    assert text(HELLO_WORLD) == ["Hello world"]
    assert text([HELLO_WORLD, HELLO_WORLD[:1]]) == ["Hello world", "Hello"]
    both = [request(prompt=prompt, max_tokens=4) for prompt in ("Hello world", HELLO_WORLD)]
    answers = [client.completions.create(**one) for one in both]
    assert answers[0].choices[0].text == answers[1].choices[0].text
    assert answers[0].usage.prompt_tokens == answers[1].usage.prompt_tokens == 2


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": [2**31 - 1]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": ["x"] * 129}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "The end."}, "suffix"),
    ],
)
def test_a_request_that_cannot_be_run_is_named(client, settings, param):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**request(**settings))
    assert caught.value.param == param
