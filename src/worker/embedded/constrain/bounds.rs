//! Bounds of a schema that was written anew: it has a finite answer, and merging its parts doesn't blow it up.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::schema::{Fault, fault};

/// Parts that a schema has once `allOf` and its like are multiplied out.
const EXPANDED: usize = 20_000;

/// Of the definitions and their places in the client's schema.
pub(super) fn check(
    definitions: &Map<String, Value>,
    places: &HashMap<String, String>,
) -> Result<(), Fault> {
    let finite = finite(definitions);
    // The last ones first: they are what the others need.
    for (name, schema) in definitions.iter().rev() {
        let place = places.get(name).map_or("", String::as_str);
        if !finite.contains(name.as_str()) {
            return fault(
                place,
                "has no finite answer: it needs itself, or it allows nothing",
            );
        }
        let size = Sizes { definitions }.merged(schema);
        match size {
            None => {
                return fault(
                    place,
                    "combines parts that refer to themselves, which isn't supported",
                );
            }
            Some(size) if size > EXPANDED => {
                return fault(
                    place,
                    "combines too many parts, which would take too large a grammar",
                );
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The definitions that something finite satisfies.
fn finite(definitions: &Map<String, Value>) -> HashSet<&str> {
    let mut known = HashSet::new();
    loop {
        let before = known.len();
        for (name, schema) in definitions {
            if !known.contains(name.as_str()) && ends(schema, &known) {
                known.insert(name.as_str());
            }
        }
        if known.len() == before {
            return known;
        }
    }
}

fn target(reference: &Value) -> &str {
    reference
        .as_str()
        .and_then(|text| text.strip_prefix("#/$defs/"))
        .unwrap_or_default()
}

fn ends(schema: &Value, known: &HashSet<&str>) -> bool {
    let Some(map) = schema.as_object() else {
        return schema != &Value::Bool(false);
    };
    let list = |key: &str| {
        map.get(key)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice)
    };
    if let Some(reference) = map.get("$ref") {
        return known.contains(target(reference));
    }
    if map.contains_key("anyOf") {
        return list("anyOf").iter().any(|option| ends(option, known));
    }
    if map.contains_key("allOf") {
        return list("allOf").iter().all(|part| ends(part, known));
    }
    let member = |name: &Value| {
        let properties = map.get("properties").and_then(Value::as_object);
        let schema = properties
            .zip(name.as_str())
            .and_then(|(all, name)| all.get(name));
        schema.is_none_or(|schema| ends(schema, known))
    };
    let least = map.get("minItems").and_then(Value::as_u64).unwrap_or(0);
    let least = usize::try_from(least).unwrap_or(usize::MAX);
    let first = list("prefixItems");
    list("required").iter().all(member)
        && first.iter().take(least).all(|item| ends(item, known))
        && (least <= first.len() || map.get("items").is_none_or(|item| ends(item, known)))
}

struct Sizes<'a> {
    definitions: &'a Map<String, Value>,
}

impl<'a> Sizes<'a> {
    /// The largest merge in it; `None` where one refers to itself.
    fn merged(&self, schema: &'a Value) -> Option<usize> {
        if let Some(Value::Array(_)) = schema.get("allOf") {
            return self.whole(schema, &mut Vec::new());
        }
        let mut largest = 0;
        for child in children(schema) {
            largest = largest.max(self.merged(child)?);
        }
        Some(largest)
    }

    /// Its parts with all that it refers to; past the bound it isn't counted on.
    fn whole(&self, schema: &'a Value, path: &mut Vec<&'a str>) -> Option<usize> {
        if let Some(reference) = schema.get("$ref") {
            let name = target(reference);
            if path.contains(&name) {
                return None;
            }
            path.push(name);
            let size = self
                .definitions
                .get(name)
                .map_or(Some(1), |target| self.whole(target, path));
            path.pop();
            return size;
        }
        let product = schema.get("allOf").is_some();
        let mut size: usize = 1;
        for child in children(schema) {
            let part = self.whole(child, path)?;
            size = if product {
                size.saturating_mul(part + 1)
            } else {
                size.saturating_add(part)
            };
            if size > EXPANDED {
                return Some(size);
            }
        }
        Some(size)
    }
}

fn children(schema: &Value) -> Vec<&Value> {
    let Some(map) = schema.as_object() else {
        return Vec::new();
    };
    let mut all = Vec::new();
    for (key, value) in map {
        match (key.as_str(), value) {
            ("anyOf" | "allOf" | "prefixItems" | "enum", Value::Array(list)) => all.extend(list),
            ("properties" | "patternProperties", Value::Object(map)) => all.extend(map.values()),
            ("items" | "additionalProperties", value) => all.push(value),
            _ => {}
        }
    }
    all
}
