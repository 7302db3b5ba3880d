use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::*;

const END: u32 = 300;
const OTHER_END: u32 = 301;
const CONTROL: u32 = 302;
const LONGEST: usize = 600;

/// All bytes, some longer tokens, two ends and a control token.
fn grammars() -> Grammars {
    let mut tokens: Vec<Vec<u8>> = (0..=255_u8).map(|byte| vec![byte]).collect();
    let longer = [
        "{\"", "\":", "\": \"", "\", \"", "\"}", "\"]", "}}", "[]", "true", "null", "the", " a",
        ", ", ",\"", "12", "0.5", "é", "\n  ", "\\\"", "\\u0061", "name", "kind", "2024-", "://",
        "e9", "ü\"",
    ];
    tokens.extend(longer.iter().map(|text| text.as_bytes().to_vec()));
    tokens.resize(303, Vec::new());
    Grammars::new(tokens, &[END, OTHER_END]).unwrap()
}

fn text(token: u32) -> Vec<u8> {
    thread_local!(static ALL: Grammars = grammars());
    ALL.with(|all| all.factory.tok_env().tok_trie().token(token).to_vec())
}

fn allowed(constraint: &mut Constraint) -> Vec<u32> {
    let mut logits = vec![0.0; 320];
    constraint.mask(&mut logits).unwrap();
    (0..320)
        .filter(|token| logits[*token as usize] == 0.0)
        .collect()
}

/// A walk over tokens that may come: ends when it can, and takes what closes rather than what opens. `None` where
/// it got too long.
fn walk(mut constraint: Constraint, random: &mut StdRng) -> Result<Option<String>, String> {
    let mut answer = Vec::new();
    for step in 0..LONGEST {
        let mut logits = vec![0.0; 320];
        constraint.mask(&mut logits)?;
        let all: Vec<u32> = (0..320)
            .filter(|token| logits[*token as usize] == 0.0)
            .collect();
        let ends = all.contains(&END);
        assert_eq!(ends, all.contains(&OTHER_END));
        assert_eq!(ends, constraint.accepting()?);
        assert!(!all.contains(&CONTROL) && all.iter().all(|token| *token <= OTHER_END));
        if ends && random.random_bool(0.3) {
            return Ok(Some(
                String::from_utf8(answer).map_err(|error| error.to_string())?,
            ));
        }
        let all: Vec<u32> = all.into_iter().filter(|token| *token < END).collect();
        if all.is_empty() {
            return Ok(Some(
                String::from_utf8(answer).map_err(|error| error.to_string())?,
            ));
        }
        let closing: Vec<u32> = all
            .iter()
            .copied()
            .filter(|token| {
                let text = text(*token);
                text.iter().all(|byte| b"\"}]:,".contains(byte))
            })
            .collect();
        let eager = 0.15 + step as f64 / LONGEST as f64;
        let from = if !closing.is_empty() && random.random_bool(eager.min(0.95)) {
            &closing
        } else {
            &all
        };
        let token = from[random.random_range(0..from.len())];
        answer.extend(text(token));
        constraint.accept(token)?;
        if constraint.is_finished() {
            return Ok(Some(
                String::from_utf8(answer).map_err(|error| error.to_string())?,
            ));
        }
    }
    Ok(None)
}

/// Every finished answer of many is valid.
fn faults(grammars: &Grammars, schema: &Value, seed: u64) -> Vec<String> {
    let constraint = match grammars.compile(&Grammar::JsonSchema(schema.clone()), "response_format")
    {
        Ok(constraint) => constraint,
        Err(failure) => return vec![format!("{schema}: {failure}")],
    };
    let options = jsonschema::options();
    let validator = options.should_validate_formats(true).build(schema).unwrap();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut faults, mut finished) = (Vec::new(), 0);
    for _ in 0..60 {
        match walk(constraint.fresh(), &mut random) {
            Ok(None) => {}
            Ok(Some(answer)) => {
                finished += 1;
                match serde_json::from_str::<Value>(&answer) {
                    Ok(value) if validator.is_valid(&value) => {}
                    Ok(_) => faults.push(format!("{schema}: invalid: {answer}")),
                    Err(error) => faults.push(format!("{schema}: {error}: {answer}")),
                }
            }
            Err(error) => faults.push(format!("{schema}: {error}")),
        }
    }
    if finished < 15 {
        faults.push(format!("{schema}: only {finished} answers came to an end"));
    }
    faults
}

