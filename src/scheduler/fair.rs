//! Who goes next: the higher class; inside a class the tenant that was served the least, by its weight.
//!
//! Served is what the virtual token counter counts (Sheng et al., "Fairness in Serving Large Language Models",
//! arXiv 2401.00588): a prompt's tokens when it is taken on, and each generated token as it comes, which weighs
//! twice. A tenant that comes back is lifted to the least of those that wait, so nobody saves up a right by being idle. For two
//! tenants of one class that both wait all the time, what they were served differs by no more than [`bound`].

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use crate::types::{Class, ProjectId};

/// What a token of a prompt costs.
pub(super) const PROMPT: i64 = 1;
/// What a generated token costs: it takes a step of its own.
pub(super) const COMPLETION: i64 = 2;

const CLASSES: [Class; 3] = [Class::Interactive, Class::Standard, Class::Batch];

/// The paper's bound (its theorem 4.4) on the difference in service, in [`PROMPT`] and [`COMPLETION`] costs over the
/// weight: twice the largest prompt, or twice all tokens that may run at once, whichever is more.
#[cfg(test)]
pub(super) fn bound(longest_prompt: i64, running_tokens: i64) -> i64 {
    2 * (PROMPT * longest_prompt).max(COMPLETION * running_tokens)
}

/// How a queue is bounded, and when it lets low classes go up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Requests that may wait.
    pub(super) total: usize,
    /// Of one tenant.
    pub(super) tenant: usize,
    /// Who waited that long counts as of the next higher class.
    pub(super) promote: Duration,
}

/// Why nothing more can wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// This tenant has as many waiting as it may.
    Tenant,
    /// All of them together, and nobody has more than this one.
    Total,
}

/// Who asks, how much and how urgently.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub(super) tenant: ProjectId,
    pub(super) class: Class,
    /// Its share of what its class gets, in relation to others'; above 0.
    pub(super) weight: f64,
    /// What it costs at once when it goes.
    pub(super) cost: i64,
}

/// Names a request that waits.
#[derive(Debug, Clone)]
pub(super) struct Ticket {
    tenant: ProjectId,
    number: u64,
}

/// What a tenant was served in one class; whoever holds it runs, and adds to it.
#[derive(Debug, Clone)]
pub(super) struct Share(Arc<AtomicI64>);

impl Share {
    /// So much more was done for it, or less than had been thought.
    pub(super) fn add(&self, cost: i64) {
        self.0.fetch_add(cost, Ordering::Relaxed);
    }
}

/// Whether a request can go now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// It can.
    Now,
    /// It needs more than is free, and is next: nobody goes before it.
    Wait,
    /// What it needs is taken, and what is free is of no use to it.
    Pass,
}

/// What of one tenant waits in one class.
struct Lane<T> {
    served: Share,
    /// The counter's value is this and what was served by the weight.
    lift: f64,
    weight: f64,
    waiting: VecDeque<Entry<T>>,
}

struct Entry<T> {
    item: T,
    cost: i64,
    number: u64,
    since: Instant,
    /// When it came into the class that it waits in.
    entered: Instant,
}

struct Line<T> {
    lanes: HashMap<ProjectId, Lane<T>>,
    waiting: usize,
    /// The counter of the tenant that last had nothing waiting any more.
    last: f64,
}

/// A request that waits, as operators see it.
pub(super) struct Waiting<'a> {
    pub(super) tenant: &'a ProjectId,
    pub(super) class: Class,
    pub(super) count: usize,
    pub(super) longest: Duration,
}

/// Requests that wait for one pool.
pub(super) struct FairQueue<T> {
    /// In the order of [`CLASSES`].
    lines: [Line<T>; 3],
    bounds: Bounds,
    number: u64,
}

