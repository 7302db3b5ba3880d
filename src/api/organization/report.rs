use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use crate::api::Api;
use crate::api::error::ApiError;
use crate::api::query::Query;
use crate::tenancy::Identity;
use crate::types::{Dimension, UsageQuery, UsageRow};

const MINUTE_S: i64 = 60;
const HOUR_S: i64 = 3600;
const DAY_S: i64 = 86_400;

/// Before the time at which the next page begins.
const CURSOR: &str = "page_";

/// A page of buckets, as OpenAI's usage API has it.
#[derive(Serialize, ToSchema)]
pub(in crate::api) struct Report<T> {
    object: &'static str,
    data: Vec<Bucket<T>>,
    has_more: bool,
    next_page: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = UsageBucket)]
struct Bucket<T> {
    object: &'static str,
    start_time: i64,
    end_time: i64,
    results: Vec<T>,
}

/// Which stretch of time a report is of, as the document of the API says it.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "parameters are looked up by name")]
pub(super) struct SpanParams {
    /// In seconds since 1970.
    #[param(minimum = 0)]
    start_time: i64,
    /// In seconds since 1970: now, where it isn't given.
    end_time: Option<i64>,
    /// Buckets on a page.
    #[param(minimum = 1)]
    limit: Option<i64>,
    /// `next_page` of the page before.
    page: Option<String>,
    /// Of these projects alone.
    project_ids: Option<Vec<String>>,
}

/// How wide buckets are, how many fit a page at most, and how many it has by default.
#[derive(Clone, Copy)]
pub(super) struct Width {
    seconds: i64,
    most: i64,
    default: i64,
}

impl Width {
    pub(super) const COSTS: Self = Self {
        seconds: DAY_S,
        most: 180,
        default: 7,
    };

    pub(super) fn of(query: &mut Query) -> Result<Self, ApiError> {
        let (seconds, most, default) = match query.word("bucket_width")?.as_deref() {
            Some("1m") => (MINUTE_S, 1440, 60),
            Some("1h") => (HOUR_S, 168, 24),
            None | Some("1d") => (DAY_S, 31, 7),
            Some(_) => {
                let message = "bucket_width must be 1m, 1h or 1d";
                return Err(ApiError::invalid(Some("bucket_width"), message));
            }
        };
        Ok(Self {
            seconds,
            most,
            default,
        })
    }
}

/// The stretch of time that a page shows.
pub(super) struct Span {
    width: Width,
    first_s: i64,
    /// Before the first bucket of the next page.
    until_s: i64,
    /// Where the report ends.
    end_s: i64,
    /// What is asked for begins within the first bucket.
    start_s: i64,
}

impl Span {
    pub(super) fn of(query: &mut Query, width: Width) -> Result<Self, ApiError> {
        let missing = || {
            ApiError::invalid(
                Some("start_time"),
                "start_time is needed, in seconds since 1970",
            )
        };
        let start_s: i64 = query.number("start_time")?.ok_or_else(missing)?;
        // The second that runs is in it.
        let now_s = Timestamp::now().as_second();
        let end_s = query
            .number("end_time")?
            .unwrap_or(now_s + 1)
            .min(now_s + DAY_S);
        let limit = query.number("limit")?.unwrap_or(width.default);
        if !(1..=width.most).contains(&limit) {
            let message = format!("limit must be 1 to {} for this bucket_width", width.most);
            return Err(ApiError::invalid(Some("limit"), &message));
        }
        if start_s < 0 || start_s >= end_s {
            let message = "start_time must lie before end_time, which is now where it isn't given";
            return Err(ApiError::invalid(Some("start_time"), message));
        }
        let first_s = match query.text("page")? {
            None => start_s - start_s % width.seconds,
            Some(page) => page
                .strip_prefix(CURSOR)
                .and_then(|time| time.parse().ok())
                .filter(|time| time % width.seconds == 0 && (0..end_s).contains(time))
                .ok_or_else(|| {
                    ApiError::invalid(Some("page"), "page is none that this server gave")
                })?,
        };
        let until_s = (first_s + limit * width.seconds).min(end_s);
        Ok(Self {
            width,
            first_s,
            until_s,
            end_s,
            start_s,
        })
    }

    /// What of the ledger lies in it.
    pub(super) fn query(&self, group_by: Vec<Dimension>) -> Result<UsageQuery, ApiError> {
        let time = |seconds| Timestamp::from_second(seconds).map_err(|_| ApiError::internal());
        Ok(UsageQuery {
            from: Some(time(self.first_s.max(self.start_s))?),
            to: Some(time(self.until_s)?),
            bucket_ms: Some(self.width.seconds * 1000),
            group_by,
            ..UsageQuery::default()
        })
    }

    pub(super) fn report<T>(&self, rows: Vec<UsageRow>, show: impl Fn(UsageRow) -> T) -> Report<T> {
        let mut results: BTreeMap<i64, Vec<T>> = BTreeMap::new();
        for row in rows {
            let start_s = row.bucket_ms.unwrap_or_default() / 1000;
            results.entry(start_s).or_default().push(show(row));
        }
        let mut data = Vec::new();
        let mut start_time = self.first_s;
        while start_time < self.until_s {
            let end_time = start_time + self.width.seconds;
            data.push(Bucket {
                object: "bucket",
                start_time,
                end_time,
                results: results.remove(&start_time).unwrap_or_default(),
            });
            start_time = end_time;
        }
        let has_more = start_time < self.end_s;
        Report {
            object: "page",
            data,
            has_more,
            next_page: has_more.then(|| format!("{CURSOR}{start_time}")),
        }
    }
}

/// The dimensions of these names, of those that a report knows.
pub(super) fn group_by(
    query: &mut Query,
    known: &[(&str, Dimension)],
) -> Result<Vec<Dimension>, ApiError> {
    let names = query.all("group_by");
    let dimension = |name: String| {
        let found = known.iter().find(|(known, _)| *known == name);
        found.map(|(_, dimension)| *dimension).ok_or_else(|| {
            let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
            let message = format!("group_by may be {}", names.join(", "));
            ApiError::invalid(Some("group_by"), &message)
        })
    };
    names.into_iter().map(dimension).collect()
}

/// The projects that are asked for, of those that the caller may see. A tenant sees its own and nothing else.
pub(super) async fn projects(
    api: &Api,
    identity: &Identity,
    asked: Vec<String>,
) -> Result<Vec<String>, ApiError> {
    let own = match identity {
        Identity::Tenant(access) => vec![access.caller.project.as_str().to_owned()],
        Identity::Administrator(administrator) => {
            let all = crate::types::Page {
                after: None,
                limit: u32::MAX,
            };
            let store = &api.gateway.store;
            let projects = store
                .projects(Some(&administrator.organisation), true, &all)
                .await?;
            projects
                .iter()
                .map(|project| project.id.to_string())
                .collect()
        }
    };
    if let Some(other) = asked.iter().find(|id| !own.contains(id)) {
        return Err(ApiError::no_such("project", other));
    }
    let seen = if asked.is_empty() { own } else { asked };
    // No list at all would be everybody's.
    if seen.is_empty() {
        Ok(vec![String::new()])
    } else {
        Ok(seen)
    }
}
