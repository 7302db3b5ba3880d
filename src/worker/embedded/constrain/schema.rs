//! From a client's JSON Schema (draft 2020-12) to one that llguidance follows to the letter.
//!
//! What comes out is written anew: every keyword in it was understood here, every schema has one type or is a
//! choice, every `$ref` leads to a numbered definition, and numbers have bounds. So there is nothing in it that the
//! compiler would read otherwise, leave out, or take for an option of its own. What can't be said in this smaller
//! language is refused, with its place. As JSON Schema has it, names that are no keywords mean nothing.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use serde_json::{Map, Value, json};

use super::{bounds, choice};

/// Of the schema as JSON.
const SCHEMA_BYTES: usize = 256 << 10;
/// Levels of JSON, of which a property takes two.
const SCHEMA_DEPTH: usize = 64;
/// Schemas within the schema, and constants.
const NODES: usize = 5_000;
/// Parts that are compiled alone to find the one to blame.
const TRIALS: usize = 500;

/// Of draft 2020-12 and before, with a meaning that can't be followed.
const UNSUPPORTED: [&str; 22] = [
    "not",
    "if",
    "then",
    "else",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "unevaluatedItems",
    "unevaluatedProperties",
    "additionalItems",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "divisibleBy",
    "extends",
    "disallow",
    "$vocabulary",
];

/// Keywords that are about one type's values each, `type` itself among them.
const PLAIN: [&str; 21] = [
    "type",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "items",
    "prefixItems",
    "minItems",
    "maxItems",
    "properties",
    "patternProperties",
    "additionalProperties",
    "required",
    "minProperties",
    "maxProperties",
    "uniqueItems",
];

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Fault {
    /// A JSON pointer into the client's schema.
    pub(super) place: String,
    pub(super) reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.place.is_empty() {
            "/"
        } else {
            &self.place
        };
        write!(
            f,
            "the JSON schema can't be followed: {place} {}",
            self.reason
        )
    }
}

pub(super) fn fault<T>(place: &str, reason: impl Into<String>) -> Result<T, Fault> {
    Err(Fault {
        place: place.to_owned(),
        reason: reason.into(),
    })
}

/// A schema that can be compiled.
pub(super) struct Checked {
    definitions: Map<String, Value>,
    /// Each part, as it was written anew, with its place; a part comes after what it holds.
    parts: Vec<(String, Value)>,
}

impl Checked {
    /// The schema with the compiler's options.
    pub(super) fn root(&self, options: &Value) -> Value {
        json!({"$ref": "#/$defs/0", "$defs": self.definitions, "x-guidance": options})
    }

    /// Why the compiler refused it, at the innermost place that it refuses by itself.
    pub(super) fn blame(
        &self,
        reason: &str,
        compiles: impl Fn(Value) -> Result<(), String>,
    ) -> Fault {
        let definitions = Value::Object(self.definitions.clone());
        let failure = |part: &Value| {
            let alone = match part.to_string().contains("\"$ref\"") {
                true => json!({"allOf": [part], "$defs": definitions}),
                false => part.clone(),
            };
            compiles(alone).err()
        };
        let blamed = self.parts.iter().take(TRIALS).find_map(|(place, part)| {
            let reason = failure(part)?;
            // An option that nothing can satisfy is no fault where it is one of several.
            let within = |outer: &str| {
                place
                    .strip_prefix(outer)
                    .is_some_and(|rest| rest.starts_with('/'))
            };
            let mut outer = self.parts.iter().filter(|(outer, _)| within(outer));
            outer
                .all(|(_, part)| failure(part).is_some())
                .then(|| Fault {
                    place: place.clone(),
                    reason: format!("isn't supported: {reason}"),
                })
        });
        blamed.unwrap_or_else(|| Fault {
            place: String::new(),
            reason: format!("isn't supported: {reason}"),
        })
    }
}

/// Reads and bounds a client's schema.
pub(super) fn check(schema: &Value) -> Result<Checked, Fault> {
    if deeper(schema, SCHEMA_DEPTH) {
        return fault("", format!("has more than {SCHEMA_DEPTH} levels of JSON"));
    }
    if schema.to_string().len() > SCHEMA_BYTES {
        return fault("", format!("is longer than {SCHEMA_BYTES} bytes"));
    }
    let mut walk = Walk::new(schema, false);
    walk.run()?;
    if let Some(place) = walk.merges.clone() {
        // Where parts are merged, "anything" has to be the compiler's own, which it can merge.
        walk = Walk::new(schema, true);
        walk.run()?;
        if let Some(multiple) = walk.multiple {
            return fault(
                &multiple,
                format!("isn't supported together with the combination at {place}"),
            );
        }
    }
    bounds::check(&walk.definitions, &walk.places)?;
    Ok(Checked {
        definitions: walk.definitions,
        parts: walk.parts,
    })
}

fn deeper(value: &Value, levels: usize) -> bool {
    let Some(left) = levels.checked_sub(1) else {
        return true;
    };
    match value {
        Value::Array(items) => items.iter().any(|item| deeper(item, left)),
        Value::Object(map) => map.values().any(|item| deeper(item, left)),
        _ => false,
    }
}

/// A JSON pointer (RFC 6901) one step further.
pub(super) fn below(place: &str, step: &str) -> String {
    format!("{place}/{}", step.replace('~', "~0").replace('/', "~1"))
}

