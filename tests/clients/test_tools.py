import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict

from asks import CHAT, chat, of_choice, user

QUESTION = "What is the weather in Oslo?"


class Weather(BaseModel):
    city: Literal["Paris", "Oslo", "Wien"]
    unit: Literal["celsius", "kelvin"]


def function(name, model):
    parameters = model.model_json_schema()
    return {"type": "function", "function": {"name": name, "description": "Tells it.", "parameters": parameters}}


class Zone(BaseModel):
    zone: Literal["UTC", "CET"]


TOOLS = [function("weather", Weather), function("clock", Zone)]
ARGUMENTS = {"weather": Weather, "clock": Zone}
NAMED = {"type": "function", "function": {"name": "weather"}}


def asked(choice, **settings):
    return chat(QUESTION, max_tokens=200, tools=TOOLS, tool_choice=choice, **settings)


def test_a_named_function_is_called(client):
    [choice] = client.chat.completions.create(**asked(NAMED)).choices
    # OpenAI's word where the request itself chose the function.
    assert choice.finish_reason == "stop"
    assert choice.message.content is None
    [call] = choice.message.tool_calls
    assert call.type == "function" and call.id
    assert call.function.name == "weather"
    Weather.model_validate_json(call.function.arguments)


@pytest.mark.parametrize("temperature", [0, 2])
def test_a_call_is_made_where_one_is_required(client, temperature):
    request = asked("required", temperature=temperature, seed=3, parallel_tool_calls=False)
    [choice] = client.chat.completions.create(**request).choices
    assert choice.finish_reason == "tool_calls"
    [call] = choice.message.tool_calls
    ARGUMENTS[call.function.name].model_validate_json(call.function.arguments)


def test_every_choice_has_calls_of_its_own(client):
    request = asked("required", n=2, temperature=1, parallel_tool_calls=False)
    choices = client.chat.completions.create(**request).choices
    ids = [call.id for choice in choices for call in choice.message.tool_calls]
    assert len(ids) == len(set(ids)) == 2


def test_no_call_is_made_where_none_may_be(client):
    [choice] = client.chat.completions.create(**asked("none")).choices
    assert choice.message.tool_calls is None
    assert choice.message.content


def test_the_models_own_choice_is_a_call_or_a_text(client):
    [choice] = client.chat.completions.create(**asked("auto")).choices
    if choice.finish_reason == "tool_calls":
        assert all(call.function.name in ARGUMENTS for call in choice.message.tool_calls)
    else:
        assert choice.message.content and choice.message.tool_calls is None


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_streamed_call_is_what_the_whole_call_is(exact_client, choice):
    request = asked(choice, parallel_tool_calls=False)
    [whole] = exact_client.chat.completions.create(**request).choices
    parts = of_choice(list(exact_client.chat.completions.create(**request, stream=True)), 0)
    assert parts[0].delta.role == "assistant"
    assert [part.finish_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1].finish_reason == whole.finish_reason
    first, *more = [call for part in parts for call in part.delta.tool_calls or []]
    assert (first.index, first.type, bool(first.id)) == (0, "function", True)
    # Named once, and spelled out piece by piece.
    assert all(call.id is None and call.function.name is None and call.index == 0 for call in more)
    [expected] = whole.message.tool_calls
    assert first.function.name == expected.function.name
    arguments = "".join(call.function.arguments or "" for call in [first, *more])
    assert json.loads(arguments) == json.loads(expected.function.arguments)


class Place(BaseModel):
    # Nothing beside it, or the model tells a story in it.
    model_config = ConfigDict(extra="forbid")
    place: Literal["北京 🏮", "Zürich"]


