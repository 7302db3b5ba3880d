//! What one limit counts, and how much of it is left.

use std::time::Duration;

use jiff::Timestamp;

use super::window::{Calendar, Sliding};
use crate::types::{Counted, LimitSet, Limits, Money, ReplicaId, Slice, Spent};

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

pub(in crate::tenancy) const METERS: [Meter; 8] = [
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

    pub(in crate::tenancy) fn calendar(self) -> Option<Calendar> {
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
    pub(in crate::tenancy) fn of(self, set: &LimitSet) -> Option<(Option<i128>, Option<i128>)> {
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
            // How it is scheduled, which is no limit.
            weight: _,
            class: _,
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

    /// What of the ledger counts against it.
    pub(super) fn counted(self) -> Counted {
        match self {
            Self::RequestsPerDay => Counted::Requests,
            Self::TokensPerDay => Counted::Tokens,
            Self::BatchTokensPerDay => Counted::BatchTokens,
            Self::BudgetPerDay | Self::BudgetPerMonth => Counted::Money,
            Self::RequestsPerMinute | Self::TokensPerMinute | Self::Concurrent => Counted::Nothing,
        }
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
pub(super) struct Bucket {
    count: Count,
    /// Where there are several replicas: the part of the limit that is this one's.
    slice: Option<Held>,
}

#[derive(Debug)]
enum Count {
    Minute(Sliding),
    Concurrent(u64),
    Calendar(Stretch),
}

/// A day or a month.
#[derive(Debug)]
struct Stretch {
    begins: Timestamp,
    ends: Timestamp,
    /// Whether what the ledger has is in it.
    loaded: bool,
    used: i128,
    reserved: i128,
}

/// A slice of a limit.
#[derive(Debug)]
struct Held {
    /// The life of this replica that it was given to.
    replica: ReplicaId,
    slice: Slice,
    /// What was settled of it since it was given.
    settled: i128,
}

/// What a hold remembers of where it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// Of a minute its slot, of a day or month its first second.
    place: u64,
    /// The life of this replica, where it was taken off a slice.
    pub(super) replica: Option<ReplicaId>,
}

impl Mark {
    /// When the day or month began that something was taken of, in milliseconds since 1970; none for other limits.
    pub(super) fn window(&self, meter: Meter) -> Option<i64> {
        meter.calendar()?;
        i64::try_from(self.place).ok()?.checked_mul(1000)
    }
}

impl Bucket {
    /// An empty one. `None` where the calendar ends.
    pub(super) fn new(meter: Meter, now: Now) -> Option<Self> {
        let count = match meter.calendar() {
            Some(calendar) => {
                let (begins, ends) = calendar.around(now.time)?;
                Count::Calendar(Stretch {
                    begins,
                    ends,
                    loaded: false,
                    used: 0,
                    reserved: 0,
                })
            }
            None if meter == Meter::Concurrent => Count::Concurrent(0),
            None => Count::Minute(Sliding::default()),
        };
        Some(Self { count, slice: None })
    }

    /// Whether it is of a day or a month that is over.
    pub(super) fn is_over(&self, now: Now) -> bool {
        matches!(&self.count, Count::Calendar(stretch) if stretch.ends <= now.time)
    }

    /// Whether it says nothing that an empty one wouldn't.
    pub(super) fn is_idle(&mut self, now: Now) -> bool {
        match &mut self.count {
            Count::Minute(window) => window.used(now.ms) == 0,
            Count::Concurrent(count) => *count == 0,
            Count::Calendar(stretch) => stretch.ends <= now.time && stretch.reserved == 0,
        }
    }

    /// When the day or month begins that it is of; none for other limits.
    pub(super) fn begins(&self) -> Option<Timestamp> {
        match &self.count {
            Count::Calendar(stretch) => Some(stretch.begins),
            Count::Minute(_) | Count::Concurrent(_) => None,
        }
    }

    /// Whether it has to be told what was spent.
    pub(super) fn is_missing(&self) -> bool {
        matches!(&self.count, Count::Calendar(stretch) if !stretch.loaded)
    }

    /// So much was spent until now.
    pub(super) fn load(&mut self, booked: i128) {
        if let Count::Calendar(stretch) = &mut self.count {
            stretch.used += booked;
            stretch.loaded = true;
        }
    }

    /// So much of the limit this replica may use.
    pub(super) fn own(&self, limit: i128) -> i128 {
        self.slice.as_ref().map_or(limit, |held| held.slice.granted)
    }

    /// Of that, used and reserved.
    pub(super) fn taken(&mut self, now: Now) -> i128 {
        match &mut self.count {
            Count::Minute(window) => window.used(now.ms).into(),
            Count::Concurrent(count) => (*count).into(),
            // What was used of a slice is no longer part of it.
            Count::Calendar(stretch) if self.slice.is_some() => stretch.reserved,
            Count::Calendar(stretch) => stretch.used + stretch.reserved,
        }
    }

    /// Used and reserved of the whole limit, as far as this replica knows.
    pub(super) fn taken_in_all(&mut self, now: Now) -> i128 {
        let elsewhere = self.slice.as_ref().map_or(0, |held| held.slice.elsewhere);
        self.taken(now) + elsewhere
    }

    /// Gives the mark by which it can be corrected.
    pub(super) fn take(&mut self, now: Now, amount: i128) -> Mark {
        let place = match &mut self.count {
            Count::Minute(window) => window.add(now.ms, small(amount)),
            Count::Concurrent(count) => {
                *count += small(amount);
                0
            }
            Count::Calendar(stretch) => {
                stretch.reserved += amount;
                stretch.place()
            }
        };
        Mark {
            place,
            replica: self.slice.as_ref().map(|held| held.replica.clone()),
        }
    }

    /// What was reserved is over, and this much was used.
    pub(super) fn settle(&mut self, mark: &Mark, taken: i128, used: i128) {
        match &mut self.count {
            Count::Minute(window) => window.correct(mark.place, small(taken), small(used)),
            Count::Concurrent(count) => *count = count.saturating_sub(small(taken)),
            Count::Calendar(stretch) => {
                stretch.used += used;
                // A day may have begun since, of which nothing was reserved.
                if mark.place == stretch.place() {
                    stretch.reserved -= taken;
                    if let Some(held) = &mut self.slice
                        && mark.replica.as_ref() == Some(&held.replica)
                    {
                        held.slice.granted -= used;
                        held.slice.elsewhere += used;
                        held.settled += used;
                    }
                }
            }
        }
    }

    /// Something was used of which nothing had been reserved.
    pub(super) fn add_used(&mut self, used: i128) {
        if let Count::Calendar(stretch) = &mut self.count {
            stretch.used += used;
        }
    }

    /// Whether so much more can be had of what is this replica's.
    pub(super) fn covers(&mut self, now: Now, replica: &ReplicaId, amount: i128) -> bool {
        let has_slice = self
            .slice
            .as_ref()
            .is_some_and(|held| held.replica == *replica);
        has_slice && self.taken(now) + amount <= self.own(0)
    }

    /// What was settled until now, by which a slice that is on its way is known to be older.
    pub(super) fn settled(&self) -> i128 {
        self.slice.as_ref().map_or(0, |held| held.settled)
    }

    /// A slice in the place of the one that it had. What was settled since it was asked for is no longer part of it.
    pub(super) fn give(&mut self, replica: &ReplicaId, slice: Slice, settled_then: i128) {
        let before = self.slice.take();
        let same = before.filter(|held| held.replica == *replica);
        let settled = same.map_or(0, |held| held.settled);
        let since = settled - settled_then.min(settled);
        self.slice = Some(Held {
            replica: replica.clone(),
            slice: Slice {
                granted: slice.granted - since,
                elsewhere: slice.elsewhere + since,
            },
            settled,
        });
    }

    /// The slice, where this life of the replica has one.
    pub(super) fn slice_of(&self, replica: &ReplicaId) -> Option<Slice> {
        let held = self.slice.as_ref()?;
        (held.replica == *replica).then_some(held.slice)
    }

    /// How long until this much more may be had, as far as anybody can tell. `None` if never.
    pub(super) fn wait(&mut self, now: Now, amount: i128, limit: i128) -> Option<Duration> {
        if amount > limit {
            return None;
        }
        let others = self.slice.as_ref().map(|held| held.slice.elsewhere);
        match &self.count {
            Count::Minute(window) => {
                let own = limit - others.unwrap_or(0);
                let wait = window.wait(now.ms, small(amount), small(own));
                // What others used leaves their windows nobody here knows when.
                wait.or(others.map(|_| SOON))
            }
            Count::Concurrent(_) => Some(SOON),
            Count::Calendar(stretch) => {
                let booked = others.unwrap_or(stretch.used);
                // What is reserved may come back at any moment.
                let waits_for_reserved = booked + amount <= limit;
                Some(if waits_for_reserved {
                    SOON
                } else {
                    stretch.left(now)
                })
            }
        }
    }

    /// How long until all of the limit may be had again.
    pub(super) fn clear(&self, now: Now) -> Duration {
        match &self.count {
            Count::Minute(window) => window.clear(now.ms),
            Count::Concurrent(0) => Duration::ZERO,
            Count::Concurrent(_) => SOON,
            Count::Calendar(stretch) => stretch.left(now),
        }
    }
}

/// When nobody can tell.
const SOON: Duration = Duration::from_secs(1);

impl Stretch {
    fn place(&self) -> u64 {
        u64::try_from(self.begins.as_second()).unwrap_or(0)
    }

    fn left(&self, now: Now) -> Duration {
        let left = self.ends.duration_since(now.time);
        left.try_into().unwrap_or(Duration::ZERO)
    }
}

fn small(amount: i128) -> u64 {
    u64::try_from(amount.max(0)).unwrap_or(u64::MAX)
}