fn no_faults(schemas: &[Value]) {
    let grammars = grammars();
    let faults: Vec<String> = schemas
        .iter()
        .enumerate()
        .flat_map(|(index, schema)| {
            let mut faults = faults(&grammars, schema, index as u64);
            faults.truncate(3);
            faults
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn refusal(schema: &Value) -> String {
    match grammars().compile(&Grammar::JsonSchema(schema.clone()), "response_format") {
        Err(Failure::Invalid { param, message }) => {
            assert_eq!(param.as_deref(), Some("response_format"));
            message
        }
        Err(failure) => panic!("{failure}"),
        Ok(_) => panic!("it was taken: {schema}"),
    }
}

/// As the OpenAI SDK makes it of pydantic classes.
fn strict() -> Value {
    json!({
        "$defs": {
            "Kind": {"enum": ["cat", "dog", "other\n\"one\""], "title": "Kind", "type": "string"},
            "Owner": {
                "properties": {
                    "name": {"title": "Name", "type": "string", "maxLength": 5},
                    "email": {"anyOf": [{"format": "email", "type": "string"}, {"type": "null"}], "title": "Email"},
                    "friends": {"items": {"$ref": "#/$defs/Owner"}, "type": "array", "maxItems": 2},
                },
                "required": ["name", "email", "friends"], "title": "Owner", "type": "object",
                "additionalProperties": false,
            },
        },
        "properties": {
            "kind": {"$ref": "#/$defs/Kind"},
            "version": {"const": 2, "title": "Version", "type": "integer"},
            "owner": {"anyOf": [{"$ref": "#/$defs/Owner"}, {"type": "null"}]},
            "age": {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 31},
            "id": {"type": "string", "format": "uuid"},
        },
        "required": ["kind", "version", "owner", "age", "id"], "title": "Pet", "type": "object",
        "additionalProperties": false,
    })
}

#[test]
fn finished_answers_to_composed_schemas_are_valid() {
    no_faults(&[
        strict(),
        json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}}),
        json!({"type": "object", "properties": {"ab": {"type": "integer"}}, "additionalProperties": {"type": "boolean"}}),
        json!({"type": "object", "required": ["x", "y"], "properties": {"x": {"type": "null"}}, "additionalProperties": {"type": "integer"}}),
        json!({"type": "object", "patternProperties": {"^a.*z$": {"type": "integer"}}, "properties": {"az": {"minimum": 3, "type": "integer"}}, "additionalProperties": false}),
        json!({"type": "object", "properties": {"a": {}, "b": {}}, "additionalProperties": false, "minProperties": 1}),
        json!({"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 2}),
        json!({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4}),
        json!({"type": "array", "items": {"type": "array", "items": {"enum": [1, "a", null, 2.5]}, "minItems": 2}, "maxItems": 3}),
        json!({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]}),
        json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}),
        json!({"oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}], "$defs": {
            "A": {"type": "object", "properties": {"kind": {"const": "a"}, "v": {"type": "integer"}}, "required": ["kind", "v"], "additionalProperties": false},
            "B": {"type": "object", "properties": {"kind": {"const": "b", "type": "string"}, "w": {"type": "boolean"}}, "required": ["kind"], "additionalProperties": false},
        }}),
        json!({"enum": [{"a": [1, 2]}, "x/y", -7, 1.5, true, null]}),
        json!({"const": {"k": ["ü", "\\", 0]}}),
        json!({"$ref": "#/definitions/a~1b%20c", "definitions": {"a/b c": {"type": ["boolean", "null"]}}}),
        json!({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "v": {"type": "boolean"}}, "required": ["next", "v"], "additionalProperties": false}),
        json!({"minLength": 2, "maxItems": 1, "minimum": 3, "maxProperties": 1}),
        json!({"type": "string", "enum": ["abc", "b", "cc"], "maxLength": 2}),
    ]);
}

