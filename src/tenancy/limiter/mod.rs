//! Rates, budgets and reservations: what a request may take, all of it or nothing.
//!
//! A request reserves the most that it can take of every limit that it belongs to; when it ends, what it used
//! stays and the rest is given back. A reservation that is dropped gives everything back.

mod bucket;
mod over;
mod seconds;
mod slices;
mod window;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashbrown::{Equivalent, HashMap};
use jiff::Timestamp;

pub(super) use bucket::METERS;
pub use bucket::{Meter, Unit};
pub use seconds::seconds;

use super::Access;
use crate::types::{
    Caller, Ledger, LimitSet, Membership, Money, Price, Release, Reserved, Scope, Spender,
    StoreError, Usage,
};
use bucket::{Bucket, Mark, Now};

/// Spenders that are kept before idle ones are swept out.
const SWEEP_AT: usize = 4096;

/// What a request could take.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    /// Tokens of its prompt.
    pub prompt_tokens: u64,
    /// Tokens that it may generate at most, in all its answers together.
    pub completion_tokens: u64,
    /// Whether the client named that number.
    pub named: bool,
    /// Answers: each gets a token at least.
    pub answers: u32,
    /// Whether it is of the batch class.
    pub batch: bool,
}

/// Why a request may not run.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A limit is used up.
    #[error(transparent)]
    Over(#[from] Over),
    /// What was spent can't be looked up.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A limit that is used up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.words())]
pub struct Over {
    /// Which.
    pub meter: Meter,
    /// Whose.
    pub scope: Scope,
    /// Of one model alone.
    pub model: Option<Arc<str>>,
    /// How much of it there is.
    pub limit: i128,
    /// How much was used or is reserved.
    pub taken: i128,
    /// How much the request asks for.
    pub asked: i128,
    /// When to come again; `None` where the request alone is more than the limit.
    pub retry_after: Option<Duration>,
}

/// What is left of the limit that is nearest to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// All of it.
    pub limit: u64,
    /// What is left.
    pub remaining: u64,
    /// When it will be whole again.
    pub reset: Duration,
}

/// What clients are told of their limits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Of requests.
    pub requests: Option<Rate>,
    /// Of tokens.
    pub tokens: Option<Rate>,
    /// A budget of which more is spent than was meant to be.
    pub warning: Option<Meter>,
    /// The limit that made the answer shorter than was asked for.
    pub cut_by: Option<Meter>,
}

/// Keeps count of every limit.
pub struct Limiter {
    shared: Arc<Shared>,
    ledger: Arc<dyn Ledger>,
    /// Where there may be other replicas: who this one is.
    membership: Option<Arc<Membership>>,
    /// Whoever asks the store what was spent, or for a slice.
    asking: tokio::sync::Mutex<()>,
}

struct Shared {
    started: Instant,
    buckets: Mutex<Buckets>,
}

type Buckets = HashMap<Spender, Vec<(Meter, Bucket)>>;

/// A request's part of every limit that it belongs to.
pub struct Reservation {
    shared: Arc<Shared>,
    caller: Caller,
    model: Arc<str>,
    batch: bool,
    holds: Vec<Hold>,
    /// Tokens that it may generate, in all its answers together.
    pub completion_tokens: u64,
    /// What its client is told.
    pub standing: Standing,
}

struct Hold {
    spender: Spender,
    meter: Meter,
    amount: i128,
    mark: Mark,
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Request<'a> {
    access: &'a Access,
    model: &'a Arc<str>,
    price: &'a Price,
    need: Need,
}

/// A limit that is to be kept.
struct Bound {
    spender: Spender,
    meter: Meter,
    limit: Option<i128>,
    warn: Option<i128>,
}

