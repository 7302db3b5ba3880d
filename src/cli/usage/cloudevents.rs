//! One event for each charge, as JSON lines: CloudEvents 1.0, in the form that OpenMeter takes.
//!
//! `source` and `id` name a charge for ever, so that whoever ingests the same rows twice counts them once.

use std::io::Write;

use anyhow::Result;
use jiff::Timestamp;
use serde_json::json;

use crate::cli::cells::CURRENCY;
use crate::types::{ChargeRow, Page, Store, UsageQuery};

const ROWS: u32 = 1000;
/// An event of this type is a charge; a meter picks its number out of `data`.
const TYPE: &str = "forebay.charge";
const SOURCE: &str = "/forebay/ledger";

pub(super) async fn write(
    out: &mut dyn Write,
    store: &dyn Store,
    query: &UsageQuery,
) -> Result<()> {
    let mut page = Page {
        after: None,
        limit: ROWS,
    };
    loop {
        let rows = store.charges(query, &page).await?;
        for row in &rows {
            writeln!(out, "{}", event(row)?)?;
        }
        match rows.last() {
            Some(last) => page.after = Some(last.event_id.clone()),
            None => return Ok(()),
        }
    }
}

/// Numbers are texts in `data`, as OpenMeter advises: no reader rounds them.
fn event(row: &ChargeRow) -> Result<serde_json::Value> {
    let time = |ms| Timestamp::from_millisecond(ms).map(|time| format!("{time:.3}"));
    Ok(json!({
        "specversion": "1.0",
        "type": TYPE,
        "id": row.event_id,
        "source": SOURCE,
        "subject": row.project,
        "time": time(row.ended_ms)?,
        "datacontenttype": "application/json",
        "data": {
            "request_id": row.request_id,
            "attempt": row.attempt,
            "key": row.key,
            "user": row.user,
            "model": row.model,
            "revision": row.revision,
            "worker": row.worker,
            "endpoint": row.endpoint,
            "class": row.class,
            "state": row.state,
            "outcome": row.outcome,
            "prompt_tokens": row.prompt_tokens.to_string(),
            "cached_tokens": row.cached_tokens.to_string(),
            "completion_tokens": row.completion_tokens.to_string(),
            "price_version": row.price_version,
            "amount": row.amount.to_string(),
            "currency": CURRENCY,
            "started": time(row.started_ms)?,
            "corrects": row.corrects,
            "route": row.route,
        },
    }))
}
