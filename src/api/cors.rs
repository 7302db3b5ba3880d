//! Pages of browsers: from which origins they may ask, and what they may read of an answer's head.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::Request;
use axum::response::Response;
use axum::routing::Route;
use futures_util::future::Either;
use http::header::ORIGIN;
use http::{HeaderName, HeaderValue};
use tower::{Layer, Service};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, Cors, CorsLayer};

/// What pages may read of an answer's head.
const EXPOSED: [&str; 21] = [
    "idempotent-replayed",
    "retry-after",
    "x-forebay-budget-warning",
    "x-forebay-cut-by",
    "x-forebay-guard",
    "x-forebay-model",
    "x-forebay-queue-ms",
    "x-forebay-revision",
    "x-forebay-route-by",
    "x-forebay-route-ms",
    "x-forebay-route-nearest",
    "x-forebay-route-score",
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

/// Answers pages as CORS has it. Who has no `Origin` is none, and has nothing of it in its answers: it is half of their heads.
#[derive(Clone)]
pub(super) struct ForPages(Arc<CorsLayer>);

impl ForPages {
    /// Pages of these origins may ask, or all where `*` is one of them.
    pub(super) fn from_origins(origins: &[String]) -> Self {
        let origins = if origins.iter().any(|origin| origin == "*") {
            AllowOrigin::any()
        } else {
            let values = origins.iter().filter_map(|origin| origin.parse().ok());
            AllowOrigin::list(values.collect::<Vec<HeaderValue>>())
        };
        let layer = CorsLayer::new()
            .allow_origin(origins)
            .allow_methods(AllowMethods::mirror_request())
            .allow_headers(AllowHeaders::mirror_request())
            .expose_headers(EXPOSED.map(HeaderName::from_static))
            .max_age(PREFLIGHT);
        Self(Arc::new(layer))
    }
}

impl Layer<Route> for ForPages {
    type Service = Pages;

    fn layer(&self, route: Route) -> Pages {
        Pages {
            route,
            cors: Arc::clone(&self.0),
        }
    }
}

/// A route for pages and others. It is cloned for each request.
#[derive(Clone)]
pub(super) struct Pages {
    route: Route,
    cors: Arc<CorsLayer>,
}

impl Service<Request> for Pages {
    type Response = Response;
    type Error = Infallible;
    type Future =
        Either<<Cors<Route> as Service<Request>>::Future, <Route as Service<Request>>::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request>::poll_ready(&mut self.route, context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if request.headers().contains_key(ORIGIN) {
            Either::Left(self.cors.layer(self.route.clone()).call(request))
        } else {
            Either::Right(self.route.call(request))
        }
    }
}
