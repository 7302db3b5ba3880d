//! What an answer that is none means.

use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use serde::Deserialize;
use serde_json::Value;

use super::connections::Body;
use crate::types::Failure;

/// An error's text is read up to here.
const LONGEST: usize = 64 << 10;

/// OpenAI's envelope, or its inside alone, as vLLM once had it.
#[derive(Deserialize)]
struct Envelope {
    error: Option<Value>,
    message: Option<String>,
}

/// Which failure a status other than 2xx is.
pub(super) async fn read(response: http::Response<Body>) -> Failure {
    let status = response.status();
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Failure::Busy,
        // What the gateway is to blame for, or the operator: the client can do nothing about it.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
            Failure::Broken(format!("it refused the gateway with {status}"))
        }
        StatusCode::REQUEST_TIMEOUT | StatusCode::METHOD_NOT_ALLOWED => {
            Failure::Broken(format!("it answered with {status}"))
        }
        status if status.is_client_error() => {
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            let Ok(body) = body else { return broke_off() };
            told(status, &body.to_bytes())
        }
        status => Failure::Broken(format!("it answered with {status}")),
    }
}

pub(super) fn broke_off() -> Failure {
    Failure::Broken("its answer broke off".into())
}

fn told(status: StatusCode, body: &[u8]) -> Failure {
    let envelope: Option<Envelope> = serde_json::from_slice(body).ok();
    let (error, plain) = match envelope {
        Some(envelope) => (envelope.error, envelope.message),
        None => (None, None),
    };
    let of = |name: &str| {
        let field = error.as_ref()?.get(name)?;
        field.as_str().map(str::to_owned)
    };
    let words = error.as_ref().and_then(Value::as_str).map(str::to_owned);
    let message = of("message").or(words).or(plain);
    Failure::Refused {
        status: status.as_u16(),
        param: of("param"),
        code: of("code"),
        message: message.unwrap_or_else(|| format!("the model's worker refused this: {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_worker_s_words() {
        for (body, message, param) in [
            (
                r#"{"error":{"message":"too hot","type":"x","param":"temperature","code":null}}"#,
                "too hot",
                Some("temperature"),
            ),
            (
                r#"{"object":"error","message":"too hot","type":"BadRequestError","param":null,"code":400}"#,
                "too hot",
                None,
            ),
            (
                r#"{"error":"too hot","error_type":"validation"}"#,
                "too hot",
                None,
            ),
            (
                "<html>",
                "the model's worker refused this: 400 Bad Request",
                None,
            ),
        ] {
            let Failure::Refused {
                status: 400,
                param: told_param,
                message: told_message,
                ..
            } = told(StatusCode::BAD_REQUEST, body.as_bytes())
            else {
                panic!("{body}");
            };
            assert_eq!(
                (told_message.as_str(), told_param.as_deref()),
                (message, param)
            );
        }
    }
}
