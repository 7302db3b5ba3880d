//! Bodies that are compressed on their way, in either direction.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use tower::{ServiceExt, service_fn};
use tower_http::compression::predicate::Predicate;
use tower_http::compression::{Compression, CompressionLevel};
use tower_http::decompression::RequestDecompression;

use super::error::ApiError;
use super::{Api, repeat};

/// Shorter answers are sent as they are.
const WORTH_IT_BYTES: u64 = 2048;
/// What a client may compress its body with.
const KNOWN: [&str; 3] = ["gzip", "zstd", "identity"];

/// Answers a request, and undoes and does what its client wants done to bodies. Most want nothing, and pay nothing for it.
pub(super) async fn carry(api: &Arc<Api>, mut request: Request, next: Next) -> Response {
    let Some(name) = request.headers().get(CONTENT_ENCODING) else {
        return compressed(api, request, next).await;
    };
    let known = KNOWN.iter().find(|known| {
        let same = |name: &str| name.eq_ignore_ascii_case(known);
        name.to_str().is_ok_and(same)
    });
    let Some(known) = known.filter(|_| !is_form(&request)) else {
        return ApiError::unknown_encoding().into_response();
    };
    let known = HeaderValue::from_static(known);
    request.headers_mut().insert(CONTENT_ENCODING, known);
    decompressed(api, request, next).await
}

/// Forms are read piece by piece, and a small compressed piece may be a very large one.
fn is_form(request: &Request) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/"))
}

async fn decompressed(api: &Arc<Api>, request: Request, next: Next) -> Response {
    let inner = service_fn(|request: http::Request<_>| {
        let answer = compressed(api, request.map(Body::new), next.clone());
        async { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let plain = RequestDecompression::new(inner).gzip(true).zstd(true);
    match plain.oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(_) => ApiError::internal().into_response(),
    }
}

async fn compressed(api: &Arc<Api>, request: Request, next: Next) -> Response {
    if !request.headers().contains_key(ACCEPT_ENCODING) {
        return repeat::once(api, request, next).await;
    }
    let inner = service_fn(|request| {
        let answer = repeat::once(api, request, next.clone());
        async { Ok::<_, std::convert::Infallible>(answer.await) }
    });
    let packed = Compression::new(inner)
        .gzip(true)
        .zstd(true)
        .quality(CompressionLevel::Fastest)
        .compress_when(WorthIt);
    match packed.oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}

/// JSON that is there whole and is long. A stream's events are wanted as they come, and files are what they are.
#[derive(Clone, Copy)]
struct WorthIt;

impl Predicate for WorthIt {
    fn should_compress<B: http_body::Body>(&self, response: &http::Response<B>) -> bool {
        let kind = response.headers().get(CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"))
            && response.body().size_hint().exact() >= Some(WORTH_IT_BYTES)
    }
}