impl Limiter {
    /// Counts from what the ledger says was spent. Where there may be other replicas, limits are shared with them
    /// by slices.
    #[must_use]
    pub fn new(ledger: Arc<dyn Ledger>, membership: Option<Arc<Membership>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                started: Instant::now(),
                buckets: Mutex::default(),
            }),
            ledger,
            membership,
            asking: tokio::sync::Mutex::default(),
        }
    }

    /// Takes a request's part of every limit, or nothing.
    ///
    /// Where a budget or the tokens of a day don't cover the whole answer, it is cut to what they cover.
    ///
    /// # Errors
    /// A limit is used up, or what was spent can't be looked up.
    pub async fn reserve(
        &self,
        access: &Access,
        model: &Arc<str>,
        price: &Price,
        need: Need,
    ) -> Result<Reservation, Refused> {
        let bounds = bounds(&access.limits, model, need.batch);
        let request = Request {
            access,
            model,
            price,
            need,
        };
        self.shared.make(&bounds);
        match &self.membership {
            None => {
                self.load(&bounds).await?;
                Ok(self.take(&request, bounds)?)
            }
            Some(membership) => self.take_of_slices(&request, bounds, membership).await,
        }
    }

    fn take(&self, request: &Request<'_>, bounds: Vec<Bound>) -> Result<Reservation, Over> {
        let Request { price, need, .. } = *request;
        let now = self.shared.now();
        let mut buckets = self.shared.lock();
        let (completion_tokens, cut_by) = covered(&mut buckets, &bounds, now, price, need);
        let need = Need {
            completion_tokens,
            ..need
        };
        refuse(&mut buckets, &bounds, now, price, need)?;
        let mut holds = Vec::with_capacity(bounds.len());
        let mut standing = Standing {
            cut_by,
            ..Standing::default()
        };
        for bound in bounds {
            let amount = amount(&bound, price, need);
            if let Some(bucket) = find(&mut buckets, &bound.spender, bound.meter) {
                let mark = bucket.take(now, amount);
                standing.note(&bound, bucket, now);
                holds.push(Hold {
                    spender: bound.spender,
                    meter: bound.meter,
                    amount,
                    mark,
                });
            }
        }
        drop(buckets);
        Ok(Reservation {
            shared: Arc::clone(&self.shared),
            caller: request.access.caller.clone(),
            model: Arc::clone(request.model),
            batch: need.batch,
            holds,
            completion_tokens,
            standing,
        })
    }

    /// Sees to it that the buckets of days and months hold what was spent.
    async fn load(&self, bounds: &[Bound]) -> Result<(), StoreError> {
        if self.shared.missing(bounds).is_empty() {
            return Ok(());
        }
        let _alone = self.asking.lock().await;
        // What is settled from here on counts twice if the ledger has it by now: rather too much than too little.
        for (spender, meter, begins) in self.shared.missing(bounds) {
            let spent = self.ledger.spent(&spender, begins).await?;
            let mut buckets = self.shared.lock();
            if let Some(bucket) = find(&mut buckets, &spender, meter) {
                bucket.load(meter.spent(&spent));
            }
        }
        Ok(())
    }
}

impl Shared {
    fn now(&self) -> Now {
        Now {
            ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            time: Timestamp::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the buckets that aren't there, and those of days and months that are over anew.
    fn make(&self, bounds: &[Bound]) {
        let now = self.now();
        let mut buckets = self.lock();
        if buckets.len() > SWEEP_AT {
            sweep(&mut buckets, now);
        }
        for bound in bounds {
            let of = buckets.entry(bound.spender.clone()).or_default();
            of.retain(|(meter, bucket)| *meter != bound.meter || !bucket.is_over(now));
            if of.iter().all(|(meter, _)| *meter != bound.meter) {
                of.extend(Bucket::new(bound.meter, now).map(|bucket| (bound.meter, bucket)));
            }
        }
    }

    /// The buckets that need to know what was spent since when.
    fn missing(&self, bounds: &[Bound]) -> Vec<(Spender, Meter, Timestamp)> {
        let mut buckets = self.lock();
        let missing = |bound: &Bound| {
            let bucket = find(&mut buckets, &bound.spender, bound.meter)?;
            let begins = bucket.begins().filter(|_| bucket.is_missing())?;
            Some((bound.spender.clone(), bound.meter, begins))
        };
        bounds.iter().filter_map(missing).collect()
    }
}

fn sweep(buckets: &mut Buckets, now: Now) {
    buckets.retain(|_, of| {
        of.retain_mut(|(_, bucket)| !bucket.is_idle(now));
        !of.is_empty()
    });
}

fn find<'a>(buckets: &'a mut Buckets, spender: &Spender, meter: Meter) -> Option<&'a mut Bucket> {
    let of = buckets.get_mut(spender)?;
    of.iter_mut()
        .find_map(|(known, bucket)| (*known == meter).then_some(bucket))
}

