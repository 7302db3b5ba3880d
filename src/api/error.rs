//! Errors in OpenAI's envelope. The inner parts know no HTTP: one exhaustive match gives theirs a status.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use utoipa::ToSchema;

use super::limits;
use crate::router::RolloutError;
use crate::tenancy::{Over, Refused, Standing, Unit};
use crate::types::{Failure, StoreError};
use crate::{gateway, metering, router, scheduler, tenancy};

/// How long a client that was refused for want of room should stay away, in seconds.
const SOON_S: u64 = 1;
const LATER_S: u64 = 5;
/// The longest wait that OpenAI's SDKs take notice of. Beyond it a client that tries again by itself only wastes its time.
const LONGEST_RETRY_S: u64 = 60;

/// An error as a client sees it.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    body: Envelope,
    retry_after_s: Option<u64>,
    /// Clients that try again by themselves shall not.
    is_final: bool,
    /// Not all of the body was read, so nothing else can come by the same connection.
    closes: bool,
    standing: Option<Box<Standing>>,
}

/// <https://platform.openai.com/docs/guides/error-codes>
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ErrorResponse)]
pub(super) struct Envelope {
    error: Body,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Error)]
struct Body {
    message: String,
    r#type: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    fn new(
        status: StatusCode,
        r#type: &'static str,
        code: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        let error = Body {
            message: message.into(),
            r#type,
            param: None,
            code,
        };
        Self {
            status,
            body: Envelope { error },
            retry_after_s: None,
            is_final: false,
            closes: matches!(
                status,
                StatusCode::REQUEST_TIMEOUT
                    | StatusCode::PAYLOAD_TOO_LARGE
                    | StatusCode::UNSUPPORTED_MEDIA_TYPE
            ),
            standing: None,
        }
    }

    /// 400: the body could not be read to its end.
    pub(super) fn unreadable(message: &str) -> Self {
        Self {
            closes: true,
            ..Self::invalid(None, message)
        }
    }

    fn param(mut self, param: Option<&str>) -> Self {
        self.body.error.param = param.map(str::to_owned);
        self
    }

    fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// 400: the request is wrong, and `param` is to blame.
    pub(super) fn invalid(param: Option<&str>, message: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            None,
            message,
        )
        .param(param)
    }

    /// 400: a rule of the model refuses what is asked.
    pub(super) fn filtered(param: &str, rule: &str) -> Self {
        let message = format!("the rule {rule:?} of this model refuses what {param} says");
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            Some("content_filter"),
            message,
        )
        .param(Some(param))
    }

    /// 400: the field is known, and what it asks for is not there yet.
    pub(super) fn unsupported(param: &str) -> Self {
        let message = format!("{param} is not supported by this server yet, with this value");
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            Some("unsupported_parameter"),
            message,
        )
        .param(Some(param))
    }

    /// 401 without a key.
    pub(super) fn no_key() -> Self {
        let message = "no API key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`";
        Self::unauthorised(message)
    }

    fn unauthorised(message: &str) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_request_error",
            Some("invalid_api_key"),
            message,
        )
    }

    /// 403: the key is good, and this is not for it.
    pub(super) fn forbidden(message: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "invalid_request_error",
            Some("insufficient_permissions"),
            message,
        )
    }

    /// 404 for a thing that isn't there, or is nobody's business.
    pub(super) fn no_such(what: &str, id: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("not_found"),
            format!("there is no {what} {id:?}"),
        )
    }

    /// 404 for a path.
    pub(super) fn not_found(message: String) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("unknown_url"),
            message,
        )
    }

    /// 405
    pub(super) fn wrong_method(message: String) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            Some("method_not_allowed"),
            message,
        )
    }

    /// 408
    pub(super) fn too_slow() -> Self {
        let message = "the request's body took too long to come";
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "invalid_request_error",
            Some("request_timeout"),
            message,
        )
    }

    /// 413
    pub(super) fn too_large() -> Self {
        let message = "the request's body is larger than this server takes";
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            Some("request_too_large"),
            message,
        )
    }

    /// 413 for a file.
    pub(super) fn file_too_large(most: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request_error",
            Some("file_too_large"),
            format!("a file may have {most} bytes at most here"),
        )
    }

    /// 409: not as things stand.
    pub(super) fn conflict(message: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            Some("conflict"),
            message,
        )
    }

    /// 409: the same request came a moment ago.
    pub(super) fn still_runs() -> Self {
        let message = "a request with this idempotency key is still running";
        Self::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            Some("idempotency_key_in_use"),
            message,
        )
        .retry_after(SOON_S)
    }

    /// 422: a key is one request's.
    pub(super) fn another_request() -> Self {
        let message = "this idempotency key was used for another request";
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_request_error",
            Some("idempotency_key_reused"),
            message,
        )
    }

    /// 415
    pub(super) fn unknown_encoding() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "invalid_request_error",
            Some("unsupported_content_encoding"),
            "a body may be compressed with gzip or zstd, and a form may not be",
        )
    }

    /// 500 for a fault of ours.
    pub(super) fn internal() -> Self {
        let message = "the server had a fault; the x-request-id header names it in the log";
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            None,
            message,
        )
    }

    /// 503: the same request may succeed later.
    fn unavailable(code: &'static str, message: String, retry_after_s: u64) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            Some(code),
            message,
        )
        .retry_after(retry_after_s)
    }

    /// A remote worker found the request wrong, and said how.
    fn refused_by_worker(
        status: u16,
        param: Option<String>,
        code: Option<&str>,
        message: String,
    ) -> Self {
        let known = [
            "context_length_exceeded",
            "unsupported_parameter",
            "invalid_value",
        ];
        let code = known.into_iter().find(|known| code == Some(*known));
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        Self::new(status, "invalid_request_error", code, message).param(param.as_deref())
    }

    /// As an event of a stream that has begun.
    pub(super) fn event(&self) -> String {
        serde_json::to_string(&self.body).unwrap_or_default()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body)).into_response();
        if let Some(seconds) = self.retry_after_s {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        if self.is_final {
            response
                .headers_mut()
                .insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if let Some(standing) = &self.standing {
            limits::insert(response.headers_mut(), standing);
        }
        response
    }
}

