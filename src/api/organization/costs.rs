//! `/v1/organization/costs`

use axum::Json as Answer;
use axum::extract::State;
use serde::Serialize;
use serde_json::value::RawValue;

use super::report::{Report, Span, Width, group_by, projects};
use crate::api::Shared;
use crate::api::auth::Identified;
use crate::api::error::ApiError;
use crate::api::query::Query;
use crate::types::{Dimension, UsageRow};

const GROUPS: [(&str, Dimension); 2] = [
    ("project_id", Dimension::Project),
    ("line_item", Dimension::Model),
];

#[derive(Serialize)]
pub(in crate::api) struct Costs {
    object: &'static str,
    amount: Amount,
    /// The model.
    line_item: Option<String>,
    project_id: Option<String>,
}

#[derive(Serialize)]
struct Amount {
    /// A number, with every digit of the ledger's amount.
    value: Option<Box<RawValue>>,
    currency: &'static str,
}

pub(in crate::api) async fn list(
    State(api): Shared,
    Identified(identity): Identified,
    mut query: Query,
) -> Result<Answer<Report<Costs>>, ApiError> {
    if query
        .text("bucket_width")?
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
