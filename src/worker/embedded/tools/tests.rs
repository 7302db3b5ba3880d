use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::ApproximateTokEnv;
use llguidance::{Matcher, ParserFactory};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::parser::Parsed;
use super::*;
use crate::types::{CallDelta, Failure, Function, ToolCall, ToolChoice, ToolFormat, Tools};

const FORMATS: [ToolFormat; 3] = [ToolFormat::Hermes, ToolFormat::Llama3, ToolFormat::Mistral];

fn function(name: &str, parameters: Value) -> Function {
    let Value::Object(parameters) = parameters else {
        panic!("a schema is an object");
    };
    Function {
        name: name.into(),
        description: None,
        parameters,
        strict: false,
    }
}

fn tools(choice: ToolChoice, parallel: bool) -> Tools {
    let place = json!({
        "type": "object",
        "properties": {"place": {"type": "string"}},
        "required": ["place"],
        "additionalProperties": false,
    });
    Tools {
        functions: vec![function("tide", place), function("tide_table", json!({}))],
        choice,
        parallel,
    }
}

fn auto() -> Tools {
    tools(ToolChoice::Auto, true)
}

/// Text and calls (name and arguments) of an answer that comes in these pieces.
fn parse(parser: &mut CallParser, pieces: &[&str]) -> (String, Vec<(String, String)>) {
    let mut text = String::new();
    let mut calls: Vec<(String, String)> = Vec::new();
    let mut take = |parsed: Parsed| {
        text.push_str(&parsed.text);
        for CallDelta {
            index,
            opens,
            arguments,
        } in parsed.calls
        {
            if let Some((id, name)) = opens {
                assert_eq!(index as usize, calls.len());
                assert!(id.starts_with("call_") && id.len() == 29, "{id}");
                calls.push((name, String::new()));
            }
            assert_eq!(index as usize, calls.len() - 1);
            calls[index as usize].1.push_str(&arguments);
        }
    };
    for piece in pieces {
        take(parser.push(piece));
    }
    take(parser.finish());
    assert_eq!(parser.has_called(), !calls.is_empty());
    (text, calls)
}

fn whole(format: ToolFormat, text: &str) -> (String, Vec<(String, String)>) {
    parse(&mut CallParser::new(format, false, &auto()), &[text])
}

fn call(name: &str, arguments: &str) -> (String, String) {
    (name.into(), arguments.into())
}

