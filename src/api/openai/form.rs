//! `multipart/form-data`, field by field, as it comes.

use std::time::Duration;

use axum::extract::multipart::{self, Multipart};
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::StatusCode;

use crate::api::error::ApiError;

/// How long a client may send nothing.
const STALL: Duration = Duration::from_secs(30);
/// The longest field that is no file.
const MAX_TEXT_BYTES: usize = 4096;
const MAX_FIELDS: usize = 32;

/// A form.
pub(in crate::api) struct Form {
    fields: Multipart,
    count: usize,
}

/// A field of it.
pub(super) struct Field<'a> {
    name: String,
    filename: Option<String>,
    content: multipart::Field<'a>,
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let fields = Multipart::from_request(request, state).await;
        let fields = fields.map_err(|_| {
            let message = "the body must be multipart/form-data, with a boundary";
            ApiError::invalid(None, message)
        })?;
        Ok(Self { fields, count: 0 })
    }
}

impl Form {
    /// The next field; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Field<'_>>, ApiError> {
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(ApiError::invalid(None, "the form has too many fields"));
        }
        let Some(content) = in_time(self.fields.next_field()).await? else {
            return Ok(None);
        };
        Ok(Some(Field {
            name: content.name().unwrap_or_default().to_owned(),
            filename: content.file_name().map(str::to_owned),
            content,
        }))
    }
}

impl Field<'_> {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn filename(&self) -> Option<&str> {
        self.filename.as_deref()
    }

    /// More of its content; none at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        in_time(self.content.chunk()).await
    }

    /// All of its content.
    pub(super) async fn text(&mut self) -> Result<String, ApiError> {
        let mut text = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            text.extend_from_slice(&chunk);
            if text.len() > MAX_TEXT_BYTES {
                return Err(ApiError::invalid(Some(&self.name), "the field is too long"));
            }
        }
        String::from_utf8(text)
            .map_err(|_| ApiError::invalid(Some(&self.name), "the field is no UTF-8"))
    }
}

async fn in_time<T>(
    next: impl Future<Output = Result<T, multipart::MultipartError>>,
) -> Result<T, ApiError> {
    let next = tokio::time::timeout(STALL, next).await;
    next.map_err(|_| ApiError::too_slow())?.map_err(|error| {
        if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
            ApiError::too_large()
        } else {
            ApiError::unreadable("the form could not be read: it is cut off or malformed")
        }
    })
}
