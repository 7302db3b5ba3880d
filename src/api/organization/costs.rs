//! `/v1/organization/costs`

use axum::Json as Answer;
use axum::extract::State;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::openapi::Schema;
use utoipa::{IntoParams, ToSchema};

use super::report::{Report, Span, SpanParams, Width, group_by, projects};
use crate::api::Shared;
use crate::api::auth::Identified;
use crate::api::error::ApiError;
use crate::api::openai::schemas;
use crate::api::openapi::NoSuchThing;
use crate::api::query::Query;
use crate::types::{Dimension, UsageRow};

const GROUPS: [(&str, Dimension); 2] = [
    ("project_id", Dimension::Project),
    ("line_item", Dimension::Model),
];

#[derive(Serialize, ToSchema)]
#[schema(as = CostsResult)]
pub(in crate::api) struct Costs {
    object: &'static str,
    amount: Amount,
    /// The model.
    line_item: Option<String>,
    project_id: Option<String>,
}

#[derive(Serialize, ToSchema)]
struct Amount {
    /// A number, with every digit of the ledger's amount.
    #[schema(value_type = f64)]
    value: Option<Box<RawValue>>,
    currency: &'static str,
}

/// What costs are told apart by.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "parameters are looked up by name")]
struct Grouped {
    #[param(schema_with = widths)]
    bucket_width: Option<String>,
    #[param(schema_with = groups)]
    group_by: Option<Vec<String>>,
}

fn widths() -> Schema {
    schemas::words(&["1d"])
}

fn groups() -> Schema {
    schemas::list(schemas::words(&GROUPS.map(|(name, _)| name)))
}

/// Costs, from the ledger; a project's key sees its own.
#[utoipa::path(
    get,
    path = "/v1/organization/costs",
    tag = "Usage",
    operation_id = "listCosts",
    params(SpanParams, Grouped),
    responses((status = 200, body = Report<Costs>, description = "What it costs, day by day"), NoSuchThing),
)]
pub(in crate::api) async fn list(
    State(api): Shared,
    Identified(identity): Identified,
    mut query: Query,
) -> Result<Answer<Report<Costs>>, ApiError> {
    if query
        .word("bucket_width")?
        .is_some_and(|width| width != "1d")
    {
        let message = "bucket_width of costs is 1d";
        return Err(ApiError::invalid(Some("bucket_width"), message));
    }
    let span = Span::of(&mut query, Width::COSTS)?;
    let mut usage = span.query(group_by(&mut query, &GROUPS)?)?;
    usage.projects = projects(&api, &identity, query.list("project_ids")).await?;
    let rows = api.gateway.store.usage(&usage).await?;
    let show = |row: UsageRow| Costs {
        object: "organization.costs.result",
        amount: Amount {
            value: RawValue::from_string(row.amount.to_string()).ok(),
            currency: "usd",
        },
        line_item: row.model,
        project_id: row.project,
    };
    Ok(Answer(span.report(rows, show)))
}
