//! `/v1/uploads`: files that come in parts. <https://platform.openai.com/docs/api-reference/uploads>

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::files::{
    FileObject, checked_filename, client_purpose, expiry, kept, no_such, pour, purposes,
};
use super::form::Form;
use super::schemas;
use crate::api::auth::Authenticated;
use crate::api::body::{Json, optional_object};
use crate::api::error::ApiError;
use crate::api::openapi::{IdempotencyKey, RepeatErrors};
use crate::api::path::Path;
use crate::api::{Api, Shared};
use crate::files::{FileReader, FileWriter};
use crate::types::{FileId, ProjectId, StoredFile, Upload, UploadId, UploadStatus};

/// How long an upload may take.
const LASTS: SignedDuration = SignedDuration::from_hours(1);
const MAX_PART_BYTES: u64 = 64 << 20;
const MAX_MIME_BYTES: usize = 256;

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateUploadRequest)]
pub(in crate::api) struct Create {
    #[schema(min_length = 1, max_length = 512)]
    filename: String,
    #[schema(schema_with = purposes)]
    purpose: String,
    /// Of all parts together.
    bytes: u64,
    #[schema(max_length = 256)]
    mime_type: String,
    #[serde(default, deserialize_with = "optional_object")]
    expires_after: Option<ExpiresAfter>,
}

/// For how long a file is kept.
#[derive(Deserialize, ToSchema)]
pub(super) struct ExpiresAfter {
    #[schema(schema_with = schemas::anchor, required)]
    anchor: Option<String>,
    #[schema(required, nullable = false, minimum = 3600, maximum = 2_592_000)]
    seconds: Option<u32>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = CompleteUploadRequest)]
pub(in crate::api) struct Complete {
    /// In the order in which they make the file.
    #[schema(min_items = 1)]
    part_ids: Vec<String>,
    /// In hexadecimal digits.
    md5: Option<String>,
}

/// What the form of a part holds.
#[derive(ToSchema)]
#[schema(as = AddUploadPartRequest)]
#[expect(dead_code, reason = "a form is read field by field")]
struct AddPart {
    /// 64 MiB at most.
    #[schema(value_type = String, format = Binary)]
    data: Vec<u8>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Upload)]
pub(in crate::api) struct UploadObject {
    id: String,
    object: &'static str,
    bytes: u64,
    created_at: i64,
    filename: String,
    purpose: &'static str,
    status: &'static str,
    expires_at: i64,
    file: Option<FileObject>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = UploadPart)]
pub(in crate::api) struct Part {
    id: String,
    object: &'static str,
    created_at: i64,
    upload_id: String,
}

impl ExpiresAfter {
    pub(super) fn keep_s(&self) -> Result<u32, ApiError> {
        kept(self.anchor.as_deref(), self.seconds)
    }
}

impl UploadObject {
    fn of(upload: Upload, file: Option<StoredFile>) -> Self {
        Self {
            id: upload.id.to_string(),
            object: "upload",
            bytes: upload.file.bytes,
            created_at: upload.file.created.as_second(),
            filename: upload.file.filename,
            purpose: upload.file.purpose.as_str(),
            status: upload.status.as_str(),
            expires_at: upload.until.as_second(),
            file: file.map(FileObject::from),
        }
    }
}

/// Begins a file that comes in parts.
#[utoipa::path(
    post,
    path = "/v1/uploads",
    tag = "Uploads",
    operation_id = "createUpload",
    params(IdempotencyKey),
    request_body = Create,
    responses((status = 200, body = UploadObject, description = "The upload, which waits for its parts"), RepeatErrors),
)]
pub(in crate::api) async fn create(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Json(body): Json<Create>,
) -> Result<Answer<UploadObject>, ApiError> {
    let filename = checked_filename(&body.filename)?;
    let purpose = client_purpose(&body.purpose)?;
    if body.mime_type.len() > MAX_MIME_BYTES || body.mime_type.chars().any(char::is_control) {
        let message = "mime_type must have 256 bytes at most, and no control characters";
        return Err(ApiError::invalid(Some("mime_type"), message));
    }
    let keep_s = body.expires_after.as_ref().map(ExpiresAfter::keep_s);
    let keep_s = keep_s.transpose()?;
    if body.bytes > api.files.max_bytes {
        return Err(ApiError::file_too_large(api.files.max_bytes));
    }
    let created = Timestamp::now();
    let upload = Upload {
        id: UploadId::mint(),
        file: StoredFile {
            id: FileId::mint(),
            project: access.caller.project.clone(),
            filename,
            purpose,
            bytes: body.bytes,
            created,
            expires: None,
        },
        mime_type: body.mime_type,
        status: UploadStatus::Pending,
        until: created + LASTS,
        keep_s,
    };
    api.gateway.store.create_upload(&upload).await?;
    Ok(Answer(UploadObject::of(upload, None)))
}