impl From<gateway::Error> for ApiError {
    fn from(error: gateway::Error) -> Self {
        match error {
            gateway::Error::Tenancy(error) => error.into(),
            gateway::Error::Router(error) => error.into(),
            gateway::Error::Refused(Refused::Over(over)) => over.into(),
            gateway::Error::Refused(Refused::Store(error)) => error.into(),
            gateway::Error::Scheduler(error) => error.into(),
            gateway::Error::Metering(error) => error.into(),
        }
    }
}

impl From<tenancy::Error> for ApiError {
    fn from(error: tenancy::Error) -> Self {
        match error {
            tenancy::Error::UnknownKey | tenancy::Error::Over(_) => {
                Self::unauthorised(&error.to_string())
            }
            tenancy::Error::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        let message = error.to_string();
        match error {
            StoreError::NotFound(_) => Self::new(
                StatusCode::NOT_FOUND,
                "invalid_request_error",
                Some("not_found"),
                message,
            ),
            StoreError::Exists(_) => Self::new(
                StatusCode::CONFLICT,
                "invalid_request_error",
                Some("already_exists"),
                message,
            ),
            StoreError::InUse(_) => Self::new(
                StatusCode::CONFLICT,
                "invalid_request_error",
                Some("in_use"),
                message,
            ),
            StoreError::Full(_) => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "invalid_request_error",
                Some("storage_quota_exceeded"),
                message,
            ),
            StoreError::Fenced | StoreError::Unavailable(_) => {
                tracing::error!(error = message, "the store could not be asked");
                Self::unavailable(
                    "store_unavailable",
                    "the store of keys and charges can't be reached at the moment".into(),
                    LATER_S,
                )
            }
        }
    }
}