impl<T> FairQueue<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            lines: [(); 3].map(|()| Line {
                lanes: HashMap::new(),
                waiting: 0,
                last: 0.0,
            }),
            bounds,
            number: 0,
        }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.lines.iter().map(|line| line.waiting).sum()
    }

    /// Puts a request behind the others of its tenant. Where all places are taken, the newest request of whoever has the
    /// most waiting makes way, and is given back.
    pub(super) fn push(
        &mut self,
        claim: &Claim,
        item: T,
        now: Instant,
    ) -> Result<(Ticket, Option<T>), Full> {
        let own = self.of_tenant(&claim.tenant);
        if own >= self.bounds.tenant && self.bounds.tenant < self.bounds.total {
            return Err(Full::Tenant);
        }
        let evicted = if self.len() < self.bounds.total {
            None
        } else {
            Some(self.evict(own).ok_or(Full::Total)?)
        };
        self.number += 1;
        let number = self.number;
        let line = &mut self.lines[index(claim.class)];
        line.lift(claim);
        line.waiting += 1;
        let lane = line.lane(claim);
        lane.waiting.push_back(Entry {
            item,
            cost: claim.cost,
            number,
            since: now,
            entered: now,
        });
        let tenant = claim.tenant.clone();
        Ok((Ticket { tenant, number }, evicted))
    }

    /// A request that goes without having waited: nobody else does.
    pub(super) fn straight(&mut self, claim: &Claim) -> Share {
        let line = &mut self.lines[index(claim.class)];
        line.forget();
        line.lift(claim);
        let lane = line.lane(claim);
        lane.served.add(claim.cost);
        let (served, counter) = (lane.served.clone(), lane.counter());
        line.last = counter;
        served
    }

    /// A request that gives up. `None` where it has gone already.
    pub(super) fn remove(&mut self, ticket: &Ticket) -> Option<T> {
        self.lines
            .iter_mut()
            .find_map(|line| line.remove(&ticket.tenant, ticket.number))
    }

    /// Takes the next one that fits.
    pub(super) fn next(
        &mut self,
        now: Instant,
        mut fits: impl FnMut(&T) -> Fit,
    ) -> Option<(T, Share)> {
        self.promote(now);
        for line in self.lines.iter_mut().filter(|line| line.waiting > 0) {
            for tenant in line.order() {
                let waiting = line.lanes[&tenant].waiting.iter();
                // One that can't use what is free holds up nobody, its own tenant's others included.
                let mut found = waiting.map(|entry| fits(&entry.item)).enumerate();
                match found.find(|(_, fit)| *fit != Fit::Pass) {
                    Some((place, Fit::Now)) => return line.take(&tenant, place),
                    Some((_, Fit::Wait)) => return None,
                    Some((_, Fit::Pass)) | None => {}
                }
            }
        }
        None
    }

    /// Who waits, by tenant and class.
    pub(super) fn waiting(&self, now: Instant) -> impl Iterator<Item = Waiting<'_>> {
        let lines = CLASSES.iter().zip(&self.lines);
        lines.flat_map(move |(class, line)| {
            line.lanes.iter().filter_map(move |(tenant, lane)| {
                Some(Waiting {
                    tenant,
                    class: *class,
                    count: lane.waiting.len(),
                    longest: now.saturating_duration_since(lane.waiting.front()?.since),
                })
            })
        })
    }

    fn of_tenant(&self, tenant: &ProjectId) -> usize {
        let lanes = self.lines.iter().filter_map(|line| line.lanes.get(tenant));
        lanes.map(|lane| lane.waiting.len()).sum()
    }

    /// The newest request of the lowest class of whoever has the most waiting, if that is more than `own`.
    fn evict(&mut self, own: usize) -> Option<T> {
        let tenants = self.lines.iter().flat_map(|line| line.lanes.keys());
        let most = tenants.max_by_key(|tenant| self.of_tenant(tenant))?.clone();
        if self.of_tenant(&most) <= own + 1 {
            return None;
        }
        let mut lines = self.lines.iter_mut().rev();
        lines.find_map(|line| {
            let newest = line.lanes.get(&most)?.waiting.back()?.number;
            line.remove(&most, newest)
        })
    }

    /// Who waited for long goes up, behind those of its tenant that came before it.
    fn promote(&mut self, now: Instant) {
        for upper in (0..CLASSES.len() - 1).rev() {
            let (above, below) = self.lines.split_at_mut(upper + 1);
            let (above, below) = (&mut above[upper], &mut below[0]);
            if below.waiting == 0 {
                continue;
            }
            for (tenant, lane) in &mut below.lanes {
                while let Some(entry) = lane.waiting.pop_front_if(|entry| {
                    now.saturating_duration_since(entry.entered) >= self.bounds.promote
                }) {
                    below.waiting -= 1;
                    let claim = Claim {
                        tenant: tenant.clone(),
                        class: CLASSES[upper],
                        weight: lane.weight,
                        cost: entry.cost,
                    };
                    above.lift(&claim);
                    above.waiting += 1;
                    let entry = Entry {
                        entered: now,
                        ..entry
                    };
                    let waiting = &mut above.lane(&claim).waiting;
                    let place = waiting.partition_point(|other| other.number < entry.number);
                    waiting.insert(place, entry);
                }
            }
        }
    }
}

