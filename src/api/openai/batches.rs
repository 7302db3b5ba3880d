//! `/v1/batches`: <https://platform.openai.com/docs/api-reference/batch>

use axum::Json as Answer;
use axum::extract::{Extension, State};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa::openapi::Schema;

use super::files::{found, no_such};
use super::schemas;
use super::uploads::ExpiresAfter;
use crate::api::auth::Authenticated;
use crate::api::body::{Json, optional_object};
use crate::api::error::ApiError;
use crate::api::list::{List, PageParams, page};
use crate::api::openapi::{Conflicts, IdempotencyKey, NoSuchThing, RepeatErrors};
use crate::api::path::Path;
use crate::api::query::Query;
use crate::api::repeat::First;
use crate::api::{Api, Shared};
use crate::tenancy::Access;
use crate::types::{
    Batch, BatchCounts, BatchFault, BatchId, BatchStatus, BatchStep, BatchTimes, Endpoint, FileId,
    Purpose,
};

/// The only one that OpenAI knows. How long it is here is for the operator to say.
const WINDOW: &str = "24h";
/// <https://platform.openai.com/docs/api-reference/batch/object#batch/object-metadata>
const MAX_METADATA: usize = 16;
const MAX_KEY_CHARS: usize = 64;
const MAX_VALUE_CHARS: usize = 512;

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateBatchRequest)]
pub(in crate::api) struct Create {
    /// A file whose purpose is `batch`.
    input_file_id: String,
    #[schema(schema_with = endpoints)]
    endpoint: String,
    #[schema(schema_with = windows)]
    completion_window: String,
    /// 16 texts at most.
    #[schema(schema_with = schemas::metadata)]
    metadata: Option<Map<String, Value>>,
    #[serde(default, deserialize_with = "optional_object")]
    output_expires_after: Option<ExpiresAfter>,
}

fn endpoints() -> Schema {
    schemas::words(&Endpoint::ALL.map(Endpoint::path))
}

fn windows() -> Schema {
    schemas::words(&[WINDOW])
}

#[derive(Serialize, ToSchema)]
#[schema(as = Batch)]
pub(in crate::api) struct BatchObject {
    id: String,
    object: &'static str,
    endpoint: &'static str,
    errors: Option<Errors>,
    input_file_id: String,
    completion_window: &'static str,
    status: &'static str,
    output_file_id: Option<String>,
    error_file_id: Option<String>,
    created_at: i64,
    in_progress_at: Option<i64>,
    expires_at: i64,
    finalizing_at: Option<i64>,
    completed_at: Option<i64>,
    failed_at: Option<i64>,
    expired_at: Option<i64>,
    cancelling_at: Option<i64>,
    cancelled_at: Option<i64>,
    request_counts: Counts,
    #[schema(schema_with = schemas::metadata)]
    metadata: Option<Value>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = BatchErrors)]
struct Errors {
    object: &'static str,
    data: Vec<BatchFault>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = BatchRequestCounts)]
struct Counts {
    total: u64,
    completed: u64,
    failed: u64,
}

impl From<Batch> for BatchObject {
    fn from(batch: Batch) -> Self {
        let at = |time: Option<Timestamp>| time.map(Timestamp::as_second);
        let ended = |status| at(batch.times.ended).filter(|_| batch.status == status);
        Self {
            id: batch.id.to_string(),
            object: "batch",
            endpoint: batch.endpoint.path(),
            input_file_id: batch.input.to_string(),
            completion_window: WINDOW,
            status: batch.status.as_str(),
            output_file_id: batch.output.map(|file| file.to_string()),
            error_file_id: batch.errors.map(|file| file.to_string()),
            created_at: batch.created.as_second(),
            in_progress_at: at(batch.times.in_progress),
            expires_at: batch.expires.as_second(),
            finalizing_at: at(batch.times.finalizing),
            completed_at: ended(BatchStatus::Completed),
            failed_at: ended(BatchStatus::Failed),
            expired_at: ended(BatchStatus::Expired),
            cancelling_at: at(batch.times.cancelling),
            cancelled_at: ended(BatchStatus::Cancelled),
            errors: (!batch.faults.is_empty()).then_some(Errors {
                object: "list",
                data: batch.faults,
            }),
            request_counts: Counts {
                total: batch.counts.total,
                completed: batch.counts.completed,
                failed: batch.counts.failed,
            },
            metadata: batch.metadata,
        }
    }
}

impl Create {
    fn batch(self, api: &Api, access: &Access) -> Result<Batch, ApiError> {
        let endpoint = Endpoint::at(&self.endpoint).ok_or_else(|| {
            let known = Endpoint::ALL.map(Endpoint::path).join(", ");
            let message = format!("endpoint is none of {known}");
            ApiError::invalid(Some("endpoint"), &message)
        })?;
        if self.completion_window != WINDOW {
            let message = "completion_window must be 24h";
            return Err(ApiError::invalid(Some("completion_window"), message));
        }
        let keep_s = self.output_expires_after.as_ref();
        let keep_s = keep_s.map(ExpiresAfter::keep_s).transpose()?;
        let created = Timestamp::now();
        let window = SignedDuration::try_from(api.batches.options.window);
        Ok(Batch {
            id: BatchId::mint(),
            caller: access.caller.clone(),
            endpoint,
            input: FileId::from(self.input_file_id),
            metadata: self.metadata.map(checked_metadata).transpose()?,
            keep_s,
            status: BatchStatus::Validating,
            faults: Vec::new(),
            counts: BatchCounts::default(),
            output: None,
            errors: None,
            created,
            expires: created + window.unwrap_or_default(),
            times: BatchTimes::default(),
        })
    }
}

