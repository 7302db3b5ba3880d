//! `/v1/organization/models`: which revisions of the site's verticals serve. Not OpenAI's. For administrators of the default
//! organisation, whose site it is.

use std::collections::BTreeMap;

use axum::Json as Answer;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::auth::Administrating;
use crate::api::body::{Json, optional_object};
use crate::api::error::ApiError;
use crate::api::list::{List, PageParams, page};
use crate::api::openapi::Conflicts;
use crate::api::path::Path;
use crate::api::query::Query;
use crate::api::{Api, Shared};
use crate::router::{Rollout, Standing};
use crate::tenancy::Administrator;
use crate::types::{Actor, Organisation, Serving, Share, StoredRevision};

#[derive(Serialize, ToSchema)]
#[schema(as = OrganizationModel)]
pub(in crate::api) struct ModelObject {
    id: String,
    object: &'static str,
    /// The revision that the config says.
    configured: String,
    /// What a revision must reach before it serves.
    gate: Option<GateObject>,
    serving: Option<ServingObject>,
    /// All that were ever configured, oldest first.
    revisions: Vec<RevisionObject>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ModelGate)]
struct GateObject {
    suite: String,
    /// The least that the lower end of the score's 95% interval may be.
    bar: f64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ModelServing)]
struct ServingObject {
    revision: String,
    previous: Option<String>,
    canary: Option<ShareObject>,
    shadow: Option<ShareObject>,
}

/// A revision that some users get, or are asked beside.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(as = ModelShare)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct ShareObject {
    revision: String,
    /// Users of a hundred.
    #[schema(minimum = 0, maximum = 100)]
    percent: f64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ModelRevision)]
struct RevisionObject {
    id: String,
    /// As the ledger names it.
    name: String,
    created_at: i64,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = PromoteModelRequest)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Promote {
    /// The beginning of its id; what the config says, where there is none.
    #[serde(default)]
    revision: Option<String>,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ShareModelRequest)]
#[serde(deny_unknown_fields)]
pub(in crate::api) struct Shares {
    /// Answers these users; ends at 0 percent, and stays as it is where it isn't named.
    #[serde(default, deserialize_with = "optional_object")]
    canary: Option<ShareObject>,
    /// Is asked beside what answers these users.
    #[serde(default, deserialize_with = "optional_object")]
    shadow: Option<ShareObject>,
}

/// The site's verticals.
#[utoipa::path(
    get,
    path = "/v1/organization/models",
    tag = "Verticals",
    operation_id = "listOrganizationModels",
    params(PageParams),
    responses((status = 200, body = List<ModelObject>, description = "Some of the verticals")),
)]
pub(in crate::api) async fn list(
    State(api): Shared,
    Administrating(administrator): Administrating,
    mut query: Query,
) -> Result<Answer<List<ModelObject>>, ApiError> {
    let page = page(&mut query)?;
    let mut all = known(&api, &administrator).await?;
    if let Some(after) = &page.after {
        all = all.split_off(after);
        all.remove(after);
    }
    let rows = all
        .into_values()
        .take(usize::try_from(page.limit).unwrap_or(usize::MAX));
    let id = |model: &ModelObject| model.id.clone();
    Ok(Answer(List::of(rows.collect(), &page, id, |model| model)))
}

/// What is known of a vertical.
#[utoipa::path(
    get,
    path = "/v1/organization/models/{model}",
    tag = "Verticals",
    operation_id = "retrieveOrganizationModel",
    params(("model" = String, Path)),
    responses((status = 200, body = ModelObject, description = "The vertical")),
)]
pub(in crate::api) async fn retrieve(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(name): Path<String>,
) -> Result<Answer<ModelObject>, ApiError> {
    Ok(Answer(model(&api, &administrator, &name).await?))
}

/// Lets a revision serve, if the vertical's gate lets it: it must have been tried on the gate's suite before.
#[utoipa::path(
    post,
    path = "/v1/organization/models/{model}/promote",
    tag = "Verticals",
    operation_id = "promoteOrganizationModel",
    params(("model" = String, Path)),
    request_body = Promote,
    responses((status = 200, body = ModelObject, description = "The vertical"), Conflicts),
)]
pub(in crate::api) async fn promote(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(name): Path<String>,
    Json(body): Json<Promote>,
) -> Result<Answer<ModelObject>, ApiError> {
    let (rollout, standing) = (
        rollout(&api, &administrator),
        standing(&api, &administrator, &name)?,
    );
    let id = body.revision.unwrap_or_else(|| standing.configured.clone());
    let revision = rollout.find(&name, &id).await?;
    rollout.promote(&standing, &revision).await?;
    Ok(Answer(model(&api, &administrator, &name).await?))
}

