//! Fields that are known and not served yet. Silence would be worse than a refusal: a client that asks for
//! two answers and gets one, or for JSON and gets prose, finds out too late.

use serde_json::Value;

use crate::api::error::ApiError;

/// A field's name, its value, and the value that asks for nothing.
pub(super) struct Field<'a> {
    name: &'static str,
    value: &'a Option<Value>,
    neutral: fn(&Value) -> bool,
}

/// A field whose every value but these is refused.
pub(super) fn field<'a>(
    name: &'static str,
    value: &'a Option<Value>,
    neutral: fn(&Value) -> bool,
) -> Field<'a> {
    Field {
        name,
        value,
        neutral,
    }
}

/// Refuses the first field that asks for something.
pub(super) fn refuse(fields: &[Field<'_>]) -> Result<(), ApiError> {
    for field in fields {
        if let Some(value) = field.value
            && !(field.neutral)(value)
        {
            return Err(ApiError::unsupported(field.name));
        }
    }
    Ok(())
}

pub(super) fn never(_: &Value) -> bool {
    false
}

/// An empty list or object.
pub(super) fn empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(serde_json::Map::is_empty)
}

pub(super) fn text_modality(value: &Value) -> bool {
    value
        .as_array()
        .is_some_and(|kinds| kinds.iter().all(|kind| kind == "text"))
}
