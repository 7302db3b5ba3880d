use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::affinity::Affinity;
use super::fair::{self, FairQueue, Fit, Full, Share, Ticket};
use super::hold::Hold;
use super::member::{Member, Offer, Room};
use super::{Error, Need, QueueView, Slot, WaitingView};
use crate::telemetry::PoolMetrics;
use crate::types::Class;
use crate::worker::{Health, Worker};

/// How a pool's queue is bounded, and its workers are brought in.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests that may wait.
    pub max_queue: usize,
    /// Of one tenant.
    pub max_queue_per_tenant: usize,
    /// How long one may wait.
    pub queue_timeout: Duration,
    /// Who waited that long counts as of the next higher class.
    pub promote_after: Duration,
    /// A worker that is new, or comes back, has all of its places after this time.
    pub slow_start: Duration,
}

/// A request stays with the worker that knows its beginning, unless that one has this much more of its places
/// taken than the freest.
const STICKS: f64 = 0.5;

/// The workers that can serve one plan, and the queue in front of them.
pub(super) struct Pool {
    name: Arc<str>,
    state: Mutex<State>,
    limits: Limits,
    pub(super) metrics: PoolMetrics,
}

struct State {
    members: Vec<Arc<Member>>,
    queue: FairQueue<Waiter>,
    affinity: Affinity,
}

/// A request that waits.
struct Waiter {
    need: Need,
    grant: oneshot::Sender<Hold>,
}

/// A worker that can take a request now.
struct Choice {
    member: Arc<Member>,
    room: Room,
}

impl Pool {
    pub(super) fn new(name: Arc<str>, limits: Limits, metrics: PoolMetrics) -> Self {
        let bounds = fair::Bounds {
            total: limits.max_queue,
            tenant: limits.max_queue_per_tenant,
            promote: limits.promote_after,
        };
        let state = State {
            members: Vec::new(),
            queue: FairQueue::new(bounds),
            affinity: Affinity::default(),
        };
        Self {
            name,
            state: Mutex::new(state),
            limits,
            metrics,
        }
    }

    pub(super) fn join(self: &Arc<Self>, member: &Arc<Member>) {
        member.serves(self);
        self.state().members.push(Arc::clone(member));
        self.dispatch();
    }

    /// Takes a worker out once it runs nothing any more.
    pub(super) fn leave(&self, worker: &str) {
        self.state()
            .members
            .retain(|member| &*member.name != worker || !member.drain());
    }

    pub(super) fn size(&self) -> usize {
        self.state().members.len()
    }

    /// How many of its workers aren't among these.
    pub(super) fn others(&self, avoid: &[Arc<str>]) -> usize {
        let state = self.state();
        let members = state.members.iter();
        members
            .filter(|member| !avoid.contains(&member.name))
            .count()
    }

    /// Lets go who could for a while, and lets workers go that have drained.
    pub(super) fn tend(self: &Arc<Self>) {
        self.state().members.retain(|member| !member.is_gone());
        self.dispatch();
    }

    /// Why its model can't be asked, a line for each worker; none where one can.
    pub(super) fn not_ready(&self) -> Vec<String> {
        let state = self.state();
        let health = |member: &Arc<Member>| member.worker.health();
        let one_is_enough = |member: &Arc<Member>| member.worker.is_replaceable();
        if state.members.is_empty() {
            return vec![format!("{}: no worker", self.name)];
        }
        let ready = |member: &Arc<Member>| one_is_enough(member) && health(member) == Health::Ready;
        if state.members.iter().any(ready) {
            return Vec::new();
        }
        let line = |member: &Arc<Member>| match health(member) {
            Health::Ready => None,
            Health::Loading => Some(format!("{}: loading", member.name)),
            Health::Failed(reason) => Some(format!("{}: {reason}", member.name)),
        };
        state.members.iter().filter_map(line).collect()
    }

    pub(super) fn ready(&self) -> Option<Arc<dyn Worker>> {
        let state = self.state();
        let mut members = state.members.iter();
        let ready = members.find(|member| member.worker.health() == Health::Ready);
        ready.map(|member| Arc::clone(&member.worker))
    }

    pub(super) async fn slot(self: &Arc<Self>, need: Need) -> Result<Slot, Error> {
        let start = Instant::now();
        let granted = self.enter(need, start);
        let granted = match granted {
            Ok(Entered::Goes(hold)) => Ok(hold),
            Ok(Entered::Waits(waits)) => waits.wait(self.limits.queue_timeout).await,
            Err(error) => Err(error),
        };
        let queued = start.elapsed();
        self.metrics.wait_seconds.observe(queued.as_secs_f64());
        let hold = granted.inspect_err(|error| match error {
            Error::QueueFull | Error::TenantQueueFull => self.metrics.full.inc(),
            Error::QueueTimeout => self.metrics.timeout.inc(),
            Error::NotReady(_) | Error::NoWorker => {}
        })?;
        Ok(Slot { queued, hold })
    }

