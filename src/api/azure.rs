//! Azure's paths: `/openai/deployments/{name}/chat/completions?api-version=...` and `/openai/v1/...`.
//! <https://learn.microsoft.com/azure/ai-foundry/openai/reference>

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::Uri;
use tower::ServiceExt;

use super::error::ApiError;

/// The model that a path names, whatever the body says.
#[derive(Clone)]
pub(super) struct Deployment(pub(super) String);

/// The same routes under Azure's names as well.
pub(super) fn beside(routes: Router) -> Router {
    let azure = axum::routing::any(translated).with_state(routes.clone());
    routes.route("/openai/{*rest}", azure)
}

async fn translated(State(routes): State<Router>, request: Request) -> Response {
    let mut request = without_extensions(request);
    let Some((path, deployment)) = translation(request.uri().path()) else {
        // None of the routes has such a path, and says so.
        return answered(routes, request).await;
    };
    let path = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let Ok(uri) = path.parse::<Uri>() else {
        return ApiError::invalid(None, "the path is no URI").into_response();
    };
    *request.uri_mut() = uri;
    if let Some(deployment) = deployment {
        request.extensions_mut().insert(Deployment(deployment));
    }
    answered(routes, request).await
}

/// What the first match has left on it would stand beside what the second finds.
fn without_extensions(request: Request) -> Request {
    let (parts, body) = request.into_parts();
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = parts.uri;
    *request.version_mut() = parts.version;
    *request.headers_mut() = parts.headers;
    request
}

async fn answered(routes: Router, request: Request) -> Response {
    match routes.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// OpenAI's path for one of Azure's, and the model that it names.
fn translation(path: &str) -> Option<(String, Option<String>)> {
    let rest = path.strip_prefix("/openai/")?;
    if let Some(rest) = rest.strip_prefix("deployments/") {
        let (name, rest) = rest.split_once('/')?;
        let name = percent_encoding::percent_decode_str(name)
            .decode_utf8()
            .ok()?;
        return Some((format!("/v1/{rest}"), Some(name.into_owned())));
    }
    let rest = rest.strip_prefix("v1/").unwrap_or(rest);
    Some((format!("/v1/{rest}"), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azures_paths_are_openais_under_other_names() {
        let named =
            |path: &str, name: Option<&str>| Some((path.to_owned(), name.map(str::to_owned)));
        for (path, expected) in [
            (
                "/openai/deployments/gpt%204/chat/completions",
                named("/v1/chat/completions", Some("gpt 4")),
            ),
            (
                "/openai/deployments/m/embeddings",
                named("/v1/embeddings", Some("m")),
            ),
            (
                "/openai/v1/chat/completions",
                named("/v1/chat/completions", None),
            ),
            ("/openai/files", named("/v1/files", None)),
            ("/openai/deployments/m", None),
            ("/v1/models", None),
        ] {
            assert_eq!(translation(path), expected, "{path}");
        }
    }
}