fn checked_metadata(metadata: Map<String, Value>) -> Result<Value, ApiError> {
    let fits = |(key, value): (&String, &Value)| {
        let value = value.as_str().map(|value| value.chars().count());
        key.chars().count() <= MAX_KEY_CHARS && value.is_some_and(|count| count <= MAX_VALUE_CHARS)
    };
    if metadata.len() > MAX_METADATA || !metadata.iter().all(fits) {
        let message = "metadata may have 16 texts of 512 characters, under names of 64";
        return Err(ApiError::invalid(Some("metadata"), message));
    }
    Ok(Value::Object(metadata))
}

/// Runs a file's requests in the batch class, at the batch price.
#[utoipa::path(
    post,
    path = "/v1/batches",
    tag = "Batches",
    operation_id = "createBatch",
    params(IdempotencyKey),
    request_body = Create,
    responses(
        (status = 200, body = BatchObject, description = "The batch, which is looked through before it runs"),
        NoSuchThing,
        RepeatErrors,
    ),
)]
pub(in crate::api) async fn create(
    State(api): Shared,
    Authenticated(access): Authenticated,
    first: Option<Extension<First>>,
    Json(body): Json<Create>,
) -> Result<Answer<BatchObject>, ApiError> {
    let mut batch = body.batch(&api, &access)?;
    if let Some(Extension(First(first))) = first {
        batch.id = format!("batch_{}", first.simple()).into();
        // A process died between making it and telling of it.
        let made = api
            .gateway
            .store
            .find_batch(&access.caller.project, batch.id.as_str());
        if let Ok(made) = made.await {
            return Ok(Answer(made.into()));
        }
    }
    let file = found(&api, &access.caller.project, batch.input.as_str()).await?;
    if file.purpose != Purpose::Batch {
        let message = "the file's purpose must be batch";
        return Err(ApiError::invalid(Some("input_file_id"), message));
    }
    let made = api.gateway.store.create_batch(&batch).await;
    made.map_err(|error| no_such("file", batch.input.as_str(), error))?;
    api.batches.wake();
    Ok(Answer(batch.into()))
}

/// The project's batches.
#[utoipa::path(
    get,
    path = "/v1/batches",
    tag = "Batches",
    operation_id = "listBatches",
    params(PageParams),
    responses((status = 200, body = List<BatchObject>, description = "Some of the batches, the newest first")),
)]
pub(in crate::api) async fn list(
    State(api): Shared,
    Authenticated(access): Authenticated,
    mut query: Query,
) -> Result<Answer<List<BatchObject>>, ApiError> {
    let page = page(&mut query)?;
    let rows = api
        .gateway
        .store
        .batches(&access.caller.project, &page)
        .await?;
    let id = |batch: &Batch| batch.id.to_string();
    Ok(Answer(List::of(rows, &page, id, BatchObject::from)))
}

/// How far a batch is.
#[utoipa::path(
    get,
    path = "/v1/batches/{batch}",
    tag = "Batches",
    operation_id = "retrieveBatch",
    params(("batch" = String, Path)),
    responses((status = 200, body = BatchObject, description = "The batch")),
)]
pub(in crate::api) async fn retrieve(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Path(id): Path<String>,
) -> Result<Answer<BatchObject>, ApiError> {
    Ok(Answer(batch(&api, &access, &id).await?.into()))
}

/// Ends a batch early.
#[utoipa::path(
    post,
    path = "/v1/batches/{batch}/cancel",
    tag = "Batches",
    operation_id = "cancelBatch",
    params(("batch" = String, Path)),
    responses((status = 200, body = BatchObject, description = "The batch, which ends with what it has"), Conflicts),
)]
pub(in crate::api) async fn cancel(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Path(id): Path<String>,
) -> Result<Answer<BatchObject>, ApiError> {
    let before = batch(&api, &access, &id).await?;
    let step = BatchStep {
        from: &[BatchStatus::Validating, BatchStatus::InProgress],
        to: Some(BatchStatus::Cancelling),
        ..BatchStep::default()
    };
    let stepped = api.gateway.store.step_batch(&before.id, &step).await?;
    let after = batch(&api, &access, &id).await?;
    // Twice is as good as once.
    if !stepped && after.status != BatchStatus::Cancelling {
        let message = format!(
            "a batch that is {} can't be cancelled",
            after.status.as_str()
        );
        return Err(ApiError::conflict(&message));
    }
    api.batches.wake();
    Ok(Answer(after.into()))
}

/// The project's batch with this id; another's is none.
async fn batch(api: &Api, access: &Access, id: &str) -> Result<Batch, ApiError> {
    let batch = api.gateway.store.find_batch(&access.caller.project, id);
    batch.await.map_err(|error| no_such("batch", id, error))
}