/// One reading of a schema.
pub(super) struct Walk<'a> {
    pub(super) root: &'a Value,
    /// Some parts are combined with others by the compiler.
    pub(super) merging: bool,
    /// Where the first such parts are.
    pub(super) merges: Option<String>,
    /// Where the first `multipleOf` is.
    pub(super) multiple: Option<String>,
    nodes: usize,
    numbers: HashMap<String, usize>,
    queue: VecDeque<(String, &'a Value)>,
    definitions: Map<String, Value>,
    places: HashMap<String, String>,
    parts: Vec<(String, Value)>,
}

impl<'a> Walk<'a> {
    fn new(root: &'a Value, merging: bool) -> Self {
        Self {
            root,
            merging,
            merges: None,
            multiple: None,
            nodes: 0,
            numbers: HashMap::from([(String::new(), 0)]),
            queue: VecDeque::from([(String::new(), root)]),
            definitions: Map::new(),
            places: HashMap::new(),
            parts: Vec::new(),
        }
    }

    fn run(&mut self) -> Result<(), Fault> {
        let mut number = 0;
        while let Some((place, schema)) = self.queue.pop_front() {
            let made = self.node(schema, &place)?;
            self.definitions.insert(number.to_string(), made);
            self.places.insert(number.to_string(), place);
            number += 1;
        }
        if !self.merging {
            self.definitions
                .insert("any".to_owned(), super::types::anything());
            self.places.insert("any".to_owned(), String::new());
        }
        Ok(())
    }

    pub(super) fn any(&self) -> Value {
        if self.merging {
            json!({})
        } else {
            json!({"$ref": "#/$defs/any"})
        }
    }

    pub(super) fn count(&mut self, place: &str) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > NODES {
            return fault(
                place,
                format!("is one part too many: a schema has at most {NODES}"),
            );
        }
        Ok(())
    }

    /// One schema, written anew.
    pub(super) fn node(&mut self, schema: &'a Value, place: &str) -> Result<Value, Fault> {
        self.count(place)?;
        let map = match schema {
            Value::Bool(true) => return Ok(self.any()),
            Value::Bool(false) => return Ok(json!(false)),
            Value::Object(map) => map,
            _ => return fault(place, "is no schema: it has to be an object or a boolean"),
        };
        for (key, value) in map {
            let moves = key == "$id" && !place.is_empty();
            let unique = key == "uniqueItems" && *value != json!(false);
            if moves || unique || UNSUPPORTED.contains(&key.as_str()) {
                return fault(&below(place, key), "isn't supported");
            }
        }
        let made = self.factors(map, place)?;
        self.parts.push((place.to_owned(), made.clone()));
        Ok(made)
    }

    /// What a value has to satisfy, all of it, in the order of the schema's keys.
    fn factors(&mut self, map: &'a Map<String, Value>, place: &str) -> Result<Value, Fault> {
        let literals = choice::literals(self, map, place)?;
        // Constants of a type are just those constants.
        let folded = literals.is_some()
            && !map
                .keys()
                .any(|key| key != "type" && PLAIN.contains(&key.as_str()));
        let mut factors: Vec<Value> = literals.into_iter().collect();
        let mut plain = folded;
        for (key, value) in map {
            let at = below(place, key);
            match key.as_str() {
                "$ref" => factors.push(self.reference(value, &at)?),
                "anyOf" => factors.push(json!({"anyOf": self.list(value, &at)?})),
                "oneOf" => {
                    choice::disjoint(self.root, value, &at)?;
                    factors.push(json!({"anyOf": self.list(value, &at)?}));
                }
                "allOf" => factors.extend(self.list(value, &at)?),
                key if PLAIN.contains(&key) && !plain => {
                    plain = true;
                    factors.push(self.plain(map, place)?);
                }
                _ => {}
            }
        }
        match factors.len() {
            0 => Ok(self.any()),
            1 => Ok(factors.swap_remove(0)),
            _ => Ok(self.merged(factors, place)),
        }
    }

    /// All of them, which the compiler makes one of.
    pub(super) fn merged(&mut self, factors: Vec<Value>, place: &str) -> Value {
        self.merges.get_or_insert_with(|| place.to_owned());
        json!({"allOf": factors})
    }

    fn list(&mut self, value: &'a Value, place: &str) -> Result<Vec<Value>, Fault> {
        let Some(list) = value.as_array().filter(|list| !list.is_empty()) else {
            return fault(place, "has to be an array with at least one schema");
        };
        list.iter()
            .enumerate()
            .map(|(index, schema)| self.node(schema, &below(place, &index.to_string())))
            .collect()
    }

    /// The schema referred to becomes a definition, once.
    fn reference(&mut self, value: &'a Value, place: &str) -> Result<Value, Fault> {
        let Some((target, schema)) = value.as_str().and_then(|text| resolve(self.root, text))
        else {
            return fault(
                place,
                "has to lead to a place in this schema, as '#/$defs/name' does",
            );
        };
        let next = self.numbers.len();
        let number = *self.numbers.entry(target.clone()).or_insert_with(|| {
            self.queue.push_back((target, schema));
            next
        });
        Ok(json!({"$ref": format!("#/$defs/{number}")}))
    }
}

/// The schema that a `$ref` leads to, and its place. Anchors and other documents aren't looked up.
pub(super) fn resolve<'a>(root: &'a Value, reference: &str) -> Option<(String, &'a Value)> {
    let pointer = percent_decoded(reference.strip_prefix('#')?)?;
    let pointer = if pointer == "/" && root.get("").is_none() {
        String::new()
    } else {
        pointer
    };
    let schema = root.pointer(&pointer)?;
    Some((pointer, schema))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let pair = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&pair).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
