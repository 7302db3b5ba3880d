mod answers;

use serde_json::{Value, json};

use super::request::Request;
use crate::api::body;
use crate::api::error::ApiError;
use crate::types::{Format, Generate, Prompt, Role, Thinking, ToolCall, ToolChoice};

/// A request with these fields besides.
fn request(fields: &Value) -> Result<Request, ApiError> {
    let mut whole = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}]});
    for (name, value) in fields.as_object().unwrap() {
        whole[name] = value.clone();
    }
    body::decode(whole.to_string().as_bytes())
}

fn decode(fields: &Value) -> Result<Generate, ApiError> {
    request(fields)?.decode()
}

fn good(fields: Value) -> Generate {
    decode(&fields).unwrap_or_else(|error| panic!("{fields}: {}", error.event()))
}

fn chat(fields: Value) -> crate::types::Chat {
    match good(fields).prompts.remove(0) {
        Prompt::Chat(chat) => chat,
        _ => panic!("no chat"),
    }
}

/// Each is a 400 that blames this field.
fn refused(cases: Vec<(Value, &str)>) {
    for (fields, param) in cases {
        let Err(error) = decode(&fields) else {
            panic!("{fields} was accepted");
        };
        let body: Value = serde_json::from_str(&error.event()).unwrap();
        assert_eq!(error.status, 400, "{fields}: {body}");
        assert_eq!(body["error"]["param"], param, "{fields}: {body}");
        assert_eq!(
            body["error"]["type"], "invalid_request_error",
            "{fields}: {body}"
        );
    }
}

fn function(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name}})
}

#[test]
fn what_isnt_said_changes_nothing() {
    let request = good(json!({
        "n": null, "temperature": null, "logit_bias": null, "tools": null, "tool_choice": null,
        "response_format": null, "stop": null, "functions": null, "function_call": null,
    }));
    assert_eq!(request.sampling, crate::types::Sampling::default());
    assert_eq!(
        (request.choices, request.max_tokens, request.min_tokens),
        (1, None, 0)
    );
    assert_eq!(request.format, Format::Text);
    assert!(!request.echo && !request.ignore_eos && request.top_logprobs.is_none());
}

#[test]
fn values_at_their_bounds_arrive() {
    let request = good(json!({
        "n": 128, "frequency_penalty": -2, "presence_penalty": 2, "repetition_penalty": 2, "min_p": 1,
        "top_k": 40, "top_p": 1, "temperature": 2, "seed": -1, "min_tokens": 3, "max_tokens": 3,
        "logit_bias": {"0": -100, "2147483647": 100},
    }));
    assert_eq!(
        (request.choices, request.max_tokens, request.min_tokens),
        (128, Some(3), 3)
    );
    let sampling = request.sampling;
    assert_eq!(sampling.logit_bias, [(0, -100.0), (2_147_483_647, 100.0)]);
    assert_eq!(
        (sampling.frequency_penalty, sampling.presence_penalty),
        (-2.0, 2.0)
    );
    assert_eq!(
        (sampling.repetition_penalty, sampling.min_p, sampling.top_k),
        (2.0, 1.0, 40)
    );
    assert_eq!(sampling.seed, Some(u64::MAX));
    for all in [-1, 0] {
        assert_eq!(good(json!({"top_k": all})).sampling.top_k, 0);
    }
}

#[test]
fn values_beyond_their_bounds_are_named() {
    let many: serde_json::Map<_, _> = (0..1025).map(|id| (id.to_string(), json!(1))).collect();
    refused(vec![
        (json!({"n": 0}), "n"),
        (json!({"n": 129}), "n"),
        (json!({"n": -1}), "n"),
        (json!({"n": "two"}), "n"),
        (json!({"frequency_penalty": 2.1}), "frequency_penalty"),
        (json!({"presence_penalty": -2.1}), "presence_penalty"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"repetition_penalty": 2.5}), "repetition_penalty"),
        (json!({"min_p": -0.1}), "min_p"),
        (json!({"min_p": 1.1}), "min_p"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"temperature": 2.1}), "temperature"),
        (json!({"top_k": -2}), "top_k"),
        (json!({"top_k": 1_u64 << 32}), "top_k"),
        (json!({"top_k": 1.5}), "top_k"),
        (json!({"max_tokens": 4, "min_tokens": 5}), "min_tokens"),
        (json!({"logit_bias": {"5": 101}}), "logit_bias"),
        (json!({"logit_bias": {"word": 1}}), "logit_bias"),
        (json!({"logit_bias": {"-1": 1}}), "logit_bias"),
        (json!({"logit_bias": {"007": 1}}), "logit_bias"),
        (json!({"logit_bias": {"+7": 1}}), "logit_bias"),
        (json!({"logit_bias": {"2147483648": 1}}), "logit_bias"),
        (json!({"logit_bias": many}), "logit_bias"),
        (json!({"logit_bias": {"5": "much"}}), "logit_bias.5"),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "top_logprobs",
        ),
        (json!({"top_logprobs": 1}), "top_logprobs"),
    ]);
}

