"""OpenAI's SDK for Python, where a worker has to understand what it is asked; tests/clients has the rest."""

import openai
import pytest

from server import KEY


@pytest.fixture(scope="module")
def ai(clever):
    with openai.OpenAI(base_url=f"{clever.url}/v1", api_key=KEY, max_retries=0) as ai:
        yield ai


def tool(name, field):
    parameters = {"type": "object", "properties": {field: {"type": "string"}}}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def test_two_calls_at_once_in_each_of_two_answers_are_put_together_by_the_sdk(ai):
    request = {
        "model": "clever", "n": 2, "tools": [tool("weather", "city"), tool("clock", "zone")],
        "messages": [{"role": "user", "content": "weather and clock of '北京 🏮'"}],
    }
    whole = ai.chat.completions.create(**request)
    with ai.chat.completions.stream(**request) as stream:
        streamed = stream.get_final_completion()

    def said(answer):
        return [
            (choice.index, choice.finish_reason, [(call.function.name, call.function.arguments) for call in
                                                  choice.message.tool_calls])
            for choice in answer.choices
        ]

    assert said(streamed) == said(whole)
    assert [len(calls) for _, _, calls in said(whole)] == [2, 2]
    assert all("北京 🏮" in arguments for _, _, calls in said(whole) for _, arguments in calls)