/// Every limit that a request for this model belongs to.
fn bounds(sets: &[LimitSet], model: &Arc<str>, batch: bool) -> Vec<Bound> {
    let applies = |set: &&LimitSet| set.model.as_ref().is_none_or(|named| **named == **model);
    let mut bounds = Vec::new();
    for set in sets.iter().filter(applies) {
        let spender = Spender {
            scope: set.scope,
            id: Arc::clone(&set.id),
            model: set.model.as_ref().map(|_| Arc::clone(model)),
        };
        let meters = METERS
            .into_iter()
            .filter(|meter| batch || *meter != Meter::BatchTokensPerDay);
        bounds.extend(meters.filter_map(|meter| {
            let (limit, warn) = meter.of(set)?;
            Some(Bound {
                spender: spender.clone(),
                meter,
                limit,
                warn,
            })
        }));
    }
    bounds
}

/// What a need takes of a limit. A client that named no length is not refused for the longest that there could be.
fn amount(bound: &Bound, price: &Price, need: Need) -> i128 {
    let tokens = i128::from(need.prompt_tokens) + i128::from(need.completion_tokens);
    match bound.meter.unit() {
        Unit::Requests => 1,
        Unit::Money => prompt_cost(price, need) + completion_cost(price, need.completion_tokens),
        Unit::Tokens => match bound.limit {
            Some(limit) if bound.meter == Meter::TokensPerMinute && !need.named => {
                tokens.min(limit.max(need.prompt_tokens.into()))
            }
            _ => tokens,
        },
    }
}

fn prompt_cost(price: &Price, need: Need) -> i128 {
    let dearest = price.prompt_pico.max(price.cached_pico);
    i128::from(need.prompt_tokens) * i128::from(dearest) + i128::from(price.request_pico)
}

fn completion_cost(price: &Price, tokens: u64) -> i128 {
    i128::from(tokens) * i128::from(price.completion_pico)
}

/// The tokens that days and budgets cover, of those that the answers may have, and what cut them.
fn covered(
    buckets: &mut Buckets,
    bounds: &[Bound],
    now: Now,
    price: &Price,
    need: Need,
) -> (u64, Option<Meter>) {
    let (mut covered, mut cut_by) = (need.completion_tokens, None);
    let least = u64::from(need.answers).min(need.completion_tokens);
    for bound in bounds
        .iter()
        .filter(|bound| bound.meter.calendar().is_some())
    {
        let Some(limit) = bound.limit else { continue };
        let Some(bucket) = find(buckets, &bound.spender, bound.meter) else {
            continue;
        };
        let left = bucket.own(limit) - bucket.taken(now);
        let fits = match bound.meter.unit() {
            Unit::Requests => continue,
            Unit::Tokens => left - i128::from(need.prompt_tokens),
            Unit::Money if price.completion_pico == 0 => continue,
            Unit::Money => {
                (left - prompt_cost(price, need)).div_euclid(price.completion_pico.into())
            }
        };
        let fits = u64::try_from(fits.max(0)).unwrap_or(u64::MAX).max(least);
        if fits < covered {
            (covered, cut_by) = (fits, Some(bound.meter));
        }
    }
    (covered, cut_by)
}

/// The limit that keeps the request waiting the longest, if there is one.
fn refuse(
    buckets: &mut Buckets,
    bounds: &[Bound],
    now: Now,
    price: &Price,
    need: Need,
) -> Result<(), Over> {
    let mut worst: Option<Over> = None;
    for bound in bounds {
        let Some(limit) = bound.limit else { continue };
        let Some(bucket) = find(buckets, &bound.spender, bound.meter) else {
            continue;
        };
        let (asked, taken) = (amount(bound, price, need), bucket.taken(now));
        if taken + asked <= bucket.own(limit) {
            continue;
        }
        let taken = bucket.taken_in_all(now);
        let retry_after = bucket.wait(now, asked, limit);
        let longer = worst.as_ref().is_none_or(|worst| {
            // Never is longer than any time.
            let longest = |wait: Option<Duration>| wait.unwrap_or(Duration::MAX);
            longest(retry_after) > longest(worst.retry_after)
        });
        if longer {
            worst = Some(Over {
                meter: bound.meter,
                scope: bound.spender.scope,
                model: bound.spender.model.clone(),
                limit,
                taken,
                asked,
                retry_after,
            });
        }
    }
    worst.map_or(Ok(()), Err)
}