#[test]
fn finished_answers_to_schemas_of_numbers_are_valid() {
    no_faults(&[
        json!({"type": "integer"}),
        json!({"type": "number"}),
        json!({"type": "integer", "minimum": -5, "maximum": 120}),
        json!({"type": "integer", "exclusiveMinimum": 0, "multipleOf": 7}),
        json!({"type": "integer", "minimum": 1000, "maximum": 100000, "multipleOf": 250}),
        json!({"type": "number", "minimum": 0, "maximum": 1}),
        json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        json!({"type": "number", "exclusiveMinimum": -1.5, "maximum": 2.25}),
        json!({"type": "number", "minimum": -10.75, "exclusiveMaximum": -2.5}),
        json!({"type": "number", "exclusiveMaximum": 0}),
        json!({"type": "number", "exclusiveMinimum": 99.9}),
        json!({"type": "number", "multipleOf": 0.01, "minimum": 0}),
        json!({"type": "number", "multipleOf": 2.5}),
        json!({"type": "integer", "minimum": -1e300, "maximum": 3.7}),
        json!({"type": ["integer", "string"], "exclusiveMinimum": 2.5, "maxLength": 1}),
        json!({"enum": [0.1, 1e3, -0.5, 3]}),
    ]);
}

#[test]
fn finished_answers_to_schemas_of_strings_are_valid() {
    let mut schemas = vec![
        json!({"type": "string", "minLength": 2, "maxLength": 4}),
        json!({"type": "string", "pattern": "^[A-Z]{2}-\\d+$"}),
        json!({"type": "string", "pattern": "ab|cd", "maxLength": 6}),
        json!({"type": "string", "pattern": "^a|b$", "maxLength": 6}),
        json!({"type": "string", "pattern": "(^x|y)z", "maxLength": 6}),
        json!({"type": "string", "pattern": "^.\\s\\S\\w\\W$"}),
        json!({"type": "string", "pattern": "^[^\"\\\\/]+\\/[\\w.-]*$", "maxLength": 8}),
        json!({"type": "string", "format": "date", "pattern": "^2024-02"}),
        json!({"type": "array", "items": {"type": "string", "pattern": "^(a|b)?$"}, "maxItems": 3}),
        json!({"type": "string", "pattern": "^[^\"]+$", "maxLength": 5}),
        json!({"type": "string", "pattern": "^[^\\\\]{2}[^\n\"x]$"}),
        json!({"type": "string", "pattern": "^[^\\s\"]+[\\S][^\\S]$", "maxLength": 5}),
        json!({"type": "string", "pattern": "^\\P{L}[\\x00-!]\\p{Lu}$"}),
        json!({"type": "string", "pattern": "^([^\"]|\\W)a$"}),
    ];
    schemas.extend(
        formats::NAMES
            .split(", ")
            .map(|name| json!({"type": "string", "format": name})),
    );
    no_faults(&schemas);
}

#[test]
fn schemas_that_allow_anything_give_json() {
    no_faults(&[
        json!(true),
        json!({}),
        json!({"title": "any", "unheard-of": 1}),
        json!({"type": "array"}),
        json!({"type": "object", "required": ["a"]}),
        json!({"type": "string", "format": "uuid", "x-guidance": {"lenient": true}}),
        json!({"allOf": [{"type": "array", "items": {"type": "string"}}, {"maxItems": 2}]}),
    ]);
}

