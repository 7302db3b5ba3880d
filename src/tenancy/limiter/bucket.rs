//! What one limit counts, and how much of it is left.

use std::time::Duration;

use jiff::Timestamp;

use super::window::{Calendar, Sliding};
use crate::types::{LimitSet, Limits, Money, Spent};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meter {
    /// Requests in any 60 seconds.
    RequestsPerMinute,
    /// Tokens in any 60 seconds.
    TokensPerMinute,
    /// Requests on a day of UTC.
    RequestsPerDay,
    /// Tokens on a day of UTC.
    TokensPerDay,
    /// Tokens of the batch class on a day of UTC.
    BatchTokensPerDay,
    /// Requests under way.
    Concurrent,
    /// Money on a day of UTC.
    BudgetPerDay,
    /// Money in a month of UTC.
    BudgetPerMonth,
}

pub(super) const METERS: [Meter; 8] = [
    Meter::RequestsPerMinute,
    Meter::TokensPerMinute,
    Meter::RequestsPerDay,
    Meter::TokensPerDay,
    Meter::BatchTokensPerDay,
    Meter::Concurrent,
    Meter::BudgetPerDay,
    Meter::BudgetPerMonth,
];

/// A kind of thing that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Tokens.
    Tokens,
    /// Pico-units of the currency.
    Money,
}

impl Meter {
    /// Its name in messages and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests_per_minute",
            Self::TokensPerMinute => "tokens_per_minute",
            Self::RequestsPerDay => "requests_per_day",
            Self::TokensPerDay => "tokens_per_day",
            Self::BatchTokensPerDay => "batch_tokens_per_day",
            Self::Concurrent => "concurrent",
            Self::BudgetPerDay => "budget_per_day",
            Self::BudgetPerMonth => "budget_per_month",
        }
    }

    /// What it counts.
    #[must_use]
    pub fn unit(self) -> Unit {
        match self {
            Self::RequestsPerMinute | Self::RequestsPerDay | Self::Concurrent => Unit::Requests,
            Self::TokensPerMinute | Self::TokensPerDay | Self::BatchTokensPerDay => Unit::Tokens,
            Self::BudgetPerDay | Self::BudgetPerMonth => Unit::Money,
        }
    }

    pub(super) fn calendar(self) -> Option<Calendar> {
        match self {
            Self::RequestsPerMinute | Self::TokensPerMinute | Self::Concurrent => None,
            Self::RequestsPerDay
            | Self::TokensPerDay
            | Self::BatchTokensPerDay
            | Self::BudgetPerDay => Some(Calendar::Day),
            Self::BudgetPerMonth => Some(Calendar::Month),
        }
    }

    /// The limit of it, and what is warned of: `None` where there is neither.
    pub(super) fn of(self, set: &LimitSet) -> Option<(Option<i128>, Option<i128>)> {
        let Limits {
            requests_per_minute,
            tokens_per_minute,
            requests_per_day,
            tokens_per_day,
            batch_tokens_per_day,
            concurrent,
            budget_per_day,
            budget_per_month,
            warn_per_day,
            warn_per_month,
        } = &set.limits;
        let number = |number: &Option<u64>| number.map(i128::from);
        let money = |money: &Option<Money>| money.map(|money| money.0);
        let (limit, warn) = match self {
            Self::RequestsPerMinute => (number(requests_per_minute), None),
            Self::TokensPerMinute => (number(tokens_per_minute), None),
            Self::RequestsPerDay => (number(requests_per_day), None),
            Self::TokensPerDay => (number(tokens_per_day), None),
            Self::BatchTokensPerDay => (number(batch_tokens_per_day), None),
            Self::Concurrent => (number(concurrent), None),
            Self::BudgetPerDay => (money(budget_per_day), money(warn_per_day)),
            Self::BudgetPerMonth => (money(budget_per_month), money(warn_per_month)),
        };
        (limit.is_some() || warn.is_some()).then_some((limit, warn))
    }

    pub(super) fn spent(self, spent: &Spent) -> i128 {
        match self {
            Self::RequestsPerDay => spent.requests.into(),
            Self::TokensPerDay => spent.tokens.into(),
            Self::BatchTokensPerDay => spent.batch_tokens.into(),
            Self::BudgetPerDay | Self::BudgetPerMonth => spent.amount.0,
            Self::RequestsPerMinute | Self::TokensPerMinute | Self::Concurrent => 0,
        }
    }
}