impl Standing {
    fn note(&mut self, bound: &Bound, bucket: &mut Bucket, now: Now) {
        let taken = bucket.taken_in_all(now);
        if bound.warn.is_some_and(|warn| taken >= warn) {
            self.warning = Some(bound.meter);
        }
        let (Some(limit), Some(place)) = (bound.limit, self.place(bound.meter)) else {
            return;
        };
        let rate = Rate {
            limit: number(limit),
            remaining: number(limit - taken),
            reset: bucket.clear(now),
        };
        if place.is_none_or(|other| rate.remaining < other.remaining) {
            *place = Some(rate);
        }
    }

    fn place(&mut self, meter: Meter) -> Option<&mut Option<Rate>> {
        match meter {
            Meter::RequestsPerMinute | Meter::RequestsPerDay => Some(&mut self.requests),
            Meter::TokensPerMinute | Meter::TokensPerDay => Some(&mut self.tokens),
            Meter::BatchTokensPerDay
            | Meter::Concurrent
            | Meter::BudgetPerDay
            | Meter::BudgetPerMonth => None,
        }
    }
}

fn number(amount: i128) -> u64 {
    u64::try_from(amount.max(0)).unwrap_or(u64::MAX)
}

impl Reservation {
    /// Ends it: this much was used, and the rest is given back.
    fn end(&mut self, used: Option<(Usage, Money)>) {
        let mut buckets = self.shared.lock();
        let holds = std::mem::take(&mut self.holds);
        for hold in &holds {
            if let Some(bucket) = find(&mut buckets, &hold.spender, hold.meter) {
                bucket.settle(&hold.mark, hold.amount, of(hold.meter, used));
            }
        }
        if used.is_none() {
            return;
        }
        // Limits that came to stand while it ran.
        for spender in spenders(&self.caller, &self.model) {
            let Some(of_spender) = buckets.get_mut(&spender) else {
                continue;
            };
            for (meter, bucket) in of_spender {
                let held = |hold: &Hold| hold.meter == *meter && spender.equivalent(&hold.spender);
                let counts = self.batch || *meter != Meter::BatchTokensPerDay;
                if meter.calendar().is_some() && counts && !holds.iter().any(held) {
                    bucket.add_used(of(*meter, used));
                }
            }
        }
    }
}

fn of(meter: Meter, used: Option<(Usage, Money)>) -> i128 {
    let Some((usage, amount)) = used else {
        return 0;
    };
    match meter.unit() {
        Unit::Requests => 1,
        Unit::Tokens => usage.total_tokens().into(),
        Unit::Money => amount.0,
    }
}

/// A [`Spender`] that is looked for.
#[derive(Hash)]
struct Wanted<'a> {
    scope: Scope,
    id: &'a str,
    model: Option<&'a str>,
}

impl Equivalent<Spender> for Wanted<'_> {
    fn equivalent(&self, spender: &Spender) -> bool {
        self.scope == spender.scope
            && *self.id == *spender.id
            && self.model == spender.model.as_deref()
    }
}

fn spenders<'a>(caller: &'a Caller, model: &'a str) -> impl Iterator<Item = Wanted<'a>> {
    let scopes = [
        (Scope::Organisation, caller.organisation.as_str()),
        (Scope::Project, caller.project.as_str()),
        (Scope::Key, caller.key.as_str()),
    ];
    let both = move |(scope, id)| [None, Some(model)].map(|model| Wanted { scope, id, model });
    scopes.into_iter().flat_map(both)
}

impl Reserved for Reservation {
    fn releases(&self, usage: &Usage, amount: Money) -> Vec<Release> {
        let used = Some((*usage, amount));
        let release = |hold: &Hold| {
            let replica = hold.mark.replica.clone()?;
            let window = hold.mark.window(hold.meter)?;
            Some(Release {
                slice: slices::id(&hold.spender, hold.meter, window),
                replica,
                amount: of(hold.meter, used),
            })
        };
        self.holds.iter().filter_map(release).collect()
    }

    fn settle(&mut self, usage: Usage, amount: Money) {
        self.end(Some((usage, amount)));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.holds.is_empty() {
            self.end(None);
        }
    }
}

#[cfg(test)]
mod tests;