fn refused_at(cases: &[(&str, Value)]) {
    let mut wrong = Vec::new();
    for (place, schema) in cases {
        let message = refusal(schema);
        if !message.contains(&format!("followed: {place}")) {
            wrong.push(format!("{schema}: {message}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_schema_that_cannot_be_followed_is_refused_by_its_place() {
    refused_at(&[
        (
            "/properties/a/type",
            json!({"properties": {"a": {"type": "strng"}}}),
        ),
        (
            "/properties/a",
            json!({"type": "object", "properties": {"a": 3}}),
        ),
        ("/properties", json!({"type": "object", "properties": []})),
        (
            "/properties/a~1b/not",
            json!({"type": "object", "properties": {"a/b": {"not": {}}}}),
        ),
        (
            "/items/uniqueItems",
            json!({"type": "array", "items": {"type": "array", "uniqueItems": true}}),
        ),
        ("/if", json!({"if": {}, "then": {}})),
        ("/format", json!({"type": "string", "format": "unknown"})),
        ("/pattern", json!({"type": "string", "pattern": "(?=a)b"})),
        ("/pattern", json!({"type": "string", "pattern": 5})),
        (
            "/items",
            json!({"type": "array", "items": {"type": "string", "pattern": "(a"}}),
        ),
        ("/maxItems", json!({"type": "array", "maxItems": 1e9})),
        (
            "/maxLength",
            json!({"type": "string", "maxLength": 1_000_000_000}),
        ),
        ("/minimum", json!({"type": "integer", "minimum": "3"})),
        ("/multipleOf", json!({"type": "number", "multipleOf": 0})),
        ("/multipleOf", json!({"type": "number", "multipleOf": 1e-9})),
        ("/required", json!({"type": "object", "required": "a"})),
        (
            "/minProperties",
            json!({"type": "object", "minProperties": 2}),
        ),
    ]);
}

#[test]
fn a_schema_that_nothing_can_satisfy_is_refused_by_its_place() {
    refused_at(&[
        ("/$ref", json!({"$ref": "#/$defs/none"})),
        ("/$ref", json!({"$ref": "https://example.com/schema"})),
        ("/anyOf", json!({"anyOf": []})),
        ("/enum", json!({"enum": []})),
        ("/enum", json!({"type": "string", "enum": [1]})),
        ("/const", json!({"const": 12_345_678_901_234_567_890_u64})),
        ("/const", json!({"const": "\u{1}"})),
        (
            "/oneOf/1",
            json!({"oneOf": [{"type": "string", "maxLength": 3}, {"type": "string"}]}),
        ),
        (
            "/properties/n ",
            json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 2}}}),
        ),
        (
            "/properties/n ",
            json!({"type": "object", "required": ["n"], "properties": {"n": {"type": "string", "minLength": 3, "maxLength": 2}}}),
        ),
        (
            "/ ",
            json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}),
        ),
        (
            "/$defs/a ",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}),
        ),
        ("/ ", json!(false)),
        ("/ ", json!("schema")),
    ]);
}

#[test]
fn a_schema_made_to_hurt_is_refused_or_bounded() {
    let mut nested = json!({"type": "string"});
    for _ in 0..100 {
        nested = json!({"type": "array", "items": nested});
    }
    assert!(refusal(&nested).contains("levels"));
    let long = json!({"enum": (0..200_000).collect::<Vec<_>>()});
    assert!(refusal(&long).contains("bytes"));
    let many: Vec<Value> = (0..6_000).map(|number| json!({"const": number})).collect();
    assert!(refusal(&json!({"anyOf": many})).contains("at most 5000"));
    let mut doubling = serde_json::Map::new();
    for level in 0..40 {
        let next =
            json!({"allOf": [{"$ref": format!("#/$defs/{}", level + 1)}, {"type": "object"}]});
        doubling.insert(
            level.to_string(),
            json!({"type": "object", "properties": {"x": next, "y": next}}),
        );
    }
    doubling.insert("40".to_owned(), json!({"type": "object"}));
    assert!(refusal(&json!({"$ref": "#/$defs/0", "$defs": doubling})).contains("too many parts"));
    let wide: Vec<Value> = (0..20)
        .map(|index| json!({"minimum": index, "type": "integer"}))
        .collect();
    let product = json!({"allOf": vec![json!({"anyOf": wide}); 20]});
    assert!(refusal(&product).contains("too many parts"));
}

