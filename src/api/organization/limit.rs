use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};

use crate::types::{Class, LimitSet, Limits, Money};

/// Limits under OpenAI's names, and under names of the same kind where it has none.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = Limits)]
pub(super) struct LimitBody {
    pub(super) max_requests_per_1_minute: Option<u64>,
    pub(super) max_tokens_per_1_minute: Option<u64>,
    pub(super) max_requests_per_1_day: Option<u64>,
    pub(super) max_tokens_per_1_day: Option<u64>,
    pub(super) batch_1_day_max_input_tokens: Option<u64>,
    pub(super) max_concurrent_requests: Option<u64>,
    #[schema(schema_with = amount)]
    pub(super) max_amount_per_1_day: Option<Money>,
    #[schema(schema_with = amount)]
    pub(super) max_amount_per_1_month: Option<Money>,
    #[schema(schema_with = amount)]
    pub(super) warn_amount_per_1_day: Option<Money>,
    #[schema(schema_with = amount)]
    pub(super) warn_amount_per_1_month: Option<Money>,
    #[schema(value_type = Option<u32>, minimum = 1)]
    pub(super) scheduling_weight: Option<NonZeroU32>,
    pub(super) scheduling_class: Option<Class>,
}

/// A decimal number of currency units, as text.
fn amount() -> Schema {
    let amount = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(r"^[0-9]{1,6}(\.[0-9]{1,12})?$"));
    let none = ObjectBuilder::new().schema_type(Type::Null);
    OneOfBuilder::new().item(none).item(amount).into()
}

impl From<LimitBody> for Limits {
    fn from(body: LimitBody) -> Self {
        Self {
            requests_per_minute: body.max_requests_per_1_minute,
            tokens_per_minute: body.max_tokens_per_1_minute,
            requests_per_day: body.max_requests_per_1_day,
            tokens_per_day: body.max_tokens_per_1_day,
            batch_tokens_per_day: body.batch_1_day_max_input_tokens,
            concurrent: body.max_concurrent_requests,
            budget_per_day: body.max_amount_per_1_day,
            budget_per_month: body.max_amount_per_1_month,
            warn_per_day: body.warn_amount_per_1_day,
            warn_per_month: body.warn_amount_per_1_month,
            weight: body.scheduling_weight.map(NonZeroU32::get),
            class: body.scheduling_class,
        }
    }
}

impl From<Limits> for LimitBody {
    fn from(limits: Limits) -> Self {
        Self {
            max_requests_per_1_minute: limits.requests_per_minute,
            max_tokens_per_1_minute: limits.tokens_per_minute,
            max_requests_per_1_day: limits.requests_per_day,
            max_tokens_per_1_day: limits.tokens_per_day,
            batch_1_day_max_input_tokens: limits.batch_tokens_per_day,
            max_concurrent_requests: limits.concurrent,
            max_amount_per_1_day: limits.budget_per_day,
            max_amount_per_1_month: limits.budget_per_month,
            warn_amount_per_1_day: limits.warn_per_day,
            warn_amount_per_1_month: limits.warn_per_month,
            scheduling_weight: limits.weight.and_then(NonZeroU32::new),
            scheduling_class: limits.class,
        }
    }
}

/// The limits of a scope for one model, or for all.
#[derive(Serialize, ToSchema)]
#[schema(as = ProjectRateLimit)]
pub(in crate::api) struct RateLimitObject {
    object: &'static str,
    id: String,
    model: Option<String>,
    #[serde(flatten)]
    limits: LimitBody,
}

/// What the limits for all models together are called.
pub(super) const ALL_MODELS: &str = "rl-all";
/// Before a model's name.
pub(super) const OF_MODEL: &str = "rl-model-";

impl From<LimitSet> for RateLimitObject {
    fn from(set: LimitSet) -> Self {
        let of = set.model.as_ref();
        Self {
            object: "project.rate_limit",
            id: of.map_or(ALL_MODELS.into(), |model| format!("{OF_MODEL}{model}")),
            model: set.model,
            limits: set.limits.into(),
        }
    }
}
