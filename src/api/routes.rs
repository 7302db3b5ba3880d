//! All routes in one list, all layers in another.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::routing::{MethodRouter, get, post};
use http::{HeaderName, HeaderValue};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use super::error::ApiError;
use super::openai::{batches, chat, completions, embeddings, files, models, tokens, uploads};
use super::organization::{admin_keys, audit, costs, keys, projects, queue, rate_limits, usage};
use super::{Api, azure, health, request_id};

/// What pages may read of an answer's head.
const EXPOSED: [&str; 15] = [
    "idempotent-replayed",
    "retry-after",
    "x-forebay-budget-warning",
    "x-forebay-cut-by",
    "x-forebay-model",
    "x-forebay-queue-ms",
    "x-forebay-served-by",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
    "x-should-retry",
];
/// For how long a browser needs not ask again.
const PREFLIGHT: Duration = Duration::from_secs(3600);

type Route = (&'static str, MethodRouter<Arc<Api>>);

/// Everything that clients reach.
fn table() -> Vec<Route> {
    let mut routes = vec![
        ("/v1/chat/completions", post(chat::create)),
        ("/v1/completions", post(completions::create)),
        ("/v1/embeddings", post(embeddings::create)),
        ("/v1/tokenize", post(tokens::tokenize)),
        ("/v1/detokenize", post(tokens::detokenize)),
        // Where vLLM has them.
        ("/tokenize", post(tokens::tokenize)),
        ("/detokenize", post(tokens::detokenize)),
        ("/v1/models", get(models::list)),
        ("/v1/models/{*model}", get(models::retrieve)),
        ("/health", get(health::live)),
        ("/ready", get(health::ready)),
    ];
    routes.extend(kept());
    routes.extend(organization());
    routes
}

/// What tenants leave here for later.
fn kept() -> [Route; 10] {
    // Bodies are bounded as they come: a file, and each part of one.
    let form = |route: MethodRouter<_>| route.layer(DefaultBodyLimit::disable());
    [
        ("/v1/files", form(post(files::create)).get(files::list)),
        (
            "/v1/files/{file}",
            get(files::retrieve).delete(files::delete),
        ),
        ("/v1/files/{file}/content", get(files::content)),
        ("/v1/uploads", post(uploads::create)),
        ("/v1/uploads/{upload}/parts", form(post(uploads::add_part))),
        ("/v1/uploads/{upload}/complete", post(uploads::complete)),
        ("/v1/uploads/{upload}/cancel", post(uploads::cancel)),
        ("/v1/batches", post(batches::create).get(batches::list)),
        ("/v1/batches/{batch}", get(batches::retrieve)),
        ("/v1/batches/{batch}/cancel", post(batches::cancel)),
    ]
}

/// For administrators; usage and costs are for tenants as well, of their own.
fn organization() -> [Route; 15] {
    let project = get(projects::retrieve).post(projects::modify);
    let key = get(keys::retrieve).delete(keys::delete);
    let admin_key = get(admin_keys::retrieve).delete(admin_keys::delete);
    let rate_limit = post(rate_limits::modify);
    [
        (
            "/v1/organization/projects",
            get(projects::list).post(projects::create),
        ),
        ("/v1/organization/projects/{project}", project),
        (
            "/v1/organization/projects/{project}/archive",
            post(projects::archive),
        ),
        (
            "/v1/organization/projects/{project}/api_keys",
            get(keys::list).post(keys::create),
        ),
        ("/v1/organization/projects/{project}/api_keys/{key}", key),
        (
            "/v1/organization/projects/{project}/api_keys/{key}/rotate",
            post(keys::rotate),
        ),
        (
            "/v1/organization/projects/{project}/rate_limits",
            get(rate_limits::list),
        ),
        (
            "/v1/organization/projects/{project}/rate_limits/{limit}",
            rate_limit,
        ),
        (
            "/v1/organization/admin_api_keys",
            get(admin_keys::list).post(admin_keys::create),
        ),
        ("/v1/organization/admin_api_keys/{key}", admin_key),
        ("/v1/organization/audit_logs", get(audit::list)),
        (
            "/v1/organization/usage/completions",
            get(usage::completions),
        ),
        ("/v1/organization/usage/embeddings", get(usage::embeddings)),
        ("/v1/organization/costs", get(costs::list)),
        ("/v1/organization/queue", get(queue::list)),
    ]
}

/// The paths of all routes, with `{...}` where ids stand.
#[must_use]
pub fn paths() -> Vec<&'static str> {
    table().into_iter().map(|(path, _)| path).collect()
}

/// How clients are met.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The largest body, files aside.
    pub max_body_bytes: usize,
    /// Whose pages may ask from a browser; anybody's, where `*` is one of them.
    pub cors_origins: Vec<String>,
}

/// What clients reach.
pub fn gateway_routes(api: Arc<Api>, edge: &Edge) -> axum::Router {
    let add = |router: axum::Router<_>, (path, methods)| router.route(path, methods);
    let routes = table()
        .into_iter()
        .fold(axum::Router::new(), add)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Arc::clone(&api))
        // From the inside out. A panic of a handler is one broken answer in the envelope, not a broken connection.
        .layer(CatchPanicLayer::custom(panicked))
        // Whatever happens inside, the answer has its id and the log its line.
        .layer(axum::middleware::from_fn_with_state(api, request_id::mint))
        // Browsers ask first whether they may, without a key, and read errors as well.
        .layer(cors(&edge.cors_origins))
        // Whoever reads a body reads no more than that.
        .layer(DefaultBodyLimit::max(edge.max_body_bytes));
    azure::beside(routes)
}

fn cors(origins: &[String]) -> CorsLayer {
    let origins = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let values = origins.iter().filter_map(|origin| origin.parse().ok());
        AllowOrigin::list(values.collect::<Vec<HeaderValue>>())
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(EXPOSED.map(HeaderName::from_static))
        .max_age(PREFLIGHT)
}

/// What Prometheus reaches.
pub fn metrics_routes(api: Arc<Api>) -> axum::Router {
    axum::Router::new()
        .route("/metrics", get(health::metrics))
        .with_state(api)
}

async fn unknown_path(method: http::Method, uri: http::Uri) -> ApiError {
    ApiError::not_found(format!("unknown URL: {method} {}", uri.path()))
}

async fn wrong_method(method: http::Method, uri: http::Uri) -> ApiError {
    ApiError::wrong_method(format!("{method} is not allowed on {}", uri.path()))
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> http::Response<axum::body::Body> {
    // What it said may quote the request; the panic hook has told the log where it was.
    tracing::error!("a handler panicked");
    axum::response::IntoResponse::into_response(ApiError::internal())
}