#[test]
fn formats_arrive() {
    let schema = json!({"type": "object", "properties": {"b": {}, "a": {}}});
    let asked = json!({"type": "json_schema", "json_schema": {
        "name": "pair", "schema": schema, "strict": true, "description": "Two.",
    }});
    let request = good(json!({"response_format": asked}));
    assert_eq!(request.format, Format::JsonSchema(schema));
    let request = good(json!({"response_format": {"type": "json_object"}}));
    assert_eq!(request.format, Format::JsonObject);
    let request = good(json!({"response_format": {"type": "text"}}));
    assert_eq!(request.format, Format::Text);
}

#[test]
fn formats_that_lack_something_say_what() {
    let schema =
        |inner: Value| json!({"response_format": {"type": "json_schema", "json_schema": inner}});
    refused(vec![
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
        ),
        (
            schema(json!({"name": "n"})),
            "response_format.json_schema.schema",
        ),
        (
            schema(json!({"name": "n", "schema": []})),
            "response_format.json_schema.schema",
        ),
        (
            schema(json!({"schema": {}})),
            "response_format.json_schema.name",
        ),
        (
            schema(json!({"name": "a b", "schema": {}})),
            "response_format.json_schema.name",
        ),
        (
            json!({"response_format": {"type": "grammar"}}),
            "response_format.type",
        ),
        (json!({"response_format": {}}), "response_format"),
    ]);
}

#[test]
fn tools_arrive() {
    let parameters = json!({"type": "object", "properties": {"zone": {"type": "string"}}});
    let tools = chat(json!({
        "tools": [
            {"type": "function", "function": {
                "name": "clock", "description": "The time.", "parameters": parameters, "strict": true,
            }},
            function("dice"),
        ],
        "parallel_tool_calls": false,
    }))
    .tools;
    let [clock, dice] = tools.functions.as_slice() else {
        panic!("two were sent");
    };
    assert_eq!(clock.name, "clock");
    assert_eq!(clock.description.as_deref(), Some("The time."));
    assert_eq!(Value::Object(clock.parameters.clone()), parameters);
    assert!(clock.strict && !dice.strict && !tools.parallel);
    // Nothing said of parameters is that there are none.
    let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
    assert_eq!(Value::Object(dice.parameters.clone()), none);
    assert_eq!(tools.choice, ToolChoice::Auto);
}

#[test]
fn the_choice_of_a_tool_arrives() {
    for (choice, expected) in [
        (json!("none"), ToolChoice::None),
        (json!("auto"), ToolChoice::Auto),
        (json!("required"), ToolChoice::Required),
        (function("clock"), ToolChoice::Named("clock".into())),
    ] {
        let tools = chat(json!({"tools": [function("clock")], "tool_choice": choice})).tools;
        assert_eq!(tools.choice, expected);
        assert!(tools.parallel);
    }
    // Without tools these ask for nothing.
    for choice in ["none", "auto"] {
        assert!(
            chat(json!({"tools": [], "tool_choice": choice}))
                .tools
                .functions
                .is_empty()
        );
    }
}