def test_several_calls_in_two_answers_are_put_together_as_they_are_in_whole_ones(exact_client):
    tools = [function("weather", Place)]
    request = chat(QUESTION, max_tokens=120, tools=tools, tool_choice="required", n=2, temperature=0)
    whole = exact_client.chat.completions.create(**request)
    # By hand: this model calls until it is cut off, which the SDK's own accumulator takes for an error. `make conformance`
    # has that accumulator put together what a worker says that ends.
    streamed = {0: [], 1: []}
    for chunk in exact_client.chat.completions.create(**request, stream=True):
        for choice in chunk.choices:
            for call in choice.delta.tool_calls or []:
                calls = streamed[choice.index]
                if call.index == len(calls):
                    calls.append([call.function.name, ""])
                calls[call.index][1] += call.function.arguments or ""
    said = {
        choice.index: [[call.function.name, call.function.arguments] for call in choice.message.tool_calls]
        for choice in whole.choices
    }
    assert streamed == said
    assert all(len(calls) >= 2 for calls in said.values())
    assert all(name == "weather" for calls in said.values() for name, _ in calls)


@pytest.mark.parametrize("strict", [True, False])
def test_a_call_that_the_model_makes_of_itself_is_held_to_a_strict_schema(client, strict):
    tool = function("weather", Weather)
    tool["function"]["strict"] = strict
    messages = []
    # It goes on as it seems to have begun: with whatever city is asked for.
    for city in ["Rome", "Lima", "Cairo"]:
        arguments = json.dumps({"city": city, "unit": "celsius"})
        call = {"id": f"call_{city}", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        messages += user(f"What is the weather in {city}?") + [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": "sunny"},
            {"role": "assistant", "content": f"It is sunny in {city}."},
        ]
    messages += user("What is the weather in Madrid?")
    answer = client.chat.completions.create(
        model=CHAT, messages=messages, tools=[tool], max_tokens=60, temperature=0, parallel_tool_calls=False
    )
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls", choice.message.content
    [call] = choice.message.tool_calls
    if strict:
        Weather.model_validate_json(call.function.arguments)
    else:
        assert json.loads(call.function.arguments)["city"] == "Madrid"


def test_the_sdks_own_stream_puts_a_call_together(client):
    with client.chat.completions.stream(**asked(NAMED)) as stream:
        [choice] = stream.get_final_completion().choices
    [call] = choice.message.tool_calls
    Weather.model_validate_json(call.function.arguments)


def test_arguments_are_parsed_into_their_class(client):
    tools = [openai.pydantic_function_tool(Weather)]
    choice = {"type": "function", "function": {"name": "Weather"}}
    answer = client.chat.completions.parse(**chat(QUESTION, max_tokens=200, tools=tools, tool_choice=choice))
    [call] = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)


def test_what_a_tool_gave_is_part_of_the_conversation(client):
    first = client.chat.completions.create(**asked(NAMED)).choices[0].message
    messages = [
        *user(QUESTION),
        first,
        {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "Snow, minus 12 degrees."},
    ]
    request = {"model": CHAT, "messages": messages, "tools": TOOLS, "temperature": 0, "max_tokens": 64}
    answer = client.chat.completions.create(**request, tool_choice="none")
    assert answer.choices[0].message.content
    # The model reads it: a longer answer of the tool is a longer prompt.
    messages[-1]["content"] *= 10
    longer = client.chat.completions.create(**request, tool_choice="none")
    assert longer.usage.prompt_tokens > answer.usage.prompt_tokens


def test_the_older_names_get_the_older_answer(client):
    functions = [tool["function"] for tool in TOOLS]
    request = chat(QUESTION, max_tokens=200, functions=functions, function_call={"name": "clock"})
    [choice] = client.chat.completions.create(**request).choices
    assert choice.message.tool_calls is None
    assert choice.message.function_call.name == "clock"
    Zone.model_validate_json(choice.message.function_call.arguments)

    parts = of_choice(list(client.chat.completions.create(**request, stream=True)), 0)
    calls = [part.delta.function_call for part in parts if part.delta.function_call]
    assert [call.name for call in calls] == ["clock"] + [None] * (len(calls) - 1)
    Zone.model_validate_json("".join(call.arguments or "" for call in calls))