/// The moment, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// Monotonic milliseconds.
    pub(super) ms: u64,
    pub(super) time: Timestamp,
}

/// What was used and what is reserved of one limit.
#[derive(Debug)]
pub(super) enum Bucket {
    Minute(Sliding),
    Concurrent(u64),
    Calendar(Stretch),
}

/// A day or a month.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) begins: Timestamp,
    ends: Timestamp,
    /// Whether what the ledger has is in it.
    pub(super) loaded: bool,
    used: i128,
    reserved: i128,
}

impl Bucket {
    /// An empty one. `None` where the calendar ends.
    pub(super) fn new(meter: Meter, now: Now) -> Option<Self> {
        Some(match meter.calendar() {
            Some(calendar) => {
                let (begins, ends) = calendar.around(now.time)?;
                Self::Calendar(Stretch {
                    begins,
                    ends,
                    loaded: false,
                    used: 0,
                    reserved: 0,
                })
            }
            None if meter == Meter::Concurrent => Self::Concurrent(0),
            None => Self::Minute(Sliding::default()),
        })
    }

    /// Whether it is of a day or a month that is over.
    pub(super) fn is_over(&self, now: Now) -> bool {
        matches!(self, Self::Calendar(stretch) if stretch.ends <= now.time)
    }

    /// Whether it says nothing that an empty one wouldn't.
    pub(super) fn is_idle(&mut self, now: Now) -> bool {
        match self {
            Self::Minute(window) => window.used(now.ms) == 0,
            Self::Concurrent(count) => *count == 0,
            Self::Calendar(stretch) => stretch.ends <= now.time && stretch.reserved == 0,
        }
    }

    /// Used and reserved.
    pub(super) fn taken(&mut self, now: Now) -> i128 {
        match self {
            Self::Minute(window) => window.used(now.ms).into(),
            Self::Concurrent(count) => (*count).into(),
            Self::Calendar(stretch) => stretch.used + stretch.reserved,
        }
    }

    /// Gives the slot, where it has slots.
    pub(super) fn take(&mut self, now: Now, amount: i128) -> u64 {
        match self {
            Self::Minute(window) => window.add(now.ms, small(amount)),
            Self::Concurrent(count) => {
                *count += small(amount);
                0
            }
            Self::Calendar(stretch) => {
                stretch.reserved += amount;
                0
            }
        }
    }

    /// What was reserved in a slot is over, and this much was used.
    pub(super) fn settle(&mut self, slot: u64, taken: i128, used: i128) {
        match self {
            Self::Minute(window) => window.correct(slot, small(taken), small(used)),
            Self::Concurrent(count) => *count = count.saturating_sub(small(taken)),
            Self::Calendar(stretch) => {
                stretch.reserved -= taken;
                stretch.used += used;
            }
        }
    }

    /// How long until this much more may be had, as far as anybody can tell. `None` if never.
    pub(super) fn wait(&self, now: Now, amount: i128, limit: i128) -> Option<Duration> {
        match self {
            Self::Minute(window) => window.wait(now.ms, small(amount), small(limit)),
            Self::Concurrent(_) => (limit >= amount).then_some(SOON),
            // What is reserved may come back at any moment.
            Self::Calendar(stretch) if stretch.used + amount <= limit => Some(SOON),
            Self::Calendar(stretch) if amount <= limit => Some(stretch.left(now)),
            Self::Calendar(_) => None,
        }
    }

    /// How long until all of the limit may be had again.
    pub(super) fn clear(&self, now: Now) -> Duration {
        match self {
            Self::Minute(window) => window.clear(now.ms),
            Self::Concurrent(count) => {
                if *count == 0 {
                    Duration::ZERO
                } else {
                    SOON
                }
            }
            Self::Calendar(stretch) => stretch.left(now),
        }
    }
}

/// When nobody can tell.
const SOON: Duration = Duration::from_secs(1);

impl Stretch {
    pub(super) fn load(&mut self, booked: i128) {
        self.used += booked;
        self.loaded = true;
    }

    fn left(&self, now: Now) -> Duration {
        let left = self.ends.duration_since(now.time);
        left.try_into().unwrap_or(Duration::ZERO)
    }
}

fn small(amount: i128) -> u64 {
    u64::try_from(amount.max(0)).unwrap_or(u64::MAX)
}
