//! A JSON body, whatever its content type says: `curl -d` sends another one.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::StatusCode;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::error::ApiError;

/// How long a body may take to come: a slow one holds memory and a connection.
const READ: Duration = Duration::from_secs(60);

/// A body as it came.
pub(super) struct Raw(pub(super) Bytes);

/// A decoded body.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Raw(bytes) = Raw::from_request(request, state).await?;
        // serde takes a list for an object whose fields come in that order.
        if bytes.trim_ascii_start().starts_with(b"[") {
            return Err(ApiError::invalid(None, "the body must be a JSON object"));
        }
        decode(&bytes).map(Self)
    }
}

/// For a field that is an object, and no list of its values.
pub(super) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    struct Object<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    deserializer.deserialize_map(Object(PhantomData))
}

/// As [`object`], or null.
pub(super) fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    struct Inner<T>(T);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Inner<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            object(deserializer).map(Self)
        }
    }

    Ok(Option::<Inner<T>>::deserialize(deserializer)?.map(|Inner(value)| value))
}

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        tokio::time::timeout(READ, Bytes::from_request(request, state))
            .await
            .map_err(|_| ApiError::too_slow())?
            .map_err(|error| unread(&error))
            .map(Self)
    }
}

fn unread(error: &BytesRejection) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        ApiError::too_large()
    } else {
        ApiError::unreadable("the request's body could not be read")
    }
}

/// The error names the field that is wrong. Keys that stand twice are wrong too: of two values one would
/// be authorised, and the other run.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    // To know the place costs as much again, and most bodies are right.
    serde_json::from_slice(bytes).or_else(|_| decode_with_place(bytes))
}

fn decode_with_place<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let param = (path != "." && path != "?").then_some(path);
        match error.inner().classify() {
            serde_json::error::Category::Data => {
                ApiError::invalid(param.as_deref(), &error.inner().to_string())
            }
            _ => ApiError::invalid(
                None,
                &format!("the body is not valid JSON: {}", error.inner()),
            ),
        }
    })?;
    json.end().map_err(|error| {
        ApiError::invalid(None, &format!("the body is not valid JSON: {error}"))
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Inner {
        a: Option<u32>,
    }

    #[derive(Debug, Deserialize)]
    struct Outer {
        #[serde(default, deserialize_with = "object")]
        must: Inner,
        #[serde(default, deserialize_with = "optional_object")]
        may: Option<Inner>,
    }

    #[test]
    fn a_list_of_values_is_no_object() {
        let read = |text: &'static str| decode::<Outer>(text.as_bytes());
        let good = read(r#"{"must": {"a": 1}, "may": {"a": 2}}"#).ok().unwrap();
        assert_eq!(
            (good.must, good.may),
            (Inner { a: Some(1) }, Some(Inner { a: Some(2) }))
        );
        let bare = read(r#"{"may": null}"#).ok().unwrap();
        assert_eq!((bare.must, bare.may), (Inner::default(), None));
        for (text, param) in [
            (r#"{"must": [1]}"#, "must"),
            (r#"{"may": [2]}"#, "may"),
            (r#"{"must": {"a": "x"}}"#, "must.a"),
            (r#"{"may": {"a": "x"}}"#, "may.a"),
        ] {
            let error = read(text).err().unwrap().event();
            assert!(
                error.contains(&format!("\"param\":\"{param}\"")),
                "{text}: {error}"
            );
        }
    }
}