/// <https://platform.openai.com/docs/guides/rate-limits>
impl From<Over> for ApiError {
    fn from(over: Over) -> Self {
        let (r#type, code) = match over.meter.unit() {
            Unit::Money => ("insufficient_quota", "insufficient_quota"),
            Unit::Tokens => ("tokens", "rate_limit_exceeded"),
            Unit::Requests => ("requests", "rate_limit_exceeded"),
        };
        let message = over.to_string();
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, r#type, Some(code), message);
        // Rounded up: a client that waits as long as it is told to shall not come too early.
        let whole = |wait: Duration| wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let wait = over.retry_after.map(whole);
        // A minute ends up to a tenth of a second late: that is still a minute.
        error.retry_after_s = match wait {
            Some(wait) if wait == LONGEST_RETRY_S + 1 => Some(LONGEST_RETRY_S),
            wait => wait,
        };
        error.standing = Some(Box::new(over.standing()));
        error.is_final = error
            .retry_after_s
            .is_none_or(|wait| wait > LONGEST_RETRY_S);
        error
    }
}

impl From<RolloutError> for ApiError {
    fn from(error: RolloutError) -> Self {
        match error {
            RolloutError::Store(error) => error.into(),
            RolloutError::NoSuchRevision { id, .. } => Self::no_such("revision", &id),
            error => Self::conflict(&error.to_string()),
        }
    }
}

impl From<router::Error> for ApiError {
    fn from(error: router::Error) -> Self {
        let message = error.to_string();
        match error {
            router::Error::UnknownModel(_) => Self::new(
                StatusCode::NOT_FOUND,
                "invalid_request_error",
                Some("model_not_found"),
                message,
            )
            .param(Some("model")),
            router::Error::WrongKind { .. } => Self::invalid(Some("model"), &message),
            // Somebody has to look at it: no client's waiting ends it.
            router::Error::Closed(_) => Self {
                retry_after_s: None,
                is_final: true,
                ..Self::unavailable("model_not_ready", message, LATER_S)
            },
        }
    }
}

impl From<scheduler::Error> for ApiError {
    fn from(error: scheduler::Error) -> Self {
        let message = error.to_string();
        match error {
            scheduler::Error::QueueFull => Self::unavailable("queue_full", message, SOON_S),
            // Not the server's want of room, but this client's own requests.
            scheduler::Error::TenantQueueFull => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "requests",
                Some("rate_limit_exceeded"),
                message,
            )
            .retry_after(SOON_S),
            scheduler::Error::QueueTimeout => Self::unavailable("queue_timeout", message, SOON_S),
            scheduler::Error::NotReady(_) => Self::unavailable("model_not_ready", message, LATER_S),
            scheduler::Error::NoWorker => Self::unavailable("no_worker", message, LATER_S),
        }
    }
}

impl From<metering::Error> for ApiError {
    fn from(error: metering::Error) -> Self {
        let message = error.to_string();
        match error {
            metering::Error::LedgerDown => {
                Self::unavailable("ledger_unavailable", message, LATER_S)
            }
            metering::Error::Lost => Self::unavailable("replica_lost", message, SOON_S),
            metering::Error::TooManyOpen => Self::unavailable("too_many_requests", message, SOON_S),
            metering::Error::Failed(failure) => failure.into(),
        }
    }
}

impl From<Failure> for ApiError {
    fn from(failure: Failure) -> Self {
        let message = failure.to_string();
        match failure {
            Failure::Invalid { param, .. } => Self::invalid(param.as_deref(), &message),
            Failure::ContextLength { param, .. } => {
                let code = Some("context_length_exceeded");
                Self::new(
                    StatusCode::BAD_REQUEST,
                    "invalid_request_error",
                    code,
                    message,
                )
                .param(Some(&param))
            }
            Failure::Refused {
                status,
                param,
                code,
                ..
            } => Self::refused_by_worker(status, param, code.as_deref(), message),
            Failure::NotReady(_) => Self::unavailable("model_not_ready", message, LATER_S),
            Failure::Busy => Self::unavailable("worker_busy", message, SOON_S),
            Failure::Broken(reason) => {
                tracing::error!(reason, "a worker failed");
                let message = "the model's worker failed; nothing is charged for this answer";
                Self::new(
                    StatusCode::BAD_GATEWAY,
                    "server_error",
                    Some("worker_failed"),
                    message,
                )
            }
        }
    }
}

#[cfg(test)]
mod tests;