    /// A place that nobody waits for, on a worker that isn't to be avoided.
    pub(super) fn offer(self: &Arc<Self>, need: &Need) -> Option<Slot> {
        let (mut state, now) = (self.state(), Instant::now());
        if state.queue.len() > 0 {
            return None;
        }
        let choice = state.choose(need, now).ok()?;
        if choice.room.borrowed || need.avoid.contains(&choice.member.name) {
            return None;
        }
        let share = state.queue.straight(&need.claim());
        let hold = state.hold(self, choice, need, share, now);
        let queued = Duration::ZERO;
        Some(Slot { queued, hold })
    }

    /// Takes a place at once where nobody waits for one; max_queue = 0 then means "serve or refuse".
    fn enter(self: &Arc<Self>, need: Need, now: Instant) -> Result<Entered, Error> {
        let mut state = self.state();
        assert_ready(&state.members)?;
        if state.queue.len() == 0
            && let Ok(choice) = state.choose(&need, now)
        {
            let share = state.queue.straight(&need.claim());
            return Ok(Entered::Goes(state.hold(self, choice, &need, share, now)));
        }
        let (grant, granted) = oneshot::channel();
        let claim = need.claim();
        let waiter = Waiter { need, grant };
        let pushed = state.queue.push(&claim, waiter, now);
        let (ticket, evicted) = pushed.map_err(|full| match full {
            Full::Tenant => Error::TenantQueueFull,
            Full::Total => Error::QueueFull,
        })?;
        // To the one that made way it looks like a full queue.
        drop(evicted);
        let granting = self.grant(&mut state, now);
        self.metrics.depth.set(depth(&state));
        drop(state);
        drop(granting);
        Ok(Entered::Waits(Waits {
            left: Left {
                pool: Arc::clone(self),
                ticket,
            },
            granted,
        }))
    }

    /// Lets go whoever can.
    pub(super) fn dispatch(self: &Arc<Self>) {
        let mut state = self.state();
        if state.queue.len() == 0 {
            return;
        }
        let unclaimed = self.grant(&mut state, Instant::now());
        self.metrics.depth.set(depth(&state));
        // What is given back is given back to this pool.
        drop(state);
        drop(unclaimed);
    }

    /// Gives places to those that are next. What nobody took is given back, to be dropped without the lock.
    fn grant(self: &Arc<Self>, state: &mut State, now: Instant) -> Vec<Hold> {
        let mut unclaimed = Vec::new();
        loop {
            let mut chosen = None;
            let (members, affinity) = (&state.members, &state.affinity);
            let next = state.queue.next(now, |waiter| {
                match choose(members, affinity, &waiter.need, now) {
                    Ok(choice) => {
                        chosen = Some(choice);
                        Fit::Now
                    }
                    Err(fit) => fit,
                }
            });
            let (Some((waiter, share)), Some(choice)) = (next, chosen) else {
                return unclaimed;
            };
            let hold = state.hold(self, choice, &waiter.need, share, now);
            unclaimed.extend(waiter.grant.send(hold).err());
        }
    }

