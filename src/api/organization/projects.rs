//! `/v1/organization/projects`

use axum::Json as Answer;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::limit::LimitBody;
use super::{admin, checked_name, project};
use crate::api::Shared;
use crate::api::auth::Administrating;
use crate::api::body::Json;
use crate::api::error::ApiError;
use crate::api::list::{List, page};
use crate::api::path::Path;
use crate::api::query::Query;
use crate::types::Project;

#[derive(Serialize)]
pub(in crate::api) struct ProjectObject {
    id: String,
    object: &'static str,
    name: String,
    created_at: i64,
    archived_at: Option<i64>,
    status: &'static str,
}

impl From<Project> for ProjectObject {
    fn from(project: Project) -> Self {
        Self {
            id: project.id.to_string(),
            object: "organization.project",
            name: project.name,
            created_at: project.created.as_second(),
            archived_at: project.archived.map(Timestamp::as_second),
            status: if project.archived.is_some() {
                "archived"
            } else {
                "active"
            },
        }
    }
}

#[derive(Deserialize)]
pub(in crate::api) struct Create {
    name: String,
    /// Not OpenAI's: what it must keep to from its first request on.
    #[serde(default)]
    limits: LimitBody,
}

#[derive(Deserialize)]
pub(in crate::api) struct Modify {
    name: String,
}

pub(in crate::api) async fn list(
    State(api): Shared,
    Administrating(administrator): Administrating,
    mut query: Query,
) -> Result<Answer<List<ProjectObject>>, ApiError> {
    let page = page(&mut query)?;
    let archived = query.flag("include_archived")?.unwrap_or(false);
    let store = &api.gateway.store;
    let rows = store
        .projects(Some(&administrator.organisation), archived, &page)
        .await?;
    let id = |project: &Project| project.id.as_str().to_owned();
    Ok(Answer(List::of(rows, &page, id, ProjectObject::from)))
}

pub(in crate::api) async fn create(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Json(body): Json<Create>,
) -> Result<Answer<ProjectObject>, ApiError> {
    let name = checked_name(body.name)?;
    let made = admin(&api, &administrator)
        .create_project(&administrator.organisation, &name, body.limits.into())
        .await?;
    Ok(Answer(made.into()))
}

pub(in crate::api) async fn retrieve(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(id): Path<String>,
) -> Result<Answer<ProjectObject>, ApiError> {
    Ok(Answer(project(&api, &administrator, &id).await?.into()))
}

pub(in crate::api) async fn modify(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(id): Path<String>,
    Json(body): Json<Modify>,
) -> Result<Answer<ProjectObject>, ApiError> {
    let project = project(&api, &administrator, &id).await?;
    let name = checked_name(body.name)?;
    admin(&api, &administrator)
        .rename_project(&project, &name)
        .await?;
    Ok(Answer(Project { name, ..project }.into()))
}

pub(in crate::api) async fn archive(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(id): Path<String>,
) -> Result<Answer<ProjectObject>, ApiError> {
    let found = project(&api, &administrator, &id).await?;
    admin(&api, &administrator).archive_project(&found).await?;
    Ok(Answer(project(&api, &administrator, &id).await?.into()))
}
