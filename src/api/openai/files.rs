//! `/v1/files`: <https://platform.openai.com/docs/api-reference/files>

use std::sync::Arc;

use axum::Json as Answer;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderValue, header};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::openapi::Schema;
use utoipa::{IntoParams, ToSchema};

use super::form::{Field, Form};
use super::schemas;
use crate::api::auth::Authenticated;
use crate::api::error::ApiError;
use crate::api::list::{List, page_of};
use crate::api::openapi::Conflicts;
use crate::api::path::Path;
use crate::api::query::Query;
use crate::api::{Api, Shared};
use crate::files::{FileReader, FileWriter};
use crate::tenancy::Access;
use crate::types::{FileId, FileQuery, ProjectId, Purpose, StoreError, StoredFile};

const MOST_LISTED: u32 = 10_000;
const MAX_NAME_BYTES: usize = 512;
/// How long a file may be kept, in seconds.
const KEPT_S: std::ops::RangeInclusive<u32> = 3600..=30 * 24 * 3600;

#[derive(Serialize, ToSchema)]
#[schema(as = OpenAIFile)]
pub(in crate::api) struct FileObject {
    id: String,
    object: &'static str,
    bytes: u64,
    created_at: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<i64>,
    filename: String,
    purpose: &'static str,
    status: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = DeleteFileResponse)]
pub(in crate::api) struct Deleted {
    id: String,
    object: &'static str,
    deleted: bool,
}

impl From<StoredFile> for FileObject {
    fn from(file: StoredFile) -> Self {
        Self {
            id: file.id.to_string(),
            object: "file",
            bytes: file.bytes,
            created_at: file.created.as_second(),
            expires_at: file.expires.map(Timestamp::as_second),
            filename: file.filename,
            purpose: file.purpose.as_str(),
            status: "processed",
        }
    }
}

/// What a form says of the file that it brings.
#[derive(Default)]
struct Said {
    purpose: Option<String>,
    anchor: Option<String>,
    seconds: Option<String>,
}

impl Said {
    /// True where the field is one of these.
    async fn take(&mut self, field: &mut Field<'_>) -> Result<bool, ApiError> {
        let place = match field.name() {
            "purpose" => &mut self.purpose,
            "expires_after[anchor]" => &mut self.anchor,
            "expires_after[seconds]" => &mut self.seconds,
            _ => return Ok(false),
        };
        if place.replace(field.text().await?).is_some() {
            let message = format!("{} is given more than once", field.name());
            return Err(ApiError::invalid(Some(field.name()), &message));
        }
        // Before the file is read, which may be long.
        self.purpose.as_deref().map(client_purpose).transpose()?;
        Ok(true)
    }

    fn keep_s(&self) -> Result<Option<u32>, ApiError> {
        let seconds = match &self.seconds {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                let message = "expires_after[seconds] must be a whole number";
                ApiError::invalid(Some("expires_after[seconds]"), message)
            })?),
        };
        if self.anchor.is_none() && seconds.is_none() {
            return Ok(None);
        }
        kept(self.anchor.as_deref(), seconds).map(Some)
    }
}

/// For how long a file is to be kept.
pub(super) fn kept(anchor: Option<&str>, seconds: Option<u32>) -> Result<u32, ApiError> {
    let wrong = |param, message: &str| Err(ApiError::invalid(Some(param), message));
    match (anchor, seconds) {
        (Some("created_at"), Some(seconds)) if KEPT_S.contains(&seconds) => Ok(seconds),
        (Some("created_at"), _) => wrong(
            "expires_after[seconds]",
            "expires_after[seconds] must be 3600 to 2592000",
        ),
        _ => wrong(
            "expires_after[anchor]",
            "expires_after[anchor] must be created_at",
        ),
    }
}

pub(super) fn client_purpose(text: &str) -> Result<Purpose, ApiError> {
    let purpose = text.parse::<Purpose>();
    match purpose {
        Ok(purpose) if !purpose.is_made_here() => Ok(purpose),
        Ok(_) => {
            let message = "files for this purpose are made by the server alone";
            Err(ApiError::invalid(Some("purpose"), message))
        }
        Err(message) => Err(ApiError::invalid(Some("purpose"), &message)),
    }
}

