//! `/openapi.json`, which says what clients may ask and what they get, and `/docs/`, a page to read it.
//! <https://spec.openapis.org/oas/v3.1.1>

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, PathItem, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoParams, IntoResponses, OpenApi, ToSchema};
use utoipa_swagger_ui::Config;

use super::error::{ApiError, Envelope};

const DOCUMENT: &str = "/openapi.json";
/// The page takes nothing from anywhere else.
const SELF_ALONE: &str =
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:";

/// Statuses of errors, and what they mean.
const ERRORS: [(StatusCode, &str); 13] = [
    (
        StatusCode::BAD_REQUEST,
        "The request is wrong; `param` says where",
    ),
    (
        StatusCode::UNAUTHORIZED,
        "There is no key, or none that is accepted",
    ),
    (StatusCode::FORBIDDEN, "The key is not one for this"),
    (
        StatusCode::NOT_FOUND,
        "There is no such thing that this key may know of",
    ),
    (
        StatusCode::REQUEST_TIMEOUT,
        "The body took too long to come",
    ),
    (StatusCode::CONFLICT, "Not as things stand"),
    (
        StatusCode::PAYLOAD_TOO_LARGE,
        "It is larger than the server takes",
    ),
    (
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "It is compressed in a way that is not known here",
    ),
    (
        StatusCode::UNPROCESSABLE_ENTITY,
        "The idempotency key was another request's, or a remote worker can't do this",
    ),
    (
        StatusCode::TOO_MANY_REQUESTS,
        "A limit or a budget is spent; Retry-After says for how long",
    ),
    (StatusCode::INTERNAL_SERVER_ERROR, "A fault of the server's"),
    (
        StatusCode::BAD_GATEWAY,
        "The model's worker failed; nothing is charged",
    ),
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "Not at the moment; Retry-After says when, where waiting helps",
    ),
];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Forebay",
        description = "A gateway for private model serving. What it has in common with OpenAI's API has the same \
                       shapes, and the same names here.",
    ),
    components(schemas(Envelope)),
    security(("key" = [])),
)]
struct Head;

/// What stands in the document beside the routes.
pub(super) fn head() -> utoipa::openapi::OpenApi {
    let mut document = Head::openapi();
    let components = document.components.get_or_insert_default();
    let key = HttpBuilder::new().scheme(HttpAuthScheme::Bearer);
    components.add_security_scheme("key", SecurityScheme::Http(key.build()));
    for (status, description) in ERRORS {
        let envelope = Content::new(Some(Ref::from_schema_name(Envelope::name())));
        let error = ResponseBuilder::new()
            .description(description)
            .content("application/json", envelope)
            .build();
        components
            .responses
            .insert(name(status).to_owned(), error.into());
    }
    document
}

/// By which the document refers to an error.
fn name(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or_default()
}

type Errors = BTreeMap<String, RefOr<utoipa::openapi::Response>>;

fn errors(statuses: impl IntoIterator<Item = StatusCode>) -> Errors {
    let error = |status: StatusCode| {
        let reference = Ref::from_response_name(name(status));
        (status.as_str().to_owned(), RefOr::Ref(reference))
    };
    statuses.into_iter().map(error).collect()
}

/// What a model can't be asked, or can't answer.
pub(super) struct ModelErrors;

impl IntoResponses for ModelErrors {
    fn responses() -> Errors {
        errors([
            StatusCode::NOT_FOUND,
            StatusCode::CONFLICT,
            StatusCode::UNPROCESSABLE_ENTITY,
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::BAD_GATEWAY,
        ])
    }
}

/// What an idempotency key may meet.
pub(super) struct RepeatErrors;

impl IntoResponses for RepeatErrors {
    fn responses() -> Errors {
        errors([StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY])
    }
}

/// The body or the query names something that isn't there.
pub(super) struct NoSuchThing;

impl IntoResponses for NoSuchThing {
    fn responses() -> Errors {
        errors([StatusCode::NOT_FOUND])
    }
}

/// Something else stands against it.
pub(super) struct Conflicts;

impl IntoResponses for Conflicts {
    fn responses() -> Errors {
        errors([StatusCode::CONFLICT])
    }
}

/// `Idempotency-Key`
pub(super) struct IdempotencyKey;

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let key = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(255));
        let header = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .description(Some(
                "A request that is sent again under its key has its effect once, and gets the same answer",
            ))
            .schema(Some(key));
        vec![header.build()]
    }
}

/// What any operation of this kind may answer, however it is made.
fn common(operation: &Operation) -> Errors {
    let mut statuses = vec![
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    if operation.security.is_none() {
        statuses.extend([StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]);
    }
    let parameters = operation.parameters.as_deref().unwrap_or_default();
    if !parameters.is_empty() || operation.request_body.is_some() {
        statuses.push(StatusCode::BAD_REQUEST);
    }
    if parameters.iter().any(is_in_path) {
        statuses.push(StatusCode::NOT_FOUND);
    }
    if operation.request_body.is_some() {
        statuses.extend([
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ]);
    }
    errors(statuses)
}

fn is_in_path(parameter: &RefOr<Parameter>) -> bool {
    matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Path)
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.delete]
        .into_iter()
        .flatten()
}

/// The document as it is given out.
fn complete(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        for (status, error) in common(operation) {
            operation.responses.responses.entry(status).or_insert(error);
        }
    }
    // There is no name in OpenAPI for what has slashes in it.
    let plain = |(path, item): (String, PathItem)| (path.replace("{*", "{"), item);
    document.paths.paths = document.paths.paths.into_iter().map(plain).collect();
    document
}

/// The document, which is written once somebody asks for it, and the page.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(
    document: fn() -> utoipa::openapi::OpenApi,
) -> axum::Router<S> {
    let document = LazyLock::new(move || {
        let document = serde_json::to_vec(&complete(document())).unwrap_or_default();
        Bytes::from(document)
    });
    let document = Arc::new(document);
    let json = async move || {
        let json = [(header::CONTENT_TYPE, "application/json")];
        (json, Bytes::clone(&document))
    };
    // By default the page asks a server on the internet whether the document is right.
    let config = Config::new([DOCUMENT]).validator_url("none");
    axum::Router::new()
        .route(DOCUMENT, get(json))
        .route("/docs", get(|| async { Redirect::permanent("/docs/") }))
        .route("/docs/", get(index))
        .route("/docs/{file}", get(file))
        .with_state(Arc::new(config))
}

async fn index(state: State<Arc<Config<'static>>>) -> Result<Response, ApiError> {
    file(state, Path("index.html".to_owned())).await
}

async fn file(
    State(config): State<Arc<Config<'static>>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let file = utoipa_swagger_ui::serve(&name, config).map_err(|_| ApiError::internal())?;
    let file = file.ok_or_else(|| ApiError::no_such("file", &name))?;
    let mut response = file.bytes.into_owned().into_response();
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(&file.content_type) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    let policy = HeaderValue::from_static(SELF_ALONE);
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    Ok(response)
}
