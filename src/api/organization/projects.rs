//! `/v1/organization/projects`

use axum::Json as Answer;
use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::limit::LimitBody;
use super::{admin, checked_name, project};
use crate::api::Shared;
use crate::api::auth::Administrating;
use crate::api::body::{Json, object};
use crate::api::error::ApiError;
use crate::api::list::{List, PageParams, page};
use crate::api::openapi::Conflicts;
use crate::api::path::Path;
use crate::api::query::Query;
use crate::types::Project;

#[derive(Serialize, ToSchema)]
#[schema(as = Project)]
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

#[derive(Deserialize, ToSchema)]
#[schema(as = CreateProjectRequest)]
pub(in crate::api) struct Create {
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// Not OpenAI's: what it must keep to from its first request on.
    #[serde(default, deserialize_with = "object")]
    limits: LimitBody,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ModifyProjectRequest)]
pub(in crate::api) struct Modify {
    #[schema(min_length = 1, max_length = 128)]
    name: String,
}

/// Which projects are listed.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "parameters are looked up by name")]
struct Archived {
    include_archived: Option<bool>,
}

/// The organisation's projects.
#[utoipa::path(
    get,
    path = "/v1/organization/projects",
    tag = "Projects",
    operation_id = "listProjects",
    params(PageParams, Archived),
    responses((status = 200, body = List<ProjectObject>, description = "Some of the projects")),
)]
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

/// Makes a project.
#[utoipa::path(
    post,
    path = "/v1/organization/projects",
    tag = "Projects",
    operation_id = "createProject",
    request_body = Create,
    responses((status = 200, body = ProjectObject, description = "The project"), Conflicts),
)]
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

/// What is known of a project.
#[utoipa::path(
    get,
    path = "/v1/organization/projects/{project}",
    tag = "Projects",
    operation_id = "retrieveProject",
    params(("project" = String, Path)),
    responses((status = 200, body = ProjectObject, description = "The project")),
)]
pub(in crate::api) async fn retrieve(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(id): Path<String>,
) -> Result<Answer<ProjectObject>, ApiError> {
    Ok(Answer(project(&api, &administrator, &id).await?.into()))
}

/// Gives a project another name.
#[utoipa::path(
    post,
    path = "/v1/organization/projects/{project}",
    tag = "Projects",
    operation_id = "modifyProject",
    params(("project" = String, Path)),
    request_body = Modify,
    responses((status = 200, body = ProjectObject, description = "The project"), Conflicts),
)]
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

/// Ends a project. What it used stays in the ledger.
#[utoipa::path(
    post,
    path = "/v1/organization/projects/{project}/archive",
    tag = "Projects",
    operation_id = "archiveProject",
    params(("project" = String, Path)),
    responses((status = 200, body = ProjectObject, description = "The project, whose keys are accepted no more"), Conflicts),
)]
pub(in crate::api) async fn archive(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(id): Path<String>,
) -> Result<Answer<ProjectObject>, ApiError> {
    let found = project(&api, &administrator, &id).await?;
    admin(&api, &administrator).archive_project(&found).await?;
    Ok(Answer(project(&api, &administrator, &id).await?.into()))
}