impl<T> Line<T> {
    fn lane(&mut self, claim: &Claim) -> &mut Lane<T> {
        let lane = self.lanes.entry(claim.tenant.clone());
        let lane = lane.or_insert_with(|| Lane {
            served: Share(Arc::default()),
            lift: self.last,
            weight: claim.weight,
            waiting: VecDeque::new(),
        });
        if lane.weight.to_bits() != claim.weight.to_bits() {
            // Its counter stays where it is.
            let counter = lane.counter();
            lane.weight = claim.weight;
            lane.lift += counter - lane.counter();
        }
        lane
    }

    /// A tenant of which nothing waited takes its place among those that wait.
    fn lift(&mut self, claim: &Claim) {
        let waiting = self.lanes.values().filter(|lane| !lane.waiting.is_empty());
        let least = waiting.map(Lane::counter).min_by(f64::total_cmp);
        let least = least.unwrap_or(self.last);
        let lane = self.lane(claim);
        if lane.waiting.is_empty() {
            lane.lift += (least - lane.counter()).max(0.0);
        }
    }

    /// Where nobody waits or runs, nobody owes anything either.
    fn forget(&mut self) {
        if self.waiting == 0 && self.lanes.values().all(Lane::is_idle) {
            self.lanes.clear();
            self.last = 0.0;
        }
    }

    /// Tenants of which something waits, the least served first; of two that were served alike, the one that
    /// has less running.
    fn order(&self) -> Vec<ProjectId> {
        let waiting = self
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.waiting.is_empty());
        let mut order: Vec<_> = waiting
            .map(|(tenant, lane)| (lane.rank(), tenant))
            .collect();
        order.sort_by(|(one, _), (other, _)| {
            one.0.total_cmp(&other.0).then_with(|| one.1.cmp(&other.1))
        });
        order
            .into_iter()
            .map(|(_, tenant)| tenant.clone())
            .collect()
    }

    fn take(&mut self, tenant: &ProjectId, place: usize) -> Option<(T, Share)> {
        let lane = self.lanes.get_mut(tenant)?;
        let entry = lane.waiting.remove(place)?;
        self.waiting -= 1;
        lane.served.add(entry.cost);
        let share = lane.served.clone();
        self.left(tenant);
        Some((entry.item, share))
    }

    fn remove(&mut self, tenant: &ProjectId, number: u64) -> Option<T> {
        let waiting = &mut self.lanes.get_mut(tenant)?.waiting;
        let place = waiting.iter().position(|entry| entry.number == number)?;
        let entry = waiting.remove(place)?;
        self.waiting -= 1;
        self.left(tenant);
        Some(entry.item)
    }

    /// Remembers where a tenant stood of which nothing waits any more.
    fn left(&mut self, tenant: &ProjectId) {
        if let Some(lane) = self.lanes.get(tenant)
            && lane.waiting.is_empty()
        {
            self.last = lane.counter();
        }
        // Who was served no more than those that go on would be lifted anyway.
        if self.lanes.len() > MANY_LANES {
            let last = self.last;
            self.lanes
                .retain(|_, lane| !lane.is_idle() || lane.counter() > last);
        }
    }
}

/// Idle tenants are looked for once there are this many.
const MANY_LANES: usize = 256;

impl<T> Lane<T> {
    #[expect(clippy::cast_precision_loss, reason = "2^53 tokens are enough")]
    fn counter(&self) -> f64 {
        self.lift + self.served.0.load(Ordering::Relaxed) as f64 / self.weight
    }

    fn running(&self) -> usize {
        Arc::strong_count(&self.served.0) - 1
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running() == 0
    }

    fn rank(&self) -> (f64, (usize, u64)) {
        let front = self.waiting.front().map_or(u64::MAX, |entry| entry.number);
        (self.counter(), (self.running(), front))
    }
}

fn index(class: Class) -> usize {
    match class {
        Class::Interactive => 0,
        Class::Standard => 1,
        Class::Batch => 2,
    }
}

#[cfg(test)]
mod tests;
