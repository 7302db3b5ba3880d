//! The keywords that are about values of one type.

use serde_json::{Map, Value, json};

use super::schema::{Fault, Walk, below, fault};
use super::{formats, lint};

const TYPES: [&str; 6] = ["null", "boolean", "number", "string", "array", "object"];
/// Characters that a string can be told to have: each takes a state of the automaton.
const LENGTH: u64 = 10_000;
/// Items that an array, properties that an object can be told to have.
const ITEMS: u64 = 10_000;
/// Properties of an object that may be left out: all that could come next are looked at in each step, which the
/// automaton bounds; it fails at some 500.
const OPTIONAL: usize = 400;
/// With more, "at least one of them" takes too large a grammar.
const ONE_OF_PROPERTIES: usize = 64;
/// Integers stay within what every JSON reader has exactly (RFC 7493); it also ends runs of digits.
const INTEGER: f64 = 9_007_199_254_740_991.0;
/// Other numbers stay below this, and have no exponent: 1e999 is JSON, but few can read it.
const NUMBER: f64 = 1e15;
/// A bound nearer to zero has more digits than an automaton should.
const SMALLEST: f64 = 1e-12;

/// Any JSON value, as we would have it.
pub(super) fn anything() -> Value {
    let any = json!({"$ref": "#/$defs/any"});
    json!({"anyOf": [
        {"type": "null"},
        {"type": "boolean"},
        {"type": "number", "minimum": -NUMBER, "maximum": NUMBER},
        {"type": "string"},
        {"type": "array", "items": any},
        {"type": "object", "additionalProperties": any},
    ]})
}

/// The types that a schema names; `None` where it names none.
pub(super) fn named(map: &Map<String, Value>, place: &str) -> Result<Option<Vec<String>>, Fault> {
    let Some(value) = map.get("type") else {
        return Ok(None);
    };
    let names = match value {
        Value::String(name) => vec![name.clone()],
        Value::Array(names) if !names.is_empty() => names
            .iter()
            .map(|name| name.as_str().unwrap_or_default().to_owned())
            .collect(),
        _ => vec![String::new()],
    };
    let mut types: Vec<String> = Vec::new();
    for name in names {
        if name != "integer" && !TYPES.contains(&name.as_str()) {
            let known = "null, boolean, integer, number, string, array, object";
            return fault(&below(place, "type"), format!("has to be one of {known}"));
        }
        if !types.contains(&name) {
            types.push(name);
        }
    }
    if types.iter().any(|name| name == "number") {
        types.retain(|name| name != "integer");
    }
    Ok(Some(types))
}

impl<'a> Walk<'a> {
    /// A schema for each type that a value may have.
    pub(super) fn plain(
        &mut self,
        map: &'a Map<String, Value>,
        place: &str,
    ) -> Result<Value, Fault> {
        let types = named(map, place)?
            .unwrap_or_else(|| TYPES.iter().map(|name| (*name).to_owned()).collect());
        let mut options = Vec::with_capacity(types.len());
        for name in &types {
            options.push(match name.as_str() {
                "integer" | "number" => self.number(map, place, name)?,
                "string" => self.string(map, place)?,
                "array" => self.array(map, place)?,
                "object" => self.object(map, place)?,
                _ => json!({"type": name}),
            });
        }
        Ok(match options.len() {
            1 => options.swap_remove(0),
            _ => json!({"anyOf": options}),
        })
    }