#[test]
fn a_pattern_made_to_hurt_ends_at_the_bounds_of_the_automaton() {
    let schema =
        json!({"type": "string", "pattern": "^((((a{1,900}){1,900}){1,900}b){1,900})*c{1,999}$"});
    let made = grammars().compile(&Grammar::JsonSchema(schema), "response_format");
    let mut constraint = made.unwrap();
    constraint.accept(u32::from(b'"')).unwrap();
    for _ in 0..2_000 {
        match constraint.mask(&mut [0.0; 320]) {
            Ok(()) => constraint.accept(u32::from(b'a')).unwrap(),
            Err(error) => {
                assert_eq!(error, "the grammar's automaton grew past its bounds");
                return;
            }
        }
    }
    assert!(!allowed(&mut constraint).contains(&u32::from(b'"')));
}

#[test]
fn a_long_chain_of_references_is_no_danger_to_the_stack() {
    let mut chain = serde_json::Map::new();
    for level in 0..4_000 {
        chain.insert(
            level.to_string(),
            json!({"$ref": format!("#/$defs/{}", level + 1)}),
        );
    }
    chain.insert("4000".to_owned(), json!({"type": "boolean"}));
    let schema = json!({"$ref": "#/$defs/0", "$defs": chain});
    let made = grammars().compile(&Grammar::JsonSchema(schema), "response_format");
    let mut constraint = made.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(allowed(&mut constraint).contains(&u32::from(b't')));
}

#[test]
fn as_many_optional_properties_as_are_taken_can_be_written() {
    let schema = |count: usize| {
        let one = |index: usize| (format!("p{index}"), json!({"type": "string"}));
        json!({"type": "object", "properties": (0..count).map(one).collect::<serde_json::Map<_, _>>()})
    };
    let made = grammars().compile(&Grammar::JsonSchema(schema(400)), "response_format");
    let mut constraint = made.unwrap();
    take(&mut constraint, "{\"p399\": \"\"");
    assert!(allowed(&mut constraint).contains(&u32::from(b'}')));
    assert!(refusal(&schema(401)).contains("followed: /properties can have at most 400"));
}

#[test]
fn json_object_is_any_object_and_nothing_else() {
    let grammars = grammars();
    let constraint = grammars
        .compile(&Grammar::JsonObject, "response_format")
        .unwrap();
    let mut start = constraint.fresh();
    assert!(
        allowed(&mut start)
            .iter()
            .all(|token| text(*token)[0] == b'{')
    );
    let mut random = StdRng::seed_from_u64(7);
    let mut finished = 0;
    for _ in 0..100 {
        if let Some(answer) = walk(constraint.fresh(), &mut random).unwrap() {
            finished += 1;
            assert!(
                serde_json::from_str::<Value>(&answer).unwrap().is_object(),
                "{answer}"
            );
        }
    }
    assert!(finished > 20, "{finished}");
}

fn take(constraint: &mut Constraint, text: &str) {
    for byte in text.bytes() {
        assert!(!constraint.is_finished(), "before the end of {text}");
        constraint.accept(u32::from(byte)).unwrap();
    }
}

