//! `multipart/form-data`, field by field, as it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::multipart::{self, Multipart};
use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;

use crate::api::error::ApiError;

/// How long a client may send nothing.
const STALL: Duration = Duration::from_secs(30);
/// What may be read before a field, or a piece of one, is found in it.
const MAX_AHEAD_BYTES: usize = 4 << 20;
/// The longest field that is no file.
const MAX_TEXT_BYTES: usize = 4096;
const MAX_FIELDS: usize = 32;

/// A form.
pub(in crate::api) struct Form {
    fields: Multipart,
    count: usize,
    /// Bytes that were read since the last field, or the last piece of one: they are held in memory.
    ahead: Arc<AtomicUsize>,
}

/// A field of it.
pub(super) struct Field<'a> {
    name: String,
    filename: Option<String>,
    content: multipart::Field<'a>,
    ahead: &'a AtomicUsize,
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let ahead = Arc::<AtomicUsize>::default();
        let read = Arc::clone(&ahead);
        let request = request.map(|body| {
            let bytes = body.into_data_stream().map(move |bytes| {
                let bytes = bytes?;
                let before = read.fetch_add(bytes.len(), Ordering::Relaxed);
                if before > MAX_AHEAD_BYTES {
                    return Err(axum::Error::new(
                        "what stands between two fields is too long",
                    ));
                }
                Ok(bytes)
            });
            Body::from_stream(bytes)
        });
        let fields = Multipart::from_request(request, state).await;
        let fields = fields.map_err(|_| {
            let message = "the body must be multipart/form-data, with a boundary";
            ApiError::invalid(None, message)
        })?;
        Ok(Self {
            fields,
            count: 0,
            ahead,
        })
    }
}

impl Form {
    /// The next field; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Field<'_>>, ApiError> {
        self.count += 1;
        if self.count > MAX_FIELDS {
            return Err(ApiError::invalid(None, "the form has too many fields"));
        }
        self.ahead.store(0, Ordering::Relaxed);
        let Some(content) = in_time(self.fields.next_field()).await? else {
            return Ok(None);
        };
        Ok(Some(Field {
            name: content.name().unwrap_or_default().to_owned(),
            filename: content.file_name().map(str::to_owned),
            content,
            ahead: &self.ahead,
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
        self.ahead.store(0, Ordering::Relaxed);
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