/// Takes a part.
#[utoipa::path(
    post,
    path = "/v1/uploads/{upload}/parts",
    tag = "Uploads",
    operation_id = "addUploadPart",
    params(("upload" = String, Path)),
    request_body(content = AddPart, content_type = "multipart/form-data"),
    responses((status = 200, body = Part, description = "The part")),
)]
pub(in crate::api) async fn add_part(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Path(id): Path<String>,
    form: Result<Form, ApiError>,
) -> Result<Answer<Part>, ApiError> {
    let upload = pending(&api, &access.caller.project, &id).await?;
    let mut form = form?;
    while let Some(mut field) = form.next().await? {
        if field.name() != "data" {
            continue;
        }
        let part = StoredFile {
            id: format!("part_{}", Uuid::now_v7().simple()).into(),
            created: Timestamp::now(),
            // As long as there is something that it may be a part of.
            expires: Some(upload.until),
            ..upload.file.clone()
        };
        let store = Arc::clone(&api.gateway.store);
        let quota = api.files.max_bytes_per_project;
        let mut writer = FileWriter::begin(store, part, Some(&upload.id), quota).await?;
        pour(&mut field, &mut writer, MAX_PART_BYTES).await?;
        let part = writer.finish().await?;
        return Ok(Answer(Part {
            id: part.id.to_string(),
            object: "upload.part",
            created_at: part.created.as_second(),
            upload_id: id,
        }));
    }
    Err(ApiError::invalid(Some("data"), "missing field `data`"))
}

/// Makes a file of the parts.
#[utoipa::path(
    post,
    path = "/v1/uploads/{upload}/complete",
    tag = "Uploads",
    operation_id = "completeUpload",
    params(("upload" = String, Path)),
    request_body = Complete,
    responses((status = 200, body = UploadObject, description = "The upload, and the file that it made")),
)]
pub(in crate::api) async fn complete(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Path(id): Path<String>,
    body: Result<Json<Complete>, ApiError>,
) -> Result<Answer<UploadObject>, ApiError> {
    let mut upload = pending(&api, &access.caller.project, &id).await?;
    let Json(body) = body?;
    let parts = chosen(&api, &upload, &body.part_ids).await?;
    let md5 = body.md5.filter(|md5| !md5.is_empty());
    if let Some(expected) = md5
        && !expected.eq_ignore_ascii_case(&md5_of(&api, &parts).await?)
    {
        return Err(ApiError::invalid(
            Some("md5"),
            "the content has another MD5",
        ));
    }
    let mut file = upload.file.clone();
    file.created = Timestamp::now();
    file.expires = expiry(file.created, upload.keep_s);
    let store = &api.gateway.store;
    if !store.complete_upload(&upload.id, &file, &parts).await? {
        return Err(over(UploadStatus::Completed));
    }
    upload.status = UploadStatus::Completed;
    Ok(Answer(UploadObject::of(upload, Some(file))))
}

/// Gives an upload up.
#[utoipa::path(
    post,
    path = "/v1/uploads/{upload}/cancel",
    tag = "Uploads",
    operation_id = "cancelUpload",
    params(("upload" = String, Path)),
    responses((status = 200, body = UploadObject, description = "The upload, which makes no file any more")),
)]
pub(in crate::api) async fn cancel(
    State(api): Shared,
    Authenticated(access): Authenticated,
    Path(id): Path<String>,
) -> Result<Answer<UploadObject>, ApiError> {
    let mut upload = pending(&api, &access.caller.project, &id).await?;
    if !api.gateway.store.cancel_upload(&upload.id).await? {
        return Err(over(UploadStatus::Completed));
    }
    upload.status = UploadStatus::Cancelled;
    Ok(Answer(UploadObject::of(upload, None)))
}

/// The parts that make the file, if each is there once and they have its size together.
async fn chosen(api: &Api, upload: &Upload, ids: &[String]) -> Result<Vec<FileId>, ApiError> {
    let wrong = |message: &str| ApiError::invalid(Some("part_ids"), message);
    let parts = api.gateway.store.parts(&upload.id).await?;
    let mut parts: HashMap<_, _> = parts
        .into_iter()
        .map(|part| (part.id.as_str().to_owned(), part))
        .collect();
    let mut chosen = Vec::with_capacity(ids.len());
    let mut bytes = 0;
    for id in ids {
        let part = parts.remove(id);
        let part = part.ok_or_else(|| wrong("a part is not of this upload, or named twice"))?;
        bytes += part.bytes;
        chosen.push(part.id);
    }
    if chosen.is_empty() {
        return Err(wrong("there is no part"));
    }
    if bytes != upload.file.bytes {
        let message = format!(
            "the parts have {bytes} bytes together, and the upload was to have {}",
            upload.file.bytes
        );
        return Err(wrong(&message));
    }
    Ok(chosen)
}

async fn md5_of(api: &Api, parts: &[FileId]) -> Result<String, ApiError> {
    let mut md5 = Md5::new();
    for part in parts {
        let mut reader = FileReader::open(Arc::clone(&api.gateway.store), part).await?;
        while let Some(piece) = reader.next().await? {
            md5.update(&piece);
        }
    }
    Ok(hex::encode(md5.finalize()))
}

async fn pending(api: &Api, project: &ProjectId, id: &str) -> Result<Upload, ApiError> {
    let upload = api.gateway.store.find_upload(project, id).await;
    let upload = upload.map_err(|error| no_such("upload", id, error))?;
    match upload.status {
        UploadStatus::Pending => Ok(upload),
        status => Err(over(status)),
    }
}

fn over(status: UploadStatus) -> ApiError {
    let message = format!("the upload is {}", status.as_str());
    ApiError::invalid(None, &message)
}
