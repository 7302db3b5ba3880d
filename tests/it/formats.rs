//! Answers that have to follow a JSON Schema do, by an independent validator's judgement.

use futures_util::future;
use serde_json::{Value, json};

use crate::harness::{Server, chat};

const ROUNDS: u64 = 5;

/// Nested, with enums, patterns, unions, bounds and references.
fn schemas() -> Vec<Value> {
    let object = |properties: Value| {
        let required: Vec<_> = properties.as_object().unwrap().keys().cloned().collect();
        json!({"type": "object", "properties": properties, "required": required,
               "additionalProperties": false})
    };
    let short = json!({"type": "string", "maxLength": 24});
    vec![
        object(json!({"name": short, "age": {"type": "integer", "minimum": 0, "maximum": 120}})),
        object(json!({"color": {"enum": ["red", "green", "blue"]}})),
        object(json!({"code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2,4}$"}})),
        object(json!({"tags": {"type": "array", "items": short, "minItems": 1, "maxItems": 3}})),
        object(
            json!({"value": {"anyOf": [{"type": "integer"}, {"type": "boolean"}, {"type": "null"}]}}),
        ),
        object(json!({"point": object(json!({"x": {"type": "number"}, "y": {"type": "number"}}))})),
        object(json!({"when": {"type": "string", "format": "date-time"}})),
        object(json!({"id": {"type": "string", "format": "uuid"}})),
        object(json!({"score": {"type": "number", "minimum": -1, "maximum": 1}})),
        object(json!({"kind": {"const": "report"}, "open": {"type": "boolean"}})),
        object(
            json!({"grid": {"type": "array", "minItems": 2, "maxItems": 2, "items":
            {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": "integer", "minimum": 0, "maximum": 9}}}}),
        ),
        object(json!({"note": {"type": ["string", "null"], "maxLength": 20}})),
        json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": short}, "required": ["a"],
               "additionalProperties": false}),
        json!({"type": "object", "properties": {"person": {"$ref": "#/$defs/person"}}, "required": ["person"],
               "additionalProperties": false,
               "$defs": {"person": object(json!({"first": short, "last": short}))}}),
        json!({"type": "object", "properties": {"tree": {"$ref": "#/$defs/node"}}, "required": ["tree"],
               "additionalProperties": false,
               "$defs": {"node": {"type": "object", "additionalProperties": false, "required": ["leaf"],
                   "properties": {"leaf": {"type": "boolean"},
                                  "children": {"type": "array", "maxItems": 1, "items": {"$ref": "#/$defs/node"}}}}}}),
        json!({"anyOf": [object(json!({"cat": {"const": "meow"}})), object(json!({"dog": {"const": "woof"}}))]}),
        object(json!({"level": {"enum": [1, 2, 3, "high", null]}})),
        object(
            json!({"steps": {"type": "array", "minItems": 1, "maxItems": 2, "items":
            object(json!({"do": short, "done": {"type": "boolean"}}))}}),
        ),
        object(
            json!({"mail": {"type": "string", "pattern": "^[a-z]{2,8}@[a-z]{2,8}\\.(org|com)$"}}),
        ),
        json!({"type": "array", "minItems": 3, "maxItems": 5, "items": {"type": "integer", "exclusiveMinimum": 10,
               "exclusiveMaximum": 100}}),
    ]
}

#[tokio::test]
async fn a_hundred_answers_over_twenty_schemas_are_valid() {
    // However slow the machine is: they come all at once.
    let server = Server::start_with(&[("FOREBAY_SCHEDULER__QUEUE_TIMEOUT_MS", "600000")]).await;
    let schemas = schemas();
    assert_eq!(schemas.len(), 20);
    let asks = (0..ROUNDS).flat_map(|round| schemas.iter().map(move |schema| (round, schema)));
    let answers = future::join_all(asks.map(|(round, schema)| {
        let server = &server;
        async move {
            let format = json!({"type": "json_schema", "json_schema":
                {"name": "answer", "strict": true, "schema": schema}});
            let answer = server
                .chat(json!({
                    "ask": "Answer in JSON about a thing of your choice.", "max_tokens": 160, "temperature": 1,
                    "seed": round, "response_format": format,
                }))
                .await;
            (schema, answer["choices"][0].clone())
        }
    }))
    .await;
    let mut finished = 0;
    for (schema, choice) in answers {
        let text = choice["message"]["content"].as_str().unwrap();
        if choice["finish_reason"] == "length" {
            continue;
        }
        finished += 1;
        let value: Value = serde_json::from_str(text)
            .unwrap_or_else(|error| panic!("{error}: {text:?} for {schema}"));
        let validator = jsonschema::options()
            .should_validate_formats(true)
            .build(schema)
            .unwrap();
        assert!(
            validator.is_valid(&value),
            "{text} is not valid under {schema}"
        );
    }
    println!("{finished} of 100 answers came to their end");
    assert!(finished >= 80, "only {finished} answers came to their end");
}

#[tokio::test]
async fn a_schema_that_can_not_be_kept_is_refused_by_its_place() {
    let server = Server::start().await;
    for (schema, place) in [
        (
            json!({"type": "object", "properties": {"a": {"type": "strnig"}}}),
            "/properties/a",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
            "/properties/a",
        ),
        (
            json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}}),
            "/properties/a",
        ),
    ] {
        let format =
            json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}});
        let body = chat(json!({"ask": "x", "response_format": format}));
        let error = server.refused("/v1/chat/completions", &body, 400).await;
        assert_eq!(error["param"], "response_format", "{error}");
        assert!(
            error["message"].as_str().unwrap().contains(place),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_call_that_has_to_be_made_is_made() {
    let server = Server::start().await;
    let tool = |name: &str| {
        json!({"type": "function", "function": {"name": name, "parameters": {
            "type": "object", "required": ["city"], "additionalProperties": false,
            "properties": {"city": {"type": "string", "maxLength": 12}}}}})
    };
    let ask = |choice: Value| {
        json!({"ask": "What is the weather in Oslo?", "max_tokens": 120, "temperature": 0,
               "tools": [tool("weather"), tool("tides")], "tool_choice": choice, "parallel_tool_calls": false})
    };
    for (choice, allowed) in [
        (json!("required"), vec!["weather", "tides"]),
        (
            json!({"type": "function", "function": {"name": "tides"}}),
            vec!["tides"],
        ),
    ] {
        let answer = server.chat(ask(choice)).await;
        let message = &answer["choices"][0]["message"];
        assert_eq!(
            message["tool_calls"].as_array().unwrap().len(),
            1,
            "{answer}"
        );
        let call = &message["tool_calls"][0]["function"];
        assert!(allowed.contains(&call["name"].as_str().unwrap()));
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(arguments["city"].is_string(), "{call}");
    }
}
