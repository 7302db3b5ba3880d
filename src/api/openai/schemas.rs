//! Shapes of requests that no derive can say.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type,
};

use super::sampling::MAX_TOKEN_ID;

/// Null as well.
pub(in crate::api) fn optional(schema: Schema) -> Schema {
    one_of([nothing(), schema])
}

/// For fields that are known and can't be served.
pub(in crate::api) fn nothing() -> Schema {
    ObjectBuilder::new().schema_type(Type::Null).into()
}

/// One of these.
pub(in crate::api) fn words(words: &[&str]) -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words.iter().copied()))
        .into()
}

/// A list of these.
pub(in crate::api) fn list(item: Schema) -> Schema {
    ArrayBuilder::new().items(RefOr::T(item)).into()
}

/// `type` where there are functions and nothing else.
pub(in crate::api) fn function_kind() -> Schema {
    words(&["function"])
}

/// `stop`
pub(in crate::api) fn stop() -> Schema {
    let many = ArrayBuilder::new()
        .items(RefOr::T(text()))
        .max_items(Some(4));
    one_of([nothing(), text(), many.into()])
}

/// `logit_bias`: from token ids to what is added to their logits.
pub(in crate::api) fn biases() -> Schema {
    let bias = ObjectBuilder::new()
        .schema_type(Type::Number)
        .minimum(Some(-100))
        .maximum(Some(100));
    let id = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^(0|[1-9][0-9]{0,8})$"));
    optional(
        ObjectBuilder::new()
            .additional_properties(Some(AdditionalProperties::from(Schema::from(bias))))
            .property_names(Some(Schema::from(id)))
            .max_properties(Some(1024))
            .into(),
    )
}

/// `expires_after.anchor`
pub(in crate::api) fn anchor() -> Schema {
    words(&["created_at"])
}

/// `metadata`: texts under names.
pub(in crate::api) fn metadata() -> Schema {
    let text = |most| {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .max_length(Some(most))
    };
    optional(
        ObjectBuilder::new()
            .additional_properties(Some(AdditionalProperties::from(Schema::from(text(512)))))
            .property_names(Some(Schema::from(text(64))))
            .max_properties(Some(16))
            .into(),
    )
}

/// `modalities`
pub(in crate::api) fn text_alone() -> Schema {
    optional(ArrayBuilder::new().items(RefOr::T(words(&["text"]))).into())
}

/// `tool_choice`
pub(in crate::api) fn tool_choice() -> Schema {
    let named = ObjectBuilder::new()
        .property("type", function_kind())
        .required("type")
        .property("function", name())
        .required("function");
    one_of([
        nothing(),
        words(&["none", "auto", "required"]),
        named.into(),
    ])
}

/// `function_call`
pub(in crate::api) fn function_call() -> Schema {
    one_of([nothing(), words(&["none", "auto"]), name()])
}

/// `prompt` and `input`: a text, a list of texts, a text's token ids, or a list of such lists.
pub(in crate::api) fn texts_or_tokens(shortest_text: usize, most: usize) -> Schema {
    let text = || {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(shortest_text))
    };
    let list = |items: Schema| {
        ArrayBuilder::new()
            .items(RefOr::T(items))
            .min_items(Some(1))
    };
    let tokens = || list(token_id());
    one_of([
        text().into(),
        list(text().into()).max_items(Some(most)).into(),
        tokens().into(),
        list(tokens().into()).max_items(Some(most)).into(),
    ])
}

fn token_id() -> Schema {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .minimum(Some(0))
        .maximum(Some(MAX_TOKEN_ID))
        .into()
}

fn text() -> Schema {
    ObjectBuilder::new().schema_type(Type::String).into()
}

fn name() -> Schema {
    ObjectBuilder::new()
        .property("name", text())
        .required("name")
        .into()
}

fn one_of(forms: impl IntoIterator<Item = Schema>) -> Schema {
    let all = OneOfBuilder::new();
    forms.into_iter().fold(all, OneOfBuilder::item).into()
}