/// Lets what served before serve again.
#[utoipa::path(
    post,
    path = "/v1/organization/models/{model}/rollback",
    tag = "Verticals",
    operation_id = "rollBackOrganizationModel",
    params(("model" = String, Path)),
    responses((status = 200, body = ModelObject, description = "The vertical"), Conflicts),
)]
pub(in crate::api) async fn roll_back(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(name): Path<String>,
) -> Result<Answer<ModelObject>, ApiError> {
    let standing = standing(&api, &administrator, &name)?;
    rollout(&api, &administrator).roll_back(&standing).await?;
    Ok(Answer(model(&api, &administrator, &name).await?))
}

/// Gives some users another revision, or asks another one beside.
#[utoipa::path(
    post,
    path = "/v1/organization/models/{model}/shares",
    tag = "Verticals",
    operation_id = "shareOrganizationModel",
    params(("model" = String, Path)),
    request_body = Shares,
    responses((status = 200, body = ModelObject, description = "The vertical"), Conflicts),
)]
pub(in crate::api) async fn share(
    State(api): Shared,
    Administrating(administrator): Administrating,
    Path(name): Path<String>,
    Json(body): Json<Shares>,
) -> Result<Answer<ModelObject>, ApiError> {
    let (rollout, standing) = (
        rollout(&api, &administrator),
        standing(&api, &administrator, &name)?,
    );
    let shares = [("canary", body.canary), ("shadow", body.shadow)];
    for (field, share) in shares {
        let Some(ShareObject { revision, percent }) = share else {
            continue;
        };
        if !(0.0..=100.0).contains(&percent) {
            let message = "percent must be between 0 and 100";
            return Err(ApiError::invalid(Some(field), message));
        }
        let revision = rollout.find(&name, &revision).await?;
        let share = (percent > 0.0).then_some((&revision, percent));
        if field == "canary" {
            rollout.canary(&standing, share).await?;
        } else {
            rollout.shadow(&standing, share).await?;
        }
    }
    Ok(Answer(model(&api, &administrator, &name).await?))
}

/// Decides in this administrator's name.
fn rollout<'a>(api: &'a Api, administrator: &Administrator) -> Rollout<'a> {
    Rollout {
        store: &*api.gateway.store,
        actor: Actor::Key(administrator.key.clone()),
    }
}

fn is_ours(administrator: &Administrator) -> bool {
    administrator.organisation.as_str() == Organisation::DEFAULT
}

/// A vertical as the config has it; to other organisations there is none.
fn standing(api: &Api, administrator: &Administrator, name: &str) -> Result<Standing, ApiError> {
    let all = api.gateway.router.standings().into_iter();
    let mut named = all.filter(|one| is_ours(administrator) && one.model == name);
    named.next().ok_or_else(|| ApiError::no_such("model", name))
}

async fn model(
    api: &Api,
    administrator: &Administrator,
    name: &str,
) -> Result<ModelObject, ApiError> {
    let found = known(api, administrator).await?.remove(name);
    found.ok_or_else(|| ApiError::no_such("model", name))
}

/// The verticals of the config, by name.
async fn known(
    api: &Api,
    administrator: &Administrator,
) -> Result<BTreeMap<String, ModelObject>, ApiError> {
    if !is_ours(administrator) {
        return Ok(BTreeMap::new());
    }
    let store = &api.gateway.store;
    let (revisions, (_, serving)) = (store.revisions().await?, store.serving().await?);
    let all = api.gateway.router.standings().into_iter();
    let shown = all.filter_map(|standing| {
        let own: Vec<_> = revisions
            .iter()
            .filter(|one| one.model == standing.model)
            .collect();
        // What a worker runs by itself is no vertical.
        if own.is_empty() {
            return None;
        }
        let state = serving.iter().find(|state| state.model == standing.model);
        Some((
            standing.model.clone(),
            ModelObject::of(standing, state, &own),
        ))
    });
    Ok(shown.collect())
}

impl ModelObject {
    fn of(standing: Standing, state: Option<&Serving>, revisions: &[&StoredRevision]) -> Self {
        let revision = |one: &&StoredRevision| RevisionObject {
            id: one.id.clone(),
            name: one.definition.name(),
            created_at: one.made.as_second(),
        };
        Self {
            id: standing.model,
            object: "organization.model",
            configured: standing.configured,
            gate: standing.gate.map(|gate| GateObject {
                suite: gate.suite,
                bar: gate.bar,
            }),
            serving: state.map(ServingObject::from),
            revisions: revisions.iter().map(revision).collect(),
        }
    }
}

impl From<&Serving> for ServingObject {
    fn from(state: &Serving) -> Self {
        let share = |share: &Option<Share>| {
            let share = share.as_ref()?;
            Some(ShareObject {
                revision: share.revision.clone(),
                percent: share.percent,
            })
        };
        Self {
            revision: state.revision.clone(),
            previous: state.previous.clone(),
            canary: share(&state.canary),
            shadow: share(&state.shadow),
        }
    }
}
