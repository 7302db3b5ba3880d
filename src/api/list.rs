use serde::Serialize;
use utoipa::{IntoParams, ToSchema};

use super::query::Query;
use crate::api::error::ApiError;
use crate::types::Page;

const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;

/// Part of a list, as OpenAI's administration API has it.
#[derive(Serialize, ToSchema)]
pub(super) struct List<T> {
    object: &'static str,
    data: Vec<T>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

/// Which part is wanted, as the document of the API says it.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "parameters are looked up by name")]
pub(super) struct PageParams {
    /// The id of the last one that was seen.
    after: Option<String>,
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// Which part is wanted, and one entry more, by which it shows whether there are more.
pub(super) fn page(query: &mut Query) -> Result<Page, ApiError> {
    page_of(query, DEFAULT_LIMIT, MAX_LIMIT)
}

/// As [`page`], of a list that is shown in other portions.
pub(super) fn page_of(query: &mut Query, default: u32, most: u32) -> Result<Page, ApiError> {
    let limit = query.number("limit")?.unwrap_or(default);
    if !(1..=most).contains(&limit) {
        let message = format!("limit must be 1 to {most}");
        return Err(ApiError::invalid(Some("limit"), &message));
    }
    Ok(Page {
        after: query.text("after")?,
        limit: limit + 1,
    })
}

impl<T> List<T> {
    pub(super) fn of<R>(
        mut rows: Vec<R>,
        page: &Page,
        id: impl Fn(&R) -> String,
        show: impl Fn(R) -> T,
    ) -> Self {
        let wanted = usize::try_from(page.limit - 1).unwrap_or(usize::MAX);
        let has_more = rows.len() > wanted;
        rows.truncate(wanted);
        Self {
            object: "list",
            first_id: rows.first().map(&id),
            last_id: rows.last().map(&id),
            data: rows.into_iter().map(show).collect(),
            has_more,
        }
    }
}
