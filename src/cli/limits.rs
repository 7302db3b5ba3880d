use clap::Args;

use crate::types::{Limits, Money};

/// Limits as options of the command line.
#[derive(Args, Default)]
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
        }
    }
}