/// What becomes of a time to be kept.
pub(super) fn expiry(created: Timestamp, keep_s: Option<u32>) -> Option<Timestamp> {
    keep_s.map(|seconds| created + SignedDuration::from_secs(seconds.into()))
}

pub(super) fn checked_filename(name: &str) -> Result<String, ApiError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        let message = "filename must have 1 to 512 bytes, and no control characters";
        return Err(ApiError::invalid(Some("filename"), message));
    }
    Ok(name.to_owned())
}

/// What the form of a new file may hold.
#[derive(ToSchema)]
#[schema(as = CreateFileRequest)]
#[expect(dead_code, reason = "a form is read field by field")]
struct Create {
    /// As long as the server takes it, with a name of its own.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    #[schema(schema_with = purposes)]
    purpose: String,
    #[serde(rename = "expires_after[anchor]")]
    #[schema(schema_with = schemas::anchor)]
    anchor: Option<String>,
    #[serde(rename = "expires_after[seconds]")]
    #[schema(minimum = 3600, maximum = 2_592_000)]
    seconds: Option<u32>,
}

/// What a file of a client's may be for.
pub(super) fn purposes() -> Schema {
    let clients = Purpose::all().filter(|purpose| !purpose.is_made_here());
    schemas::words(&clients.map(Purpose::as_str).collect::<Vec<_>>())
}

/// Which files are listed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "parameters are looked up by name")]
struct Listed {
    #[param(schema_with = all_purposes)]
    purpose: Option<String>,
    #[param(schema_with = orders)]
    order: Option<String>,
    /// The id of the last one that was seen.
    after: Option<String>,
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u32>,
}

fn all_purposes() -> Schema {
    schemas::words(&Purpose::all().map(Purpose::as_str).collect::<Vec<_>>())
}

fn orders() -> Schema {
    schemas::words(&["asc", "desc"])
}

/// Takes a file.
#[utoipa::path(
    post,
    path = "/v1/files",
    tag = "Files",
    operation_id = "createFile",
    request_body(content = Create, content_type = "multipart/form-data"),
    responses((status = 200, body = FileObject, description = "The file")),
)]
pub(in crate::api) async fn create(
    State(api): Shared,
    Authenticated(access): Authenticated,
    mut form: Form,
) -> Result<Answer<FileObject>, ApiError> {
    let mut said = Said::default();
    let mut writer = None;
    while let Some(mut field) = form.next().await? {
        if said.take(&mut field).await? || field.name() != "file" {
            continue;
        }
        if writer.is_some() {
            return Err(ApiError::invalid(
                Some("file"),
                "there is more than one file",
            ));
        }
        let name = checked_filename(field.filename().unwrap_or("file"))?;
        writer = Some(receive(&api, &access, name, &mut field).await?);
    }
    let missing = |name: &str| ApiError::invalid(Some(name), &format!("missing field `{name}`"));
    let mut writer = writer.ok_or_else(|| missing("file"))?;
    let purpose = said.purpose.as_deref();
    let purpose = client_purpose(purpose.ok_or_else(|| missing("purpose"))?)?;
    let keep_s = said.keep_s()?;
    let file = writer.file_mut();
    file.purpose = purpose;
    file.expires = expiry(file.created, keep_s);
    Ok(Answer(writer.finish().await?.into()))
}

/// Writes the file down as it comes. What it is for may be said behind it.
async fn receive(
    api: &Api,
    access: &Access,
    filename: String,
    field: &mut Field<'_>,
) -> Result<FileWriter, ApiError> {
    let file = StoredFile {
        id: FileId::mint(),
        project: access.caller.project.clone(),
        filename,
        purpose: Purpose::UserData,
        bytes: 0,
        created: Timestamp::now(),
        expires: None,
    };
    let store = Arc::clone(&api.gateway.store);
    let quota = api.files.max_bytes_per_project;
    let mut writer = FileWriter::begin(store, file, None, quota).await?;
    pour(field, &mut writer, api.files.max_bytes).await?;
    Ok(writer)
}

