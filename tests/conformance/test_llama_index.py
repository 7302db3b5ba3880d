"""llama-index's models for servers of OpenAI's API."""

import pytest
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

from server import KEY


@pytest.fixture(scope="module")
def llm(server):
    return OpenAILike(
        model="smollm2-135m-instruct", api_base=f"{server.url}/v1", api_key=KEY, is_chat_model=True,
        context_window=2048, max_tokens=24, temperature=0, max_retries=0,
    )


def test_a_chat_whole_and_streamed(llm):
    messages = [ChatMessage(role="user", content="What is the capital of France?")]
    whole = llm.chat(messages)
    assert whole.message.content and whole.raw.usage.total_tokens > 0
    *_, last = llm.stream_chat(messages)
    assert last.message.content == whole.message.content


async def test_the_same_without_waiting(llm):
    answer = await llm.acomplete("What is the capital of France?")
    assert answer.text


def test_a_text_is_continued(server):
    llm = OpenAILike(
        model="smollm2-135m-instruct", api_base=f"{server.url}/v1", api_key=KEY, is_chat_model=False, max_tokens=8,
        temperature=0,
    )
    assert llm.complete("The capital of France is").text.strip()


def test_a_tool_is_called(clever):
    from llama_index.core.tools import FunctionTool

    def weather(city: str) -> str:
        """Tells the weather in a city."""
        return city

    llm = OpenAILike(
        model="clever", api_base=f"{clever.url}/v1", api_key=KEY, is_chat_model=True, is_function_calling_model=True,
    )
    answer = llm.predict_and_call([FunctionTool.from_defaults(weather)], "What is the weather in 'Oslo'?")
    assert str(answer) == "Oslo"


def test_texts_become_vectors(server):
    model = OpenAILikeEmbedding(model_name="all-minilm-l6-v2", api_base=f"{server.url}/v1", api_key=KEY)
    one, two = model.get_text_embedding_batch(["a dam", "a river"])
    assert len(one) == len(two) == 384
