use std::io::Write;

use anyhow::Result;
use clap::Args;

use crate::tenancy::Admin;
use crate::types::{Class, LimitSet, Limits, Money, OrganisationId, Scope};

/// Limits as options of the command line.
#[derive(Args, Clone, Default)]
pub(super) struct LimitArguments {
    /// Requests in any 60 seconds
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Tokens in any 60 seconds, those of prompts included
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u64>,
    /// Requests on a day of UTC
    #[arg(long, value_name = "N")]
    requests_per_day: Option<u64>,
    /// Tokens on a day of UTC, those of prompts included
    #[arg(long, value_name = "N")]
    tokens_per_day: Option<u64>,
    /// Tokens of requests of the batch class on a day of UTC
    #[arg(long, value_name = "N")]
    batch_tokens_per_day: Option<u64>,
    /// Requests under way at once
    #[arg(long, value_name = "N")]
    concurrent: Option<u64>,
    /// What a day of UTC may cost
    #[arg(long, value_name = "AMOUNT")]
    budget_day: Option<Money>,
    /// What a month of UTC may cost
    #[arg(long, value_name = "AMOUNT")]
    budget_month: Option<Money>,
    /// What a day may cost before answers carry a warning
    #[arg(long, value_name = "AMOUNT")]
    warn_day: Option<Money>,
    /// What a month may cost before answers carry a warning
    #[arg(long, value_name = "AMOUNT")]
    warn_month: Option<Money>,
    /// Of a project: its share of what the workers do, in relation to other projects' (1 by default)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    weight: Option<u32>,
    /// The class of requests that name none, and the highest that they may name: interactive, standard or batch
    #[arg(long)]
    class: Option<Class>,
}

impl From<LimitArguments> for Limits {
    fn from(arguments: LimitArguments) -> Self {
        Self {
            requests_per_minute: arguments.requests_per_minute,
            tokens_per_minute: arguments.tokens_per_minute,
            requests_per_day: arguments.requests_per_day,
            tokens_per_day: arguments.tokens_per_day,
            batch_tokens_per_day: arguments.batch_tokens_per_day,
            concurrent: arguments.concurrent,
            budget_per_day: arguments.budget_day,
            budget_per_month: arguments.budget_month,
            warn_per_day: arguments.warn_day,
            warn_per_month: arguments.warn_month,
            weight: arguments.weight,
            class: arguments.class,
        }
    }
}

/// New limits for a scope, or none, to be told of those that it has.
#[derive(Args, Clone)]
pub(super) struct LimitChange {
    /// For one model alone
    #[arg(long)]
    model: Option<String>,
    #[command(flatten)]
    limits: LimitArguments,
    /// End all limits of this scope and model
    #[arg(long)]
    none: bool,
}

impl LimitChange {
    pub(super) async fn apply(
        self,
        admin: &Admin<'_>,
        organisation: &OrganisationId,
        scope: Scope,
        id: String,
        out: &mut impl Write,
    ) -> Result<()> {
        let limits = Limits::from(self.limits);
        if limits.is_empty() && !self.none {
            for set in admin.store.limits_of(scope, &id).await? {
                let model = set.model.as_deref().unwrap_or("(all models)");
                writeln!(out, "{model}  {}", serde_json::to_string(&set.limits)?)?;
            }
            return Ok(());
        }
        let set = LimitSet {
            scope,
            id: id.into(),
            model: self.model,
            limits,
        };
        Ok(admin.set_limits(organisation, set).await?)
    }
}