    fn number(
        &mut self,
        map: &Map<String, Value>,
        place: &str,
        name: &str,
    ) -> Result<Value, Fault> {
        let mut made = Map::from_iter([("type".to_owned(), json!(name))]);
        let widest = if name == "integer" { INTEGER } else { NUMBER };
        for (keys, sign) in [
            (["minimum", "exclusiveMinimum"], -1.0),
            (["maximum", "exclusiveMaximum"], 1.0),
        ] {
            let mut bounded = false;
            for key in keys {
                let Some(value) = map.get(key) else {
                    continue;
                };
                let at = below(place, key);
                let Some(bound) = value.as_f64().filter(|bound| bound.is_finite()) else {
                    return fault(&at, "has to be a number");
                };
                if bound * sign < -INTEGER {
                    return fault(&at, "leaves no number that every JSON reader has exactly");
                }
                if bound != 0.0 && bound.abs() < SMALLEST {
                    return fault(&at, "is too near to zero");
                }
                if bound * sign <= INTEGER {
                    bounded = true;
                    let exact = if bound == 0.0 {
                        json!(0)
                    } else {
                        value.clone()
                    };
                    made.insert(key.to_owned(), exact);
                }
            }
            if !bounded {
                let given = made
                    .get("minimum")
                    .or(made.get("exclusiveMinimum"))
                    .and_then(Value::as_f64);
                let beyond = given.is_some_and(|given| given >= widest);
                let bound = if beyond { INTEGER } else { widest };
                made.insert(keys[0].to_owned(), json!(sign * bound));
            }
        }
        if let Some(value) = map.get("multipleOf") {
            let at = below(place, "multipleOf");
            made.insert("multipleOf".to_owned(), step(value, &at)?);
            self.multiple.get_or_insert(at);
        }
        Ok(Value::Object(made))
    }

    fn string(&mut self, map: &Map<String, Value>, place: &str) -> Result<Value, Fault> {
        let mut made = Map::from_iter([("type".to_owned(), json!("string"))]);
        for key in ["minLength", "maxLength"] {
            copy_size(map, key, LENGTH, place, &mut made)?;
        }
        if let Some(value) = map.get("pattern") {
            let at = below(place, "pattern");
            made.insert("pattern".to_owned(), json!(pattern(value.as_str(), &at)?));
        }
        let Some(value) = map.get("format") else {
            return Ok(Value::Object(made));
        };
        let Some(regex) = value.as_str().and_then(formats::regex) else {
            let known = formats::NAMES;
            return fault(
                &below(place, "format"),
                format!("isn't supported; these are: {known}"),
            );
        };
        if made.contains_key("pattern") {
            let format = json!({"type": "string", "pattern": regex});
            return Ok(self.merged(vec![Value::Object(made), format], place));
        }
        made.insert("pattern".to_owned(), json!(regex));
        Ok(Value::Object(made))
    }

    fn array(&mut self, map: &'a Map<String, Value>, place: &str) -> Result<Value, Fault> {
        let mut made = Map::from_iter([("type".to_owned(), json!("array"))]);
        for key in ["minItems", "maxItems"] {
            copy_size(map, key, ITEMS, place, &mut made)?;
        }
        if let Some(value) = map.get("prefixItems") {
            let at = below(place, "prefixItems");
            let Some(list) = value.as_array() else {
                return fault(&at, "has to be an array of schemas");
            };
            let mut items = Vec::with_capacity(list.len());
            for (index, schema) in list.iter().enumerate() {
                items.push(self.node(schema, &below(&at, &index.to_string()))?);
            }
            made.insert("prefixItems".to_owned(), Value::Array(items));
        }
        match map.get("items") {
            Some(Value::Array(_)) => {
                return fault(&below(place, "items"), "can't be an array; use prefixItems");
            }
            Some(schema) => {
                made.insert(
                    "items".to_owned(),
                    self.node(schema, &below(place, "items"))?,
                );
            }
            None if self.merging => {}
            None => {
                made.insert("items".to_owned(), self.any());
            }
        }
        Ok(Value::Object(made))
    }

