"""litellm as a client."""

import litellm
import pytest

from server import KEY


@pytest.fixture(scope="module")
def ask(server):
    def ask(call=litellm.completion, model="openai/smollm2-135m-instruct", **more):
        return call(model=model, api_base=f"{server.url}/v1", api_key=KEY, num_retries=0, **more)

    return ask


QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def test_a_chat_whole_and_streamed(ask):
    whole = ask(messages=QUESTION, temperature=0, max_tokens=24)
    assert whole.choices[0].message.content and whole.usage.total_tokens > 0
    chunks = list(ask(messages=QUESTION, temperature=0, max_tokens=24, stream=True, stream_options={"include_usage": True}))
    built = litellm.stream_chunk_builder(chunks)
    assert built.choices[0].message.content == whole.choices[0].message.content
    assert built.usage.completion_tokens == whole.usage.completion_tokens


async def test_the_same_without_waiting(ask):
    answer = await ask(litellm.acompletion, messages=QUESTION, temperature=0, max_tokens=24)
    assert answer.choices[0].message.content


def test_texts_and_vectors(ask):
    text = ask(litellm.text_completion, "text-completion-openai/smollm2-135m-instruct", prompt="Once upon", max_tokens=4)
    assert text.choices[0].text
    vectors = ask(litellm.embedding, "openai/all-minilm-l6-v2", input=["a dam", "a river"])
    assert [len(one["embedding"]) for one in vectors.data] == [384, 384]


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"model": "openai/none"}, litellm.NotFoundError),
        ({"temperature": 9}, litellm.BadRequestError),
        ({"messages": [{"role": "user", "content": "word " * 9000}]}, litellm.ContextWindowExceededError),
    ],
)
def test_errors_are_of_their_kind(ask, more, kind):
    with pytest.raises(kind):
        ask(**({"messages": QUESTION} | more))


def test_a_wrong_key_is_an_authentication_error(server):
    with pytest.raises(litellm.AuthenticationError):
        litellm.completion(
            model="openai/smollm2-135m-instruct", messages=QUESTION, api_base=f"{server.url}/v1", api_key="wrong",
        )
