import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict

from asks import chat, joined, of_choice


class Closed(BaseModel):
    """Without other keys, as OpenAI's strict schemas are."""

    model_config = ConfigDict(extra="forbid")


class Day(Closed):
    weather: Literal["sun", "rain"]
    warm: bool


class Trip(Closed):
    city: Literal["Paris", "Oslo", "Wien"]
    by: Literal["train", "bus"] | None
    first: Day
    second: Day


QUESTION = "Plan a trip of two days. Answer in JSON."


def schema(of, name="trip"):
    return {"type": "json_schema", "json_schema": {"name": name, "schema": of, "strict": True}}


def test_an_answer_is_parsed_into_its_class(client):
    answer = client.chat.completions.parse(**chat(QUESTION, max_tokens=200), response_format=Trip)
    [choice] = answer.choices
    assert isinstance(choice.message.parsed, Trip)
    assert choice.finish_reason == "stop"


@pytest.mark.parametrize("seed", [1, 2])
def test_every_choice_keeps_to_the_schema_however_hot(client, seed):
    asked = chat(QUESTION, max_tokens=200, temperature=2, n=3, seed=seed)
    answer = client.chat.completions.parse(**asked, response_format=Trip)
    assert len(answer.choices) == 3
    assert all(isinstance(choice.message.parsed, Trip) for choice in answer.choices)


def test_a_stream_keeps_to_the_schema(client):
    asked = chat(QUESTION, max_tokens=200, response_format=schema(Trip.model_json_schema()))
    chunks = list(client.chat.completions.create(**asked, stream=True))
    Trip.model_validate_json(joined(chunks))
    assert of_choice(chunks, 0)[-1].finish_reason == "stop"


@pytest.mark.parametrize("more", [{"min_tokens": 60}, {"ignore_eos": True}])
def test_an_answer_is_over_where_its_schema_is_whatever_else_is_asked(client, more):
    short = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    asked = chat(QUESTION, max_tokens=80, response_format=schema(short, "short"), extra_body=more)
    answer = client.chat.completions.create(**asked)
    assert type(json.loads(answer.choices[0].message.content)["ok"]) is bool
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 60


def test_an_object_is_all_that_json_object_asks_for(client):
    asked = chat('Answer with {"a": 1} and nothing else.', max_tokens=200, response_format={"type": "json_object"})
    [choice] = client.chat.completions.create(**asked).choices
    text = choice.message.content
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(text), dict)
    else:
        # It was cut, and an object had begun.
        assert choice.finish_reason == "length" and text.lstrip().startswith("{")


def test_a_schema_that_makes_no_sense_is_named(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**chat("Hello", response_format=schema({"type": "nonsense"})))
    assert caught.value.param.startswith("response_format")


def test_a_format_without_a_schema_is_named(client):
    asked = {"type": "json_schema", "json_schema": {"name": "trip"}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**chat("Hello", response_format=asked))
    assert caught.value.param == "response_format.json_schema.schema"