#[test]
fn each_form_is_read_with_the_text_before_it() {
    let expected = vec![
        call("tide", r#"{"place": "Brest \"}\" {"}"#),
        call("tide_table", "{}"),
    ];
    let first = r#"{"place": "Brest \"}\" {"}"#;
    let hermes = format!(
        "Let me see.<tool_call>\n{{\"name\": \"tide\", \"arguments\": {first}}}\n</tool_call>\n<tool_call>\n{{\"name\": \"tide_table\", \"arguments\": {{}}}}\n</tool_call>\n"
    );
    let both = (String::from("Let me see."), expected.clone());
    assert_eq!(whole(ToolFormat::Hermes, &hermes), both);
    let list = format!(
        r#"Let me see.[TOOL_CALLS] [{{"name": "tide", "arguments": {first}}}, {{"name": "tide_table", "arguments": {{}}}}]"#
    );
    assert_eq!(whole(ToolFormat::Mistral, &list), both);
    let newer = format!(
        "Let me see.[TOOL_CALLS]tide[ARGS]{first}[TOOL_CALLS]tide_table[CALL_ID]abc123def[ARGS]{{}}"
    );
    assert_eq!(whole(ToolFormat::Mistral, &newer), both);
    let bare = format!(
        r#" {{"name": "tide", "parameters": {first}}}; {{"type": "function", "name": "tide_table", "parameters": {{}}}}"#
    );
    assert_eq!(
        whole(ToolFormat::Llama3, &bare),
        (String::new(), expected.clone())
    );
    let tagged = format!("<|python_tag|>{}", bare.trim_start());
    assert_eq!(
        whole(ToolFormat::Llama3, &tagged),
        (String::new(), expected)
    );
}

#[test]
fn text_passes_at_once_and_arguments_as_they_come() {
    let mut parser = CallParser::new(ToolFormat::Hermes, false, &auto());
    assert_eq!(parser.push("a < b <tool").text, "a < b ");
    assert_eq!(parser.push("box").text, "<toolbox");
    assert_eq!(parser.push("<tool_call>{\"name\": \"ti"), Parsed::default());
    let opened = parser.push("de\", \"arguments\": {\"pla").calls;
    assert_eq!(opened[0].arguments, "{\"pla");
    assert_eq!(opened[0].opens.as_ref().unwrap().1, "tide");
    let more = parser.push("ce\": 1").calls;
    let expected = CallDelta {
        index: 0,
        opens: None,
        arguments: "ce\": 1".into(),
    };
    assert_eq!(more, [expected]);
}

#[test]
fn what_is_no_call_comes_back_as_text() {
    let hermes = [
        "<tool_call>\nnot json\n</tool_call>",
        "<tool_call>{\"name\": \"unheard_of\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"tide\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"arguments\": {\"a\": 1}}</tool_call>",
        "<tool_call>{\"name\": \"tid",
        "<tool_",
        "<tool_call><tool_call",
    ];
    let llama = [
        "{\"name\": \"Ada\", \"age\": 36}",
        "{\"a\": {}}",
        "{",
        " <|python_tag|>print(1)",
    ];
    let mistral = [
        "[TOOL_CALLS] [1]",
        "[TOOL_CALLS]unheard_of[ARGS]{}",
        "[TOOL_CALLS]tide[B]{}",
    ];
    let all = (hermes.iter().map(|text| (ToolFormat::Hermes, text)))
        .chain(llama.iter().map(|text| (ToolFormat::Llama3, text)))
        .chain(mistral.iter().map(|text| (ToolFormat::Mistral, text)));
    for (format, text) in all {
        assert_eq!(whole(format, text), ((*text).to_owned(), Vec::new()));
    }
}

#[test]
fn a_call_behind_a_false_one_is_found() {
    let text = "<tool_call><tool_call>{\"name\": \"tide\", \"arguments\": {}}</tool_call> done";
    let found = ("<tool_call> done".to_owned(), vec![call("tide", "{}")]);
    assert_eq!(whole(ToolFormat::Hermes, text), found);
}

#[test]
fn keys_come_in_any_order_and_arguments_as_a_string_or_not_at_all() {
    let one = |body: &str| {
        whole(
            ToolFormat::Hermes,
            &format!("<tool_call>{body}</tool_call>"),
        )
    };
    let only = |arguments: &str| (String::new(), vec![call("tide", arguments)]);
    assert_eq!(
        one(r#"{"arguments": {"a": [1, "]"]}, "name": "tide"}"#),
        only(r#"{"a": [1, "]"]}"#)
    );
    assert_eq!(
        one(r#"{"name": "tide", "arguments": " {\"a\": \"\\u00e9 \ud83e\udd80\"}"}"#),
        only(r#"{"a": "\u00e9 🦀"}"#)
    );
    assert_eq!(
        one(r#"{"arguments": "{\"a\": 1}", "id": "x", "name": "tide"}"#),
        only(r#"{"a": 1}"#)
    );
    assert_eq!(one(r#"{"name": "tide"}"#), only("{}"));
    assert_eq!(one(r#"{"name": "tide", "arguments": ""}"#), only("{}"));
    assert_eq!(
        one(r#"{"id": 7, "name": "tide", "arguments": {}, "x": [true], "y": null}"#),
        only("{}")
    );
}

#[test]
fn an_answer_that_may_hold_one_call_ends_with_it() {
    let text = r#"{"name": "tide", "parameters": {}}; {"name": "tide", "parameters": {}} and on"#;
    let mut parser = CallParser::new(ToolFormat::Llama3, false, &tools(ToolChoice::Auto, false));
    let parsed = parser.push(text);
    assert!(parsed.done && parsed.text.is_empty());
    assert_eq!(parsed.calls.len(), 1);
    assert_eq!(parser.finish().text, "");
}

#[test]
fn a_template_tells_the_form() {
    assert_eq!(
        ToolFormat::of_template("x <tool_call> y"),
        ToolFormat::Hermes
    );
    assert_eq!(ToolFormat::of_template("[TOOL_CALLS]"), ToolFormat::Mistral);
    assert_eq!(
        ToolFormat::of_template("<|python_tag|>"),
        ToolFormat::Llama3
    );
    assert_eq!(
        ToolFormat::of_template("{{ messages }}"),
        ToolFormat::Hermes
    );
}

#[test]
fn a_forms_own_control_tokens_are_shown_and_no_others() {
    let markers = ["<tool_call>", "<|python_tag|>", "[TOOL_CALLS]"];
    for (format, marker) in FORMATS.iter().zip(markers) {
        assert!(
            markers
                .iter()
                .all(|other| format.spells(other) == (*other == marker))
        );
        assert!(!format.spells("<|im_end|>"));
    }
}

fn matcher(grammar: String) -> Matcher {
    let factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env()).unwrap();
    Matcher::new(factory.create_parser(TopLevelGrammar::from_lark(grammar)))
}

/// Whether a grammar takes the whole of a text and lets it end there.
fn accepts(grammar: &str, text: &str) -> bool {
    let mut matcher = matcher(grammar.to_owned());
    let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
    let taken = matcher.try_consume_tokens(&tokens).unwrap();
    taken == tokens.len() && matcher.is_accepting().unwrap()
}

#[test]
fn a_forced_answer_is_one_that_the_parser_reads() {
    let calls = [
        ("tide", r#"{"place": "Saint-Malo"}"#),
        ("tide_table", r#"{"days": 2}"#),
    ];
    let calls = calls.map(|(name, arguments)| ToolCall {
        id: String::new(),
        name: name.into(),
        arguments: arguments.into(),
    });
    for format in FORMATS {
        let many = tools(ToolChoice::Required, true);
        let single = tools(ToolChoice::Required, false);
        let named = tools(ToolChoice::Named("tide".into()), true);
        let grammar = |tools| format.grammar(tools).unwrap().unwrap();
        let written = |calls| format.write(calls).replace("[TOOL_CALLS] ", "");
        let (one, other, both) = (written(&calls[..1]), written(&calls[1..]), written(&calls));
        assert!(accepts(&grammar(&many), &both), "{format:?}: {both}");
        assert!(accepts(&grammar(&many), &one));
        assert!(accepts(&grammar(&single), &other));
        assert!(!accepts(&grammar(&single), &both));
        assert!(accepts(&grammar(&named), &one));
        assert!(!accepts(&grammar(&named), &other));
        assert!(!accepts(&grammar(&many), "Hello"));
        assert!(!accepts(
            &grammar(&named),
            &one.replace("Saint-Malo\"", "x\", \"y\": 1")
        ));
        let read = parse(&mut CallParser::new(format, true, &many), &[&both]);
        let expected = calls
            .iter()
            .map(|call| (call.name.clone(), call.arguments.clone()));
        assert_eq!(read, (String::new(), expected.collect()));
    }
}

#[test]
fn only_a_forced_call_has_a_grammar_and_only_of_a_function_that_is_there() {
    for format in FORMATS {
        assert_eq!(format.grammar(&auto()).unwrap(), None);
        assert_eq!(
            format.grammar(&tools(ToolChoice::None, true)).unwrap(),
            None
        );
        let missing = format.grammar(&tools(ToolChoice::Named("x".into()), true));
        let Err(Failure::Invalid { param, .. }) = missing else {
            panic!("{missing:?}");
        };
        assert_eq!(param.unwrap(), "tool_choice");
    }
}

/// With `tide` strict.
fn strict(parallel: bool) -> Tools {
    let mut tools = tools(ToolChoice::Auto, parallel);
    tools.functions[0].strict = true;
    tools
}

#[test]
fn a_model_that_is_free_to_call_says_anything_and_calls_strictly() {
    let good = r#"{"name": "tide", "arguments": {"place": "Saint-Malo"}}"#;
    let loose = r#"{"name": "tide_table", "arguments": {"days": [2]}}"#;
    let bad = r#"{"name": "tide", "arguments": {"place": 3}}"#;
    let other = r#"{"name": "moon", "arguments": {}}"#;
    let hermes = |body: &str| format!("<tool_call>\n{body}\n</tool_call>");
    let grammar = ToolFormat::Hermes.grammar(&strict(true)).unwrap().unwrap();
    let mixed = format!(
        "I look it up. {} And: <b>{}</b> {{\"a\": 1}}",
        hermes(good),
        hermes(loose)
    );
    for text in ["", "Hello.\n<tool", good, bad, &hermes(good), &mixed] {
        assert!(accepts(&grammar, text), "{text}");
    }
    for text in [bad, other, "", "x"] {
        assert!(!accepts(&grammar, &hermes(text)), "{text}");
        assert!(!accepts(&grammar, &format!("Yes. {}", hermes(text))));
    }
    // The end of a call is not left out.
    assert!(!accepts(&grammar, &format!("<tool_call>{good}")));
    let single = ToolFormat::Hermes.grammar(&strict(false)).unwrap().unwrap();
    assert!(accepts(&single, &hermes(good)) && accepts(&single, "Hello"));
    assert!(!accepts(&single, &hermes(bad)));
    let read = parse(
        &mut CallParser::new(ToolFormat::Hermes, false, &strict(true)),
        &[&mixed],
    );
    assert_eq!(read.1.len(), 2);
    // Theirs can't be told from text before it is too late.
    for format in [ToolFormat::Llama3, ToolFormat::Mistral] {
        assert_eq!(format.grammar(&strict(true)).unwrap(), None);
    }
}

#[test]
fn a_schema_that_no_grammar_can_be_made_of_is_named() {
    let mut tools = tools(ToolChoice::Required, true);
    tools.functions[1].parameters = Map::from_iter([("type".to_owned(), json!("no type"))]);
    let refused = ToolFormat::Hermes.grammar(&tools);
    let Err(Failure::Invalid { param, message }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(param.unwrap(), "tools[1].function.parameters");
    assert!(message.contains("/type"), "{message}");
}

#[test]
fn a_grammar_that_can_not_be_used_is_blamed_on_the_tools() {
    let Failure::Invalid { param, message } = blame(&tools(ToolChoice::Required, true), "why")
    else {
        panic!("a refusal");
    };
    assert_eq!(param.unwrap(), "tools");
    assert!(message.ends_with("why"), "{message}");
}

fn cut<'a>(text: &'a str, cuts: &[usize]) -> Vec<&'a str> {
    let mut cuts: Vec<_> = cuts
        .iter()
        .map(|cut| text.floor_char_boundary(cut % (text.len() + 1)))
        .collect();
    cuts.sort_unstable();
    let mut pieces = Vec::new();
    let mut start = 0;
    for end in cuts.into_iter().chain([text.len()]) {
        pieces.push(&text[start..end]);
        start = end;
    }
    pieces
}

/// Text made of what calls are made of, and of what breaks them.
fn scraps() -> impl Strategy<Value = String> {
    const SCRAPS: &[&str] = &[
        "<tool_call>",
        "</tool_call>",
        "<tool_",
        "<|python_tag|>",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[CALL_ID]",
        "{",
        "}",
        "[",
        "]",
        ",",
        ";",
        ":",
        "\"",
        "\\",
        "\\u",
        "d83e",
        " ",
        "\n",
        "tide",
        "\"name\": \"tide\"",
        "{\"name\": \"tide\", \"arguments\": {",
        "\"arguments\": ",
        "\"parameters\": {\"a\": \"",
        "\"id\": 1",
        "é🦀",
        "x",
    ];
    proptest::collection::vec(proptest::sample::select(SCRAPS), 0..24)
        .prop_map(|scraps| scraps.concat())
}

proptest! {
    #[test]
    fn however_it_is_cut_an_answer_is_the_same(
        text in scraps(),
        cuts in proptest::collection::vec(0_usize..400, 0..12),
        forced: bool,
        parallel: bool,
    ) {
        for format in FORMATS {
            let tools = tools(ToolChoice::Auto, parallel);
            let parser = || CallParser::new(format, forced, &tools);
            let whole = parse(&mut parser(), &[&text]);
            prop_assert_eq!(parse(&mut parser(), &cut(&text, &cuts)), whole);
        }
    }

    #[test]
    fn nothing_is_lost_of_an_answer_without_calls(text in scraps(), other in ".*", forced: bool) {
        for format in FORMATS {
            for text in [&text, &other] {
                let mut parser = CallParser::new(format, forced, &auto());
                let (shown, calls) = parse(&mut parser, &[text]);
                if calls.is_empty() {
                    prop_assert_eq!(&shown, text);
                }
            }
        }
    }

    #[test]
    fn any_call_is_read_as_it_was_written(
        place in ".*",
        key in "[a-z\"\\\\é{}]*",
        text in "[a-z .,<\\[]*",
        cuts in proptest::collection::vec(0_usize..400, 0..12),
    ) {
        let arguments = super::super::prompt::to_json(&json!({"place": place, "more": [{key: 1.5}]}));
        let calls = ["tide", "tide_table"].map(|name| ToolCall {
            id: String::new(),
            name: name.into(),
            arguments: arguments.clone(),
        });
        for format in FORMATS {
            let text = if format == ToolFormat::Llama3 { "" } else { &text };
            let answer = format!("{text}{}", format.write(&calls));
            let read = parse(&mut CallParser::new(format, false, &auto()), &cut(&answer, &cuts));
            let expected = calls.iter().map(|call| (call.name.clone(), call.arguments.clone()));
            prop_assert_eq!(read, (text.to_owned(), expected.collect()));
        }
    }
}
