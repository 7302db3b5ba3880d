//! Constants, and choices of which exactly one may hold.

use serde_json::{Map, Value, json};

use super::schema::{Fault, Walk, below, fault, resolve};
use super::types::{named, required};

/// Integers are exact up to this in every JSON reader (RFC 7493).
const EXACT: f64 = 9_007_199_254_740_991.0;
/// `$ref`s followed one after the other to learn of an option's type.
const HOPS: usize = 16;
/// Options of a `oneOf`, each of which is compared with each.
const OPTIONS: usize = 200;

/// What `const` and `enum` leave of a schema's values, where there is one of them.
pub(super) fn literals(
    walk: &mut Walk<'_>,
    map: &Map<String, Value>,
    place: &str,
) -> Result<Option<Value>, Fault> {
    let listed = match map.get("enum") {
        None => None,
        Some(Value::Array(values)) => Some(values.iter().collect::<Vec<_>>()),
        Some(_) => return fault(&below(place, "enum"), "has to be an array"),
    };
    let mut values = match (listed, map.get("const")) {
        (None, None) => return Ok(None),
        (Some(values), None) => values,
        (None, Some(value)) => vec![value],
        (Some(mut values), Some(value)) => {
            values.retain(|one| same(one, value));
            values
        }
    };
    if let Some(types) = named(map, place)? {
        values.retain(|value| types.iter().any(|name| is_of(value, name)));
    }
    let key = if map.contains_key("enum") {
        "enum"
    } else {
        "const"
    };
    let at = below(place, key);
    if values.is_empty() {
        return fault(&at, "leaves no value that the schema allows");
    }
    for value in &values {
        literal(walk, value, &at)?;
    }
    Ok(Some(json!({"enum": values})))
}

/// Whether it can be written down as it is.
fn literal(walk: &mut Walk<'_>, value: &Value, place: &str) -> Result<(), Fault> {
    walk.count(place)?;
    match value {
        Value::Null | Value::Bool(_) => Ok(()),
        Value::Number(number) => {
            let exact = number.as_f64().is_some_and(|number| number.abs() <= EXACT);
            let tiny = number
                .as_f64()
                .is_some_and(|number| number != 0.0 && number.abs() < 1e-12);
            if exact && !tiny {
                Ok(())
            } else {
                fault(place, "has a number that not every JSON reader has exactly")
            }
        }
        Value::String(text) => {
            let short = ['\n', '\r', '\t', '\u{8}', '\u{c}'];
            let odd = |char: char| (char < ' ' && !short.contains(&char)) || char == '\u{7f}';
            if text.chars().any(odd) {
                fault(place, "has a text with control characters")
            } else {
                Ok(())
            }
        }
        Value::Array(values) => values
            .iter()
            .try_for_each(|value| literal(walk, value, place)),
        Value::Object(map) => map
            .values()
            .try_for_each(|value| literal(walk, value, place)),
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match value {
        Value::Null => name == "null",
        Value::Bool(_) => name == "boolean",
        Value::String(_) => name == "string",
        Value::Array(_) => name == "array",
        Value::Object(_) => name == "object",
        Value::Number(number) => {
            name == "number"
                || (name == "integer"
                    && number.as_f64().is_some_and(|number| number.fract() == 0.0))
        }
    }
}

/// Equal as JSON Schema has it: 1 and 1.0 are one number.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => one.as_f64() == other.as_f64(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            let equal = |(key, value)| other.get(key).is_some_and(|other| same(value, other));
            one.len() == other.len() && one.iter().all(equal)
        }
        _ => one == other,
    }
}

/// What is certain of an option's values.
#[derive(Default)]
struct Known<'a> {
    types: Option<Vec<String>>,
    literals: Option<Vec<&'a Value>>,
    /// Of objects: the constants that a required property may have.
    tags: Vec<(&'a str, Vec<&'a Value>)>,
}

/// `oneOf` is `anyOf` where no value can satisfy two options. That has to be plain to see: by their types, by their
/// constants, or by those of a property that both require.
pub(super) fn disjoint(root: &Value, value: &Value, place: &str) -> Result<(), Fault> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    if list.len() > OPTIONS {
        return fault(place, format!("can have at most {OPTIONS} options"));
    }
    let options: Vec<Known<'_>> = list.iter().map(|schema| learn(root, schema)).collect();
    for (index, one) in options.iter().enumerate() {
        if options.iter().take(index).any(|other| !apart(one, other)) {
            let reason = "may overlap with an option before it; use anyOf, or give both a required \
                          property with different constants";
            return fault(&below(place, &index.to_string()), reason);
        }
    }
    Ok(())
}

fn learn<'a>(root: &'a Value, schema: &'a Value) -> Known<'a> {
    let Some(map) = followed(root, schema).as_object() else {
        return Known::default();
    };
    let types = named(map, "").ok().flatten();
    let only_objects = types.as_ref().is_some_and(|types| *types == ["object"]);
    let mut tags = Vec::new();
    if only_objects && let Some(properties) = map.get("properties").and_then(Value::as_object) {
        let required = required(map, "").unwrap_or_default();
        for (name, schema) in properties
            .iter()
            .filter(|(name, _)| required.contains(name))
        {
            let constants = followed(root, schema).as_object().and_then(constants);
            tags.extend(constants.map(|constants| (name.as_str(), constants)));
        }
    }
    Known {
        types,
        literals: constants(map),
        tags,
    }
}

fn followed<'a>(root: &'a Value, mut schema: &'a Value) -> &'a Value {
    for _ in 0..HOPS {
        let reference = schema.get("$ref").and_then(Value::as_str);
        match reference.and_then(|reference| resolve(root, reference)) {
            Some((_, target)) => schema = target,
            None => break,
        }
    }
    schema
}

fn constants(map: &Map<String, Value>) -> Option<Vec<&Value>> {
    match (map.get("const"), map.get("enum")) {
        (Some(value), _) => Some(vec![value]),
        (None, Some(Value::Array(values))) => Some(values.iter().collect()),
        _ => None,
    }
}

fn apart(one: &Known<'_>, other: &Known<'_>) -> bool {
    if let (Some(one), Some(other)) = (&one.types, &other.types)
        && !one
            .iter()
            .any(|name| other.iter().any(|other| shared(name, other)))
    {
        return true;
    }
    if let (Some(one), Some(other)) = (&one.literals, &other.literals)
        && strangers(one, other)
    {
        return true;
    }
    one.tags.iter().any(|(name, values)| {
        let mut tags = other.tags.iter().filter(|(other, _)| name == other);
        tags.any(|(_, others)| strangers(values, others))
    })
}

fn shared(one: &str, other: &str) -> bool {
    let wide = |name| if name == "integer" { "number" } else { name };
    wide(one) == wide(other)
}

fn strangers(one: &[&Value], other: &[&Value]) -> bool {
    !one.iter()
        .any(|one| other.iter().any(|other| same(one, other)))
}