/// All of a field, which may have so many bytes.
pub(super) async fn pour(
    field: &mut Field<'_>,
    writer: &mut FileWriter,
    most: u64,
) -> Result<(), ApiError> {
    while let Some(chunk) = field.chunk().await? {
        if writer.bytes() + chunk.len() as u64 > most {
            return Err(ApiError::file_too_large(most));
        }
        writer.write(&chunk).await?;
    }
    Ok(())
}

/// The project's files.
#[utoipa::path(
    get,
    path = "/v1/files",
    tag = "Files",
    operation_id = "listFiles",
    params(Listed),
    responses((status = 200, body = List<FileObject>, description = "Some of the files, the newest first")),
)]
pub(in crate::api) async fn list(
    State(api): Shared,
    Authenticated(access): Authenticated,
    mut query: Query,
) -> Result<Answer<List<FileObject>>, ApiError> {
    let page = page_of(&mut query, MOST_LISTED, MOST_LISTED)?;
    let purpose = match query.word("purpose")? {
        None => None,
        Some(text) => {
            let purpose = text.parse();
            Some(purpose.map_err(|message: String| ApiError::invalid(Some("purpose"), &message))?)
        }
    };
    let ascending = match query.word("order")?.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => {
            let message = "order must be asc or desc";
            return Err(ApiError::invalid(Some("order"), message));
        }
    };
    let wanted = FileQuery {
        purpose,
        ascending,
        after: page.after.clone(),
        limit: page.limit,
    };
    let rows = api
        .gateway
        .store
        .files(&access.caller.project, &wanted)
        .await?;
    let id = |file: &StoredFile| file.id.to_string();
    Ok(Answer(List::of(rows, &page, id, FileObject::from)))
}

/// What is known of a file.
#[utoipa::path(
    get,
    path = "/v1/files/{file}",
    tag = "Files",
    operation_id = "retrieveFile",
    params(("file" = String, Path)),
    responses((status = 200, body = FileObject, description = "The file")),
)]
pub(in crate::api) async fn retrieve(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Path(id): Path<String>,
) -> Result<Answer<FileObject>, ApiError> {
    let file = found(&api, &access.caller.project, &id).await?;
    Ok(Answer(file.into()))
}

/// Removes a file, unless a batch still needs it.
#[utoipa::path(
    delete,
    path = "/v1/files/{file}",
    tag = "Files",
    operation_id = "deleteFile",
    params(("file" = String, Path)),
    responses((status = 200, body = Deleted, description = "It is gone"), Conflicts),
)]
pub(in crate::api) async fn delete(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Path(id): Path<String>,
) -> Result<Answer<Deleted>, ApiError> {
    let removed = api.gateway.store.remove_file(&access.caller.project, &id);
    removed.await.map_err(|error| no_such("file", &id, error))?;
    Ok(Answer(Deleted {
        id,
        object: "file",
        deleted: true,
    }))
}

/// What is in a file.
#[utoipa::path(
    get,
    path = "/v1/files/{file}/content",
    tag = "Files",
    operation_id = "downloadFile",
    params(("file" = String, Path)),
    responses((status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream")),
)]
pub(in crate::api) async fn content(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let file = found(&api, &access.caller.project, &id).await?;
    let reader = FileReader::open(Arc::clone(&api.gateway.store), &file.id).await?;
    let pieces = stream::try_unfold(reader, |mut reader| async move {
        let piece = reader.next().await?;
        Ok::<_, StoreError>(piece.map(|piece| (piece, reader)))
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(file.bytes));
    let saved = HeaderValue::from_static("attachment");
    headers.insert(header::CONTENT_DISPOSITION, saved);
    let sniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, sniff);
    Ok(response)
}

/// The project's file with this id; another's is none.
pub(super) async fn found(
    api: &Api,
    project: &ProjectId,
    id: &str,
) -> Result<StoredFile, ApiError> {
    let file = api.gateway.store.find_file(project, id).await;
    file.map_err(|error| no_such("file", id, error))
}

/// In the words that all routes have for what isn't there.
pub(super) fn no_such(what: &str, id: &str, error: StoreError) -> ApiError {
    match error {
        StoreError::NotFound(_) => ApiError::no_such(what, id),
        other => other.into(),
    }
}