    pub(super) fn view(&self) -> QueueView {
        let (state, now) = (self.state(), Instant::now());
        let standings: Vec<_> = state
            .members
            .iter()
            .map(|member| member.standing(now))
            .collect();
        let admits = state
            .members
            .iter()
            .any(|member| member.offer(now).is_some());
        let waiting = |waiting: fair::Waiting<'_>| WaitingView {
            project: waiting.tenant.clone(),
            class: waiting.class,
            requests: waiting.count,
            longest: waiting.longest,
            reason: if admits { "places_taken" } else { "no_worker" },
        };
        QueueView {
            pool: Arc::clone(&self.name),
            waiting: state.queue.waiting(now).map(waiting).collect(),
            workers: standings,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn choose(&self, need: &Need, now: Instant) -> Result<Choice, Fit> {
        choose(&self.members, &self.affinity, need, now)
    }

    fn hold(
        &mut self,
        pool: &Arc<Pool>,
        choice: Choice,
        need: &Need,
        share: Share,
        now: Instant,
    ) -> Hold {
        let Choice { member, room } = choice;
        let trial = member.take(room, now);
        self.affinity.note(&need.prefix, &member.name);
        Hold::new(
            member,
            room,
            trial,
            share,
            need.cost(),
            pool.metrics.busy.clone(),
        )
    }
}

/// The worker that a request goes to. A worker that it has failed on is taken only where no other takes anything.
fn choose(
    members: &[Arc<Member>],
    affinity: &Affinity,
    need: &Need,
    now: Instant,
) -> Result<Choice, Fit> {
    let offers = || {
        let offers = members.iter().map(|member| (member, member.offer(now)));
        offers.filter_map(|(member, offer)| Some((member, offer?)))
    };
    let fresh = |(member, _): &(&Arc<Member>, Offer)| !need.avoid.contains(&member.name);
    let offers: Vec<_> = if need.avoid.is_empty() || !offers().any(|offer| fresh(&offer)) {
        offers().collect()
    } else {
        offers().filter(fresh).collect()
    };
    let places = |offer: &Offer| need.answers.clamp(1, offer.limit.max(1));
    let roomy: Vec<_> = offers
        .iter()
        .filter(|(_, offer)| offer.free >= places(offer))
        .copied()
        .collect();
    if let Some((member, offer)) = roomy.iter().find(|(_, offer)| offer.trial) {
        return Ok(need.on(member, places(offer), false));
    }
    let least = roomy.iter().min_by(|(_, one), (_, other)| {
        let by_tokens = per_place(one.tokens, one).total_cmp(&per_place(other.tokens, other));
        by_tokens.then_with(|| other.free.cmp(&one.free))
    });
    if let Some(least @ (_, offer)) = least {
        let known = affinity.find(&need.prefix);
        let known = known.and_then(|name| roomy.iter().find(|(member, _)| member.name == *name));
        let (member, offer) = known
            .filter(|(_, known)| taken(known) <= taken(offer) + STICKS)
            .unwrap_or(least);
        return Ok(need.on(member, places(offer), false));
    }
    // Nobody has room: the batch class may have to make way.
    if need.class > Class::Batch {
        let lends = |(_, offer): &&(&Arc<Member>, Offer)| offer.lent >= i64::from(places(offer));
        if let Some((member, offer)) = offers.iter().find(lends) {
            return Ok(need.on(member, places(offer), true));
        }
    }
    let next = need.avoid.is_empty() || offers.iter().any(|(_, offer)| offer.free > 0);
    Err(if next { Fit::Wait } else { Fit::Pass })
}

impl Need {
    fn on(&self, member: &Arc<Member>, places: u32, borrowed: bool) -> Choice {
        Choice {
            member: Arc::clone(member),
            room: Room {
                places,
                tokens: self.tokens,
                borrowed,
                lends: self.class == Class::Batch && member.worker.preempts(),
            },
        }
    }
}

fn taken(offer: &Offer) -> f64 {
    1.0 - f64::from(offer.free) / f64::from(offer.limit.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "only compared")]
fn per_place(tokens: u64, offer: &Offer) -> f64 {
    tokens as f64 / f64::from(offer.limit.max(1))
}

fn depth(state: &State) -> i64 {
    i64::try_from(state.queue.len()).unwrap_or(i64::MAX)
}

fn assert_ready(members: &[Arc<Member>]) -> Result<(), Error> {
    let mut reason = Error::NoWorker;
    for member in members {
        match member.worker.health() {
            Health::Ready => return Ok(()),
            Health::Loading => reason = Error::NotReady("it is being loaded".into()),
            Health::Failed(why) => reason = Error::NotReady(why),
        }
    }
    Err(reason)
}

enum Entered {
    Goes(Hold),
    Waits(Waits),
}

/// A request in the queue. One that gives up leaves it as well: first the queue, so that nothing is granted to
/// who has gone.
struct Waits {
    left: Left,
    granted: oneshot::Receiver<Hold>,
}

struct Left {
    pool: Arc<Pool>,
    ticket: Ticket,
}

impl Waits {
    async fn wait(mut self, at_most: Duration) -> Result<Hold, Error> {
        match tokio::time::timeout(at_most, &mut self.granted).await {
            Ok(Ok(hold)) => Ok(hold),
            // Another tenant, which has less waiting, has taken its place.
            Ok(Err(_)) => Err(Error::QueueFull),
            Err(_) => {
                drop(self.left);
                // It may have been granted at the last moment.
                self.granted.try_recv().map_err(|_| Error::QueueTimeout)
            }
        }
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        let waiter = state.queue.remove(&self.ticket);
        self.pool.metrics.depth.set(depth(&state));
        drop(state);
        if waiter.is_some() {
            // It may have been next, and needed more than is free.
            self.pool.dispatch();
        }
    }
}
