//! `Idempotency-Key`: a request that is sent again has its effect once, and gets the same answer.
//!
//! It runs to its end though its client goes, so that there is an answer for whoever asks again. Answers other than 200 free the key.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use super::Api;
use super::auth::Authenticated;
use super::azure::Deployment;
use super::body::Raw;
use super::error::ApiError;
use crate::types::{Paying, Repeatable, Repeated, Replay, RequestId, Store};

const NAME: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const MAX_KEY_BYTES: usize = 255;
/// The longest answer that is kept.
const MAX_KEPT_BYTES: usize = 8 << 20;
/// For how long a key is held; it is held anew each third of that.
const HOLD: Duration = Duration::from_secs(30);
/// Pieces of an answer that may wait for a slow client.
const PIECES: usize = 16;
/// How long a client may take none of them before it counts as gone.
const STALL: Duration = Duration::from_secs(30);

/// The first request under an idempotency key. What it makes is named after it, so that there is one of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct First(pub(super) RequestId);

/// Where it is honoured.
const ROUTES: [&str; 5] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/batches",
    "/v1/uploads",
];

/// Around everything. Requests without a key pass.
pub(super) async fn once(api: &Arc<Api>, request: Request, next: Next) -> Response {
    let Some(key) = request
        .headers()
        .get(NAME)
        .filter(|_| is_honoured(&request))
    else {
        return next.run(request).await;
    };
    let key = key.to_str().ok().map(str::to_owned);
    let key = key.filter(|key| (1..=MAX_KEY_BYTES).contains(&key.len()));
    let answer = match key {
        Some(key) => repeatable(api, key, request, next).await,
        None => Err(ApiError::invalid(
            Some("Idempotency-Key"),
            "an idempotency key has 1 to 255 visible ASCII characters",
        )),
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

fn is_honoured(request: &Request) -> bool {
    let route = request.extensions().get::<MatchedPath>();
    request.method() == Method::POST && route.is_some_and(|route| ROUTES.contains(&route.as_str()))
}

async fn repeatable(
    api: &Arc<Api>,
    key: String,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let Authenticated(access) = Authenticated::from_request_parts(&mut parts, api).await?;
    let request = Request::from_parts(parts, body);
    let (mut parts, body) = split(request).await?;
    let name = parts.extensions.get::<RequestId>().copied();
    let one = Repeatable {
        project: access.caller.project.clone(),
        key,
        fingerprint: fingerprint(&parts, &body),
        request: name.ok_or_else(ApiError::internal)?,
    };
    let store = &api.gateway.store;
    match store.take_key(&one, HOLD).await? {
        Repeated::New => {
            parts.extensions.insert(First(one.request));
        }
        Repeated::Lost { paid, first } => {
            parts.extensions.insert(First(first));
            if paid {
                parts.extensions.insert(Paying::Already);
            }
        }
        Repeated::Runs => return Err(ApiError::still_runs()),
        Repeated::Another => return Err(ApiError::another_request()),
        Repeated::Answered(answer) => return Ok(again(answer)),
    }
    let request = Request::from_parts(parts, Body::from(body));
    let (head, response) = oneshot::channel();
    tokio::spawn(run(Arc::clone(store), one, request, next, head));
    response.await.map_err(|_| ApiError::internal())
}

/// The body, as far as a body may go.
async fn split(request: Request) -> Result<(http::request::Parts, Bytes), ApiError> {
    let (parts, body) = request.into_parts();
    let mut whole = Request::new(body);
    // The bound of a body's size rides on it.
    *whole.extensions_mut() = parts.extensions.clone();
    let Raw(body) = Raw::from_request(whole, &()).await?;
    Ok((parts, body))
}

fn fingerprint(parts: &http::request::Parts, body: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(parts.method.as_str());
    hash.update([0]);
    hash.update(parts.uri.path());
    hash.update([0]);
    if let Some(Deployment(name)) = parts.extensions.get() {
        hash.update(name);
    }
    hash.update([0]);
    hash.update(body);
    hash.finalize().into()
}

fn again(answer: Replay) -> Response {
    let mut response = Body::from(answer.body).into_response();
    if let Ok(kind) = HeaderValue::from_str(&answer.kind) {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    let replayed = HeaderValue::from_static("true");
    response.headers_mut().insert(REPLAYED, replayed);
    response
}

/// Runs a request to its end, and keeps its answer.
async fn run(
    store: Arc<dyn Store>,
    one: Repeatable,
    request: Request,
    next: Next,
    head: oneshot::Sender<Response>,
) {
    let answer = pass_on(request, next, head);
    let mut answer = std::pin::pin!(answer);
    let answer = loop {
        tokio::select! {
            answer = &mut answer => break answer,
            () = tokio::time::sleep(HOLD / 3) => {
                if let Err(error) = store.hold_key(&one, HOLD).await {
                    tracing::warn!(%error, "an idempotency key could not be held");
                }
            }
        }
    };
    let (answer, _client) = answer;
    let done = match answer {
        Kept::All(answer) => store.keep_answer(&one, &answer).await,
        Kept::Nothing => store.free_key(&one).await,
        Kept::Effect => store.lose_key(&one).await,
    };
    if let Err(error) = done {
        tracing::warn!(%error, "an answer could not be kept for those who ask again");
    }
}

/// What is left of an answer.
enum Kept {
    /// All of it.
    All(Replay),
    /// It had its effect, and is too long, or broke off: whoever asks again gets it anew, for nothing if it was charged.
    Effect,
    /// It was refused.
    Nothing,
}

/// Gives the client the answer as it comes, and all of it at the end, where it is one to be kept. The client sees that it is the
/// end once what it holds is dropped.
async fn pass_on(
    request: Request,
    next: Next,
    head: oneshot::Sender<Response>,
) -> (Kept, Option<mpsc::Sender<Result<Bytes, axum::Error>>>) {
    let response = next.run(request).await;
    let (parts, mut body) = response.into_parts();
    let kept = parts.status == StatusCode::OK;
    let kind = parts.headers.get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.to_owned();
    let (pieces, taken) = mpsc::channel(PIECES);
    let mut client = Some(pieces);
    let body_of_client = Body::from_stream(ReceiverStream::new(taken));
    drop(head.send(Response::from_parts(parts, body_of_client)));
    let mut whole = Vec::new();
    let mut fits = kept;
    while let Some(frame) = body.frame().await {
        let piece = frame.map(http_body::Frame::into_data);
        let piece = match piece {
            Ok(Ok(piece)) => Ok(piece),
            // Trailers, of which there are none.
            Ok(Err(_)) => continue,
            Err(error) => Err(error),
        };
        if let Ok(piece) = &piece {
            fits &= whole.len() + piece.len() <= MAX_KEPT_BYTES;
            if fits {
                whole.extend_from_slice(piece);
            }
        }
        fits &= piece.is_ok();
        if let Some(sender) = &client
            && sender.send_timeout(piece, STALL).await.is_err()
        {
            client = None;
        }
    }
    // A stream that failed ends without its last word.
    if kind.starts_with("text/event-stream") {
        fits &= whole.ends_with(b"data: [DONE]\n\n");
    }
    let answer = match kept {
        true if fits => Kept::All(Replay { kind, body: whole }),
        true => Kept::Effect,
        false => Kept::Nothing,
    };
    (answer, client)
}