#[test]
fn an_end_token_is_for_a_complete_answer_alone() {
    let grammars = grammars();
    let mut constraint = grammars
        .compile(&Grammar::JsonSchema(strict()), "response_format")
        .unwrap();
    take(&mut constraint, "{\"kind\":\"cat\",\n  \"version\": 2");
    assert!(!allowed(&mut constraint).contains(&END));
    assert!(constraint.fresh().accept(END).is_err());
    assert!(constraint.accept(OTHER_END).is_err());
    let schema = json!({"type": "integer"});
    let mut number = grammars
        .compile(&Grammar::JsonSchema(schema), "response_format")
        .unwrap();
    take(&mut number, "12");
    assert!(!number.is_finished());
    let next = allowed(&mut number);
    assert!(next.contains(&END) && next.contains(&OTHER_END) && next.contains(&u32::from(b'3')));
    number.accept(OTHER_END).unwrap();
    assert!(number.is_finished());
    assert_eq!(allowed(&mut number), [END, OTHER_END]);
}

#[test]
fn a_token_that_may_not_come_fails_the_answer() {
    let grammars = grammars();
    let made = grammars
        .compile(&Grammar::JsonObject, "response_format")
        .unwrap();
    assert!(made.fresh().accept(CONTROL).is_err());
    assert!(made.fresh().accept(100_000).is_err());
    let mut wrong = made.fresh();
    assert!(wrong.accept(u32::from(b'[')).is_err());
    assert!(wrong.mask(&mut [0.0; 320]).is_err());
    assert!(!wrong.is_finished());
}

#[test]
fn a_fresh_constraint_starts_again() {
    let grammars = grammars();
    let mut first = grammars
        .compile(&Grammar::JsonObject, "response_format")
        .unwrap();
    let start = allowed(&mut first);
    take(&mut first, "{\"a\": [1]");
    assert_ne!(allowed(&mut first), start);
    let mut second = first.clone();
    assert_eq!(allowed(&mut second), start);
    take(&mut second, "{}");
    assert!(second.is_finished());
    take(&mut first, "}");
    assert!(first.is_finished());
}

#[test]
fn blanks_do_not_go_on_for_ever() {
    let grammars = grammars();
    let mut constraint = grammars
        .compile(&Grammar::JsonObject, "response_format")
        .unwrap();
    constraint.accept(u32::from(b'{')).unwrap();
    let mut blanks = 0;
    for blank in [b'\n', b' '] {
        while allowed(&mut constraint).contains(&u32::from(blank)) {
            constraint.accept(u32::from(blank)).unwrap();
            blanks += 1;
            assert!(blanks <= 40);
        }
    }
    assert!(blanks > 30);
    assert!(!allowed(&mut constraint).contains(&u32::from(b'\n')));
}

#[test]
fn a_grammar_of_our_own_holds_a_checked_schema() {
    let grammars = grammars();
    let schema = json!({"type": "object", "properties": {"x": {"$ref": "#/$defs/n"}}, "required": ["x"], "additionalProperties": false, "$defs": {"n": {"type": "integer"}}});
    let arguments = embedded(&schema, "tools").unwrap();
    let lark = format!("start: \"<call>\" arguments \"</call>\"\narguments: %json {arguments}\n");
    let mut constraint = grammars.compile(&Grammar::Lark(lark), "tools").unwrap();
    take(&mut constraint, "<call>{\"x\": -4}</call>");
    assert!(constraint.is_finished());
    assert!(embedded(&json!({"type": "thing"}), "tools").is_err());
    assert!(
        grammars
            .compile(&Grammar::Lark("start: nothing".to_owned()), "tools")
            .is_err()
    );
}

#[test]
fn tokens_of_the_same_text_are_all_allowed() {
    let mut tokens: Vec<Vec<u8>> = (0..=255_u8).map(|byte| vec![byte]).collect();
    tokens.extend([b"{".to_vec(), Vec::new()]);
    let grammars = Grammars::new(tokens, &[257]).unwrap();
    let mut constraint = grammars
        .compile(&Grammar::JsonObject, "response_format")
        .unwrap();
    assert_eq!(allowed(&mut constraint), [u32::from(b'{'), 256]);
    assert!(Grammars::new(vec![b"a".to_vec()], &[]).is_err());
    assert!(Grammars::new(vec![b"a".to_vec()], &[1]).is_err());
}