    fn object(&mut self, map: &'a Map<String, Value>, place: &str) -> Result<Value, Fault> {
        let mut made = Map::from_iter([("type".to_owned(), json!("object"))]);
        for key in ["properties", "patternProperties"] {
            let Some(value) = map.get(key) else {
                continue;
            };
            let at = below(place, key);
            let Some(properties) = value.as_object() else {
                return fault(&at, "has to be an object of schemas");
            };
            let mut members = Map::new();
            for (name, schema) in properties {
                let at = below(&at, name);
                let name = match key {
                    "patternProperties" => pattern(Some(name), &at)?,
                    _ => name.clone(),
                };
                members.insert(name, self.node(schema, &at)?);
            }
            made.insert(key.to_owned(), Value::Object(members));
        }
        match map.get("additionalProperties") {
            Some(schema) => {
                let at = below(place, "additionalProperties");
                made.insert("additionalProperties".to_owned(), self.node(schema, &at)?);
            }
            None if self.merging => {}
            None => {
                made.insert("additionalProperties".to_owned(), self.any());
            }
        }
        let required = required(map, place)?;
        let names = made.get("properties").and_then(Value::as_object);
        let listed = |names: &Map<String, Value>| {
            names.keys().filter(|name| !required.contains(name)).count()
        };
        if names.map_or(0, listed) > OPTIONAL {
            let reason = format!("can have at most {OPTIONAL} that aren't required");
            return fault(&below(place, "properties"), reason);
        }
        copy_size(map, "maxProperties", ITEMS, place, &mut made)?;
        copy_size(map, "minProperties", ITEMS, place, &mut made)?;
        least(&mut made, required.len(), place)?;
        if !required.is_empty() {
            made.insert("required".to_owned(), json!(required));
        }
        Ok(Value::Object(made))
    }
}

/// The names that an object must have, each once.
pub(super) fn required(map: &Map<String, Value>, place: &str) -> Result<Vec<String>, Fault> {
    let mut names: Vec<String> = Vec::new();
    let list = match map.get("required") {
        None => return Ok(names),
        Some(value) => value.as_array(),
    };
    let texts = list.map(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let Some(Some(texts)) = texts else {
        return fault(&below(place, "required"), "has to be an array of names");
    };
    for text in texts {
        if !names.iter().any(|name| name == text) {
            names.push(text.to_owned());
        }
    }
    Ok(names)
}

/// `minProperties` can be had where the required ones are enough, or where one of the listed ones is asked for: a
/// name that isn't listed could be written twice, and counts once.
fn least(made: &mut Map<String, Value>, required: usize, place: &str) -> Result<(), Fault> {
    let least = made
        .get("minProperties")
        .and_then(Value::as_u64)
        .unwrap_or(0);
    if least <= required as u64 {
        made.remove("minProperties");
        return Ok(());
    }
    let listed = made
        .get("properties")
        .and_then(Value::as_object)
        .map_or(0, Map::len);
    let closed = made.get("additionalProperties") == Some(&json!(false));
    if closed && !made.contains_key("patternProperties") && listed <= ONE_OF_PROPERTIES {
        return Ok(());
    }
    fault(
        &below(place, "minProperties"),
        "isn't supported beyond the required properties",
    )
}

fn pattern(text: Option<&str>, place: &str) -> Result<String, Fault> {
    let Some(text) = text else {
        return fault(place, "has to be a string");
    };
    lint::translated(text).or_else(|reason| fault(place, reason))
}

/// A count, which may be written as 3.0 too.
fn copy_size(
    map: &Map<String, Value>,
    key: &str,
    most: u64,
    place: &str,
    made: &mut Map<String, Value>,
) -> Result<(), Fault> {
    let Some(value) = map.get(key) else {
        return Ok(());
    };
    let at = below(place, key);
    match value
        .as_f64()
        .filter(|size| *size >= 0.0 && size.fract() == 0.0)
    {
        None => fault(&at, "has to be a whole number from 0"),
        Some(size) if size > most as f64 => fault(&at, format!("can be at most {most}")),
        Some(size) => {
            made.insert(key.to_owned(), json!(size as u64));
            Ok(())
        }
    }
}

/// `multipleOf`: up to 4 decimals and a million, so that the automaton's own arithmetic is exact.
fn step(value: &Value, place: &str) -> Result<Value, Fault> {
    let Some(step) = value.as_f64().filter(|step| *step > 0.0) else {
        return fault(place, "has to be a number above 0");
    };
    let (mut scaled, mut decimals) = (step, 0);
    while scaled.fract() != 0.0 && decimals < 4 {
        scaled *= 10.0;
        decimals += 1;
    }
    let exact = scaled.fract() == 0.0 && scaled <= 1e6 && scaled / 10_f64.powi(decimals) == step;
    if exact {
        Ok(json!(step))
    } else {
        fault(place, "can have at most 4 decimals and be at most 1000000")
    }
}