#[test]
fn tools_that_make_no_sense_are_named() {
    let many: Vec<_> = (0..129)
        .map(|number| function(&format!("f{number}")))
        .collect();
    let tool = |inner: Value| json!({"tools": [function("a"), inner]});
    let choice = |choice: Value| json!({"tools": [function("a")], "tool_choice": choice});
    let named = |value: Value| json!({"type": "function", "function": value});
    refused(vec![
        (json!({"tools": many}), "tools"),
        (tool(json!({"type": "custom"})), "tools[1].type"),
        (tool(json!({"type": "function"})), "tools[1].function"),
        (tool(named(json!({}))), "tools[1].function"),
        (tool(function("")), "tools[1].function.name"),
        (tool(function("a b")), "tools[1].function.name"),
        (tool(function(&"x".repeat(65))), "tools[1].function.name"),
        (tool(function("a")), "tools[1].function.name"),
        (
            tool(named(json!({"name": "b", "parameters": 7}))),
            "tools[1].function.parameters",
        ),
        (
            tool(named(json!({"name": "b", "parameters": {"type": "array"}}))),
            "tools[1].function.parameters.type",
        ),
        (choice(json!("any")), "tool_choice"),
        (choice(json!({"type": "function"})), "tool_choice.function"),
        (choice(function("b")), "tool_choice.function.name"),
        (
            choice(json!({"type": "allowed_tools", "allowed_tools": {}})),
            "tool_choice.type",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tool_choice": function("a")}), "tool_choice"),
    ]);
}

#[test]
fn the_older_names_of_tools_are_understood() {
    let functions = json!([{"name": "clock"}]);
    for (call, expected) in [
        (json!(null), ToolChoice::Auto),
        (json!("none"), ToolChoice::None),
        (json!("auto"), ToolChoice::Auto),
        (json!({"name": "clock"}), ToolChoice::Named("clock".into())),
    ] {
        let tools = chat(json!({"functions": functions, "function_call": call})).tools;
        assert_eq!(tools.choice, expected);
        // One call in an answer is all that an older client knows.
        assert!(!tools.parallel);
        assert_eq!(tools.functions.len(), 1);
    }
    refused(vec![
        (
            json!({"functions": functions, "tools": [function("a")]}),
            "functions",
        ),
        (json!({"functions": [{"name": "a b"}]}), "functions[0].name"),
        (
            json!({"functions": functions, "function_call": "always"}),
            "function_call",
        ),
        (
            json!({"functions": functions, "function_call": {"name": "x"}}),
            "function_call.name",
        ),
        (json!({"function_call": {"name": "x"}}), "function_call"),
    ]);
}

fn call(id: &str) -> Value {
    json!({"id": id, "type": "function", "function": {"name": "clock", "arguments": "{}"}})
}

fn calls(ids: &[&str]) -> Value {
    let calls: Vec<_> = ids.iter().map(|id| call(id)).collect();
    json!({"role": "assistant", "content": null, "tool_calls": calls})
}

fn tool(id: &str) -> Value {
    json!({"role": "tool", "tool_call_id": id, "content": "12:00"})
}

fn user() -> Value {
    json!({"role": "user", "content": "Hi"})
}

#[test]
fn calls_and_their_answers_arrive() {
    let messages = json!([
        user(),
        calls(&["a", "b"]),
        tool("b"),
        tool("a"),
        calls(&["a"]),
        tool("a"),
        user(),
    ]);
    let turns = chat(json!({"messages": messages})).messages;
    assert_eq!(turns[1].role, Role::Assistant);
    assert_eq!(turns[1].content, "");
    let expected = ToolCall {
        id: "a".into(),
        name: "clock".into(),
        arguments: "{}".into(),
    };
    assert_eq!(turns[1].calls[0], expected);
    assert_eq!(turns[2].role, Role::Tool);
    assert_eq!(turns[2].call_id.as_deref(), Some("b"));
    assert_eq!(turns[2].content, "12:00");
}

#[test]
fn the_older_form_of_calls_is_understood() {
    let older = json!({"role": "assistant", "content": null,
        "function_call": {"name": "clock", "arguments": "{}"}});
    let answer = json!({"role": "function", "name": "clock", "content": "12:00"});
    let turns = chat(json!({"messages": [user(), older, answer, older, user(), answer]})).messages;
    assert_eq!(turns[1].calls[0].name, "clock");
    assert_eq!(turns[2].role, Role::Tool);
    assert_eq!(turns[2].name.as_deref(), Some("clock"));
    assert_eq!(turns[2].call_id.as_ref(), Some(&turns[1].calls[0].id));
    // The older form doesn't have to be answered, and its answer may stand anywhere.
    assert_eq!(turns[5].call_id, None);
}

#[test]
fn an_assistants_turn_may_be_empty() {
    for turn in [
        json!({"role": "assistant"}),
        json!({"role": "assistant", "content": null}),
        json!({"role": "assistant", "content": ""}),
    ] {
        let user = json!({"role": "user", "content": "Hi"});
        let request = good(json!({"messages": [user, turn, user]}));
        let Prompt::Chat(chat) = &request.prompts[0] else {
            panic!("no chat");
        };
        assert_eq!(chat.messages[1].content, "");
    }
}

#[test]
fn conversations_that_make_no_sense_are_named() {
    let messages = |messages: Value| json!({"messages": messages});
    let id_less = json!({"role": "tool", "content": "12:00"});
    let both = json!({"role": "assistant", "tool_calls": [call("a")],
        "function_call": {"name": "f", "arguments": ""}});
    refused(vec![
        (messages(json!([])), "messages"),
        (messages(json!([user(), tool("a")])), "messages[1].role"),
        (
            messages(json!([calls(&["a"]), tool("a"), user(), tool("a")])),
            "messages[3].role",
        ),
        (
            messages(json!([calls(&["a"]), tool("b")])),
            "messages[1].tool_call_id",
        ),
        (
            messages(json!([calls(&["a"]), id_less])),
            "messages[1].tool_call_id",
        ),
        (
            messages(json!([calls(&["a"]), tool("a"), tool("a")])),
            "messages[2].tool_call_id",
        ),
        (
            messages(json!([user(), calls(&["a", "b"]), tool("a"), user()])),
            "messages[1].tool_calls[1].id",
        ),
        (
            messages(json!([user(), calls(&["a"])])),
            "messages[1].tool_calls[0].id",
        ),
        (
            messages(json!([calls(&["a", "a"]), tool("a")])),
            "messages[0].tool_calls[1].id",
        ),
        (messages(json!([both])), "messages[0].function_call"),
        (
            messages(json!([{"role": "user", "content": "x", "tool_calls": [call("a")]}])),
            "messages[0].tool_calls",
        ),
        (
            messages(json!([{"role": "assistant", "tool_calls": [{"id": "a", "type": "custom"}]}])),
            "messages[0].tool_calls[0].type",
        ),
        (
            messages(
                json!([{"role": "assistant", "tool_calls": [{"id": "a", "type": "function"}]}]),
            ),
            "messages[0].tool_calls[0].function",
        ),
        (messages(json!([{"role": "user"}])), "messages[0].content"),
        (
            messages(json!([{"role": "function", "content": "x"}])),
            "messages[0].name",
        ),
        (
            messages(json!([{"role": "alien", "content": "x"}])),
            "messages[0].role",
        ),
    ]);
}

#[test]
fn an_answer_goes_on_from_a_turn_that_is_a_text_and_bound_to_nothing() {
    let turns = |last: Value| json!([{"role": "user", "content": "x"}, last]);
    let said = turns(json!({"role": "assistant", "content": "One,"}));
    let goes_on = |messages: &Value| json!({"messages": messages, "continue_final_message": true, "echo": true});
    let request = good(goes_on(&said));
    assert!(request.echo);
    let told = chat(goes_on(&said));
    assert_eq!(
        (told.opening.as_deref(), told.messages.len()),
        (Some("One,"), 1)
    );
    assert!(
        !good(json!({"echo": true})).echo,
        "there is nothing to repeat"
    );
    let with = |name: &str, value: Value| {
        let mut fields = goes_on(&said);
        fields[name] = value;
        fields
    };
    let called = json!({"role": "assistant", "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
    ]});
    let mut forced = with("tools", json!([function("clock")]));
    forced["tool_choice"] = "required".into();
    refused(vec![
        (
            goes_on(&turns(json!({"role": "user", "content": "y"}))),
            "messages",
        ),
        (goes_on(&turns(called)), "messages"),
        (
            with("response_format", json!({"type": "json_object"})),
            "continue_final_message",
        ),
        (forced, "continue_final_message"),
    ]);
}

#[test]
fn an_answer_that_is_bound_to_a_form_has_no_thoughts_before_it() {
    let tools = json!([function("clock")]);
    let schema = json!({"name": "s", "schema": {"type": "object"}});
    for (fields, thinking) in [
        (json!({}), Thinking::Free),
        (
            json!({"reasoning_effort": "low"}),
            Thinking::Effort("low".into()),
        ),
        (json!({"reasoning_effort": "none"}), Thinking::Off),
        (json!({"tools": tools}), Thinking::Free),
        (
            json!({"tools": tools, "tool_choice": "required"}),
            Thinking::Off,
        ),
        (
            json!({"tools": tools, "tool_choice": function("clock")}),
            Thinking::Off,
        ),
        (json!({"response_format": {"type": "text"}}), Thinking::Free),
        (
            json!({"response_format": {"type": "json_object"}, "reasoning_effort": "high"}),
            Thinking::Off,
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": schema}}),
            Thinking::Off,
        ),
    ] {
        assert_eq!(chat(fields.clone()).thinking, thinking, "{fields}");
    }
}
