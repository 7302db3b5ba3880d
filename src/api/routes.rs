//! All routes in one list, all layers in another.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::cors::ForPages;
use super::error::ApiError;
use super::openai::{
    batches, chat, completions, embeddings, files, models, route, tokens, uploads,
};
use super::organization::{
    admin_keys, audit, costs, keys, models as verticals, projects, queue, rate_limits, usage,
};
use super::{Api, azure, health, openapi, request_id};

/// Everything that clients reach, and what the document says of it. Each handler names its path.
fn table() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(openapi::head())
        .routes(routes!(chat::create))
        .routes(routes!(completions::create))
        .routes(routes!(embeddings::create))
        .routes(routes!(tokens::tokenize))
        .routes(routes!(tokens::detokenize))
        .routes(routes!(route::route))
        .routes(routes!(models::list))
        .routes(routes!(models::retrieve))
        .merge(kept())
        .merge(organization())
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
}

/// What tenants leave here for later.
fn kept() -> OpenApiRouter<Arc<Api>> {
    // Bodies are bounded as they come: a file, and each part of one.
    let form = DefaultBodyLimit::disable;
    OpenApiRouter::default()
        .routes(routes!(files::create).layer(form()))
        .routes(routes!(files::list))
        .routes(routes!(files::retrieve, files::delete))
        .routes(routes!(files::content))
        .routes(routes!(uploads::create))
        .routes(routes!(uploads::add_part).layer(form()))
        .routes(routes!(uploads::complete))
        .routes(routes!(uploads::cancel))
        .routes(routes!(batches::create, batches::list))
        .routes(routes!(batches::retrieve))
        .routes(routes!(batches::cancel))
}

/// For administrators; usage and costs are for tenants as well, of their own.
fn organization() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::default()
        .routes(routes!(projects::list, projects::create))
        .routes(routes!(projects::retrieve, projects::modify))
        .routes(routes!(projects::archive))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::retrieve, keys::delete))
        .routes(routes!(keys::rotate))
        .routes(routes!(rate_limits::list))
        .routes(routes!(rate_limits::modify))
        .routes(routes!(admin_keys::list, admin_keys::create))
        .routes(routes!(admin_keys::retrieve, admin_keys::delete))
        .routes(routes!(audit::list))
        .routes(routes!(usage::completions))
        .routes(routes!(usage::embeddings))
        .routes(routes!(costs::list))
        .routes(routes!(queue::list))
        .routes(routes!(verticals::list))
        .routes(routes!(verticals::retrieve))
        .routes(routes!(verticals::promote))
        .routes(routes!(verticals::roll_back))
        .routes(routes!(verticals::share))
}

/// Routes under other names.
fn also(routes: axum::Router<Arc<Api>>) -> axum::Router<Arc<Api>> {
    routes
        // Where vLLM has them.
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
}

/// The paths of all routes, with `{...}` where ids stand.
#[must_use]
pub fn paths() -> Vec<String> {
    let (_, document) = table().split_for_parts();
    document.paths.paths.into_keys().collect()
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
    let (routes, _) = table().split_for_parts();
    // As one: each that is laid on alone makes every request clone and box once more. From the outside in.
    let layers = ServiceBuilder::new()
        // Whoever reads a body reads no more than that.
        .layer(DefaultBodyLimit::max(edge.max_body_bytes))
        // Whatever happens inside, the answer has its id and the log its line.
        .layer(from_fn_with_state(Arc::clone(&api), request_id::mint))
        // A panic of a handler is one broken answer in the envelope, not a broken connection.
        .layer(CatchPanicLayer::custom(panicked));
    let routes = also(routes)
        .merge(openapi::routes(|| table().into_openapi()))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
        .layer(layers);
    let routes = match edge.cors_origins.as_slice() {
        [] => routes,
        // Browsers ask first whether they may, without a key, and read errors as well.
        origins => routes.layer(ForPages::from_origins(origins)),
    };
    azure::beside(routes)
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
