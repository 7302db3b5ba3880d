//! `/v1/organization/usage/completions` and `/v1/organization/usage/embeddings`

use axum::Json as Answer;
use axum::extract::State;
use serde::Serialize;
use utoipa::openapi::Schema;
use utoipa::{IntoParams, ToSchema};

use super::report::{Report, Span, SpanParams, Width, group_by, projects};
use crate::api::Shared;
use crate::api::auth::Identified;
use crate::api::error::ApiError;
use crate::api::openai::schemas;
use crate::api::openapi::NoSuchThing;
use crate::api::query::Query;
use crate::types::{Dimension, Endpoint, UsageRow};

const GROUPS: [(&str, Dimension); 5] = [
    ("project_id", Dimension::Project),
    ("user_id", Dimension::User),
    ("api_key_id", Dimension::Key),
    ("model", Dimension::Model),
    ("batch", Dimension::Batch),
];

#[derive(Serialize, ToSchema)]
#[schema(as = UsageCompletionsResult)]
pub(in crate::api) struct Completions {
    object: &'static str,
    input_tokens: i64,
    output_tokens: i64,
    input_cached_tokens: i64,
    input_audio_tokens: i64,
    output_audio_tokens: i64,
    #[serde(flatten)]
    common: Common,
    batch: Option<bool>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = UsageEmbeddingsResult)]
pub(in crate::api) struct Embeddings {
    object: &'static str,
    input_tokens: i64,
    #[serde(flatten)]
    common: Common,
}

#[derive(Serialize, ToSchema)]
#[schema(as = UsageCommon)]
struct Common {
    num_model_requests: i64,
    project_id: Option<String>,
    /// The end user, in the caller's own words.
    user_id: Option<String>,
    api_key_id: Option<String>,
    model: Option<String>,
}

impl Common {
    fn of(row: UsageRow) -> Self {
        Self {
            num_model_requests: row.requests,
            project_id: row.project,
            user_id: row.user,
            api_key_id: row.key,
            model: row.model,
        }
    }
}

/// What of the usage is told, and what it is told apart by.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "parameters are looked up by name")]
struct Told {
    #[param(schema_with = widths)]
    bucket_width: Option<String>,
    #[param(schema_with = groups)]
    group_by: Option<Vec<String>>,
    user_ids: Option<Vec<String>>,
    api_key_ids: Option<Vec<String>>,
    models: Option<Vec<String>>,
    /// Only what batches used, or only what they did not.
    batch: Option<bool>,
}

fn widths() -> Schema {
    schemas::words(&["1m", "1h", "1d"])
}

fn groups() -> Schema {
    schemas::list(schemas::words(&GROUPS.map(|(name, _)| name)))
}

/// What chats and completions used; a project's key sees its own.
#[utoipa::path(
    get,
    path = "/v1/organization/usage/completions",
    tag = "Usage",
    operation_id = "usageCompletions",
    params(SpanParams, Told),
    responses((status = 200, body = Report<Completions>, description = "What was used, bucket by bucket"), NoSuchThing),
)]
pub(in crate::api) async fn completions(
    State(api): Shared,
    identity: Identified,
    query: Query,
) -> Result<Answer<Report<Completions>>, ApiError> {
    let endpoints = vec![Endpoint::Chat, Endpoint::Completions];
    let (span, rows) = rows(&api, identity, query, endpoints).await?;
    let show = |row: UsageRow| Completions {
        object: "organization.usage.completions.result",
        input_tokens: row.prompt_tokens,
        output_tokens: row.completion_tokens,
        input_cached_tokens: row.cached_tokens,
        input_audio_tokens: 0,
        output_audio_tokens: 0,
        batch: row.batch,
        common: Common::of(row),
    };
    Ok(Answer(span.report(rows, show)))
}

/// What embeddings used; a project's key sees its own.
#[utoipa::path(
    get,
    path = "/v1/organization/usage/embeddings",
    tag = "Usage",
    operation_id = "usageEmbeddings",
    params(SpanParams, Told),
    responses((status = 200, body = Report<Embeddings>, description = "What was used, bucket by bucket"), NoSuchThing),
)]
pub(in crate::api) async fn embeddings(
    State(api): Shared,
    identity: Identified,
    query: Query,
) -> Result<Answer<Report<Embeddings>>, ApiError> {
    let (span, rows) = rows(&api, identity, query, vec![Endpoint::Embeddings]).await?;
    let show = |row: UsageRow| Embeddings {
        object: "organization.usage.embeddings.result",
        input_tokens: row.prompt_tokens,
        common: Common::of(row),
    };
    Ok(Answer(span.report(rows, show)))
}

async fn rows(
    api: &crate::api::Api,
    Identified(identity): Identified,
    mut query: Query,
    endpoints: Vec<Endpoint>,
) -> Result<(Span, Vec<UsageRow>), ApiError> {
    let width = Width::of(&mut query)?;
    let span = Span::of(&mut query, width)?;
    let mut usage = span.query(group_by(&mut query, &GROUPS)?)?;
    usage.projects = projects(api, &identity, query.list("project_ids")).await?;
    usage.users = query.list("user_ids");
    usage.keys = query.list("api_key_ids");
    usage.models = query.list("models");
    usage.batch = query.flag("batch")?;
    usage.endpoints = endpoints;
    let rows = api.gateway.store.usage(&usage).await?;
    Ok((span, rows))
}
