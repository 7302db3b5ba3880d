use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::wire::{CREDITS, Down, Reply, WireError, encode};
use crate::telemetry::{WorkerMetrics, WorkerReading};
use crate::types::{Count, Failure, Progress};
use crate::worker::Health;

/// Messages that one request can have in the queue to the process: itself, its cancelling, and credits, which
/// come by the half.
const DOWN_EACH: usize = 4;
/// Replies that one request can have waiting for its reader: as many events as it has credits for, that it
/// started, and why it failed. Counts are taken off before.
const REPLIES: usize = CREDITS as usize + 2;

/// What the handle and the supervisor share: how the worker is, and the requests that are open at its process.
///
/// Two bounds hold everything. A request has its place until the process says that it is done with it, and has
/// at most [`DOWN_EACH`] messages queued: so the queue is never full while the process keeps to its word.
pub(super) struct Link {
    state: Mutex<State>,
    next_id: AtomicU64,
    bound: usize,
    metrics: WorkerMetrics,
}

struct State {
    health: Health,
    /// To the process, while there is one.
    outbox: Option<mpsc::Sender<Bytes>>,
    open: HashMap<u64, Open>,
    /// What the process's metrics stood at.
    reading: WorkerReading,
}

struct Open {
    replies: mpsc::Sender<Reply>,
    progress: Arc<Progress>,
    counted: Count,
}

/// A request at the process. Dropped, it is cancelled there.
pub(super) struct Call {
    id: u64,
    link: Arc<Link>,
    replies: mpsc::Receiver<Reply>,
    /// Events that were taken since the last credit.
    taken: u32,
}

impl Link {
    /// With no process yet. At most `bound` requests are open.
    pub(super) fn new(bound: usize, metrics: WorkerMetrics) -> Self {
        metrics.ready.set(0);
        Self {
            state: Mutex::new(State {
                health: Health::Loading,
                outbox: None,
                open: HashMap::new(),
                reading: WorkerReading::default(),
            }),
            next_id: AtomicU64::new(0),
            bound,
            metrics,
        }
    }

    pub(super) fn health(&self) -> Health {
        self.state().health.clone()
    }

    /// A process was started; what is sent to it comes out of the receiver.
    pub(super) fn up(&self, first: Bytes) -> mpsc::Receiver<Bytes> {
        let (outbox, frames) = mpsc::channel(1 + DOWN_EACH * self.bound);
        // The first in an empty queue.
        let _sent = outbox.try_send(first);
        let mut state = self.state();
        state.health = Health::Loading;
        state.outbox = Some(outbox);
        frames
    }

    /// The process is gone. What was open there is told so, and new requests are refused for this reason.
    pub(super) fn down(&self, reason: String) {
        self.metrics.ready.set(0);
        let mut state = self.state();
        state.health = Health::Failed(reason);
        state.outbox = None;
        self.metrics
            .follow(&mut state.reading, WorkerReading::default());
        for (_, open) in state.open.drain() {
            let failure = Failure::Broken("its engine's process has died".into());
            // Whoever asked may have gone.
            let _gone = open.replies.try_send(Reply::Failed(failure));
        }
    }

    /// The process says how it is.
    pub(super) fn set_health(&self, health: Health) {
        self.metrics.ready.set((health == Health::Ready).into());
        self.state().health = health;
    }

    /// The process says what its metrics stand at.
    pub(super) fn set_metrics(&self, now: WorkerReading) {
        self.metrics.follow(&mut self.state().reading, now);
    }

    /// Opens a request.
    ///
    /// # Errors
    /// There is no process that could run it, it has as many as it may, or the request is too long to be sent.
    pub(super) fn open(
        self: &Arc<Self>,
        progress: Arc<Progress>,
        message: impl FnOnce(u64) -> Down,
    ) -> Result<Call, Failure> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = encode(&message(id)).map_err(refusal)?;
        let mut state = self.state();
        match &state.health {
            Health::Ready => {}
            Health::Loading => return Err(Failure::NotReady("it is being loaded".into())),
            Health::Failed(reason) => return Err(Failure::NotReady(reason.clone())),
        }
        if state.open.len() >= self.bound {
            return Err(Failure::Busy);
        }
        state.send(frame)?;
        let (replies, receiver) = mpsc::channel(REPLIES);
        state.open.insert(
            id,
            Open {
                replies,
                progress,
                counted: Count::default(),
            },
        );
        Ok(Call {
            id,
            link: Arc::clone(self),
            replies: receiver,
            taken: 0,
        })
    }

    /// The process replies to a request.
    ///
    /// # Errors
    /// It sent more than it had credits for, which is a fault of the process.
    pub(super) fn reply(&self, id: u64, counted: Count, reply: Reply) -> Result<(), String> {
        let mut state = self.state();
        let Some(open) = state.open.get_mut(&id) else {
            return Err(format!("it replied to request {id}, which isn't open"));
        };
        // A refused count means that the reader went: its cancelling is on its way.
        let _refused = open.count(counted);
        if matches!(reply, Reply::Counted) {
            return Ok(());
        }
        match open.replies.try_send(reply) {
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err(format!("it replied to request {id} beyond its credits"))
            }
        }
    }

    /// The process is done with a request.
    pub(super) fn done(&self, id: u64) {
        self.state().open.remove(&id);
    }

    /// Sends what concerns an open request; one that is done has no need of it.
    fn tell(&self, id: u64, message: &Down) {
        let Ok(frame) = encode(message) else {
            return;
        };
        let state = self.state();
        if state.open.contains_key(&id) && state.send(frame).is_err() {
            tracing::error!(id, "the queue to a worker's process is full");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn send(&self, frame: Bytes) -> Result<(), Failure> {
        let outbox = self.outbox.as_ref();
        outbox
            .and_then(|outbox| outbox.try_send(frame).ok())
            .ok_or(Failure::Busy)
    }
}

impl Open {
    /// Brings the meter's count to the process's.
    fn count(&mut self, now: Count) -> bool {
        let last = std::mem::replace(&mut self.counted, now);
        let rise = |of: fn(Count) -> u32| of(now).saturating_sub(of(last));
        let prompt = rise(|count| count.prompt_tokens);
        let cached = rise(|count| count.cached_tokens);
        let completion = rise(|count| count.completion_tokens);
        self.progress.start_cached(prompt, cached) && self.progress.advance_by(completion)
    }
}

impl Call {
    /// The next reply; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Reply> {
        let reply = self.replies.recv().await?;
        if matches!(reply, Reply::Event(_)) {
            self.taken += 1;
        }
        if self.taken >= CREDITS / 2 {
            let events = std::mem::take(&mut self.taken);
            self.link.tell(
                self.id,
                &Down::Credit {
                    id: self.id,
                    events,
                },
            );
        }
        Some(reply)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.link.tell(self.id, &Down::Cancel { id: self.id });
    }
}

fn refusal(error: WireError) -> Failure {
    match error {
        WireError::TooLong(_) => Failure::Invalid {
            param: None,
            message: "the request is too long".into(),
        },
        error => Failure::Broken(format!("its engine's process can't be asked: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;
    use crate::types::{Delta, Embed, Event, Precision};

    fn link(bound: usize) -> (Arc<Link>, mpsc::Receiver<Bytes>) {
        let link = Link::new(bound, Metrics::new().unwrap().worker("w"));
        let mut frames = link.up(Bytes::new());
        frames.try_recv().unwrap();
        link.set_health(Health::Ready);
        (Arc::new(link), frames)
    }

    fn ask(link: &Arc<Link>, progress: &Arc<Progress>) -> Result<Call, Failure> {
        link.open(Arc::clone(progress), |id| Down::Embed {
            id,
            request: Embed {
                inputs: Vec::new(),
                dimensions: None,
                precision: Precision::Full,
            },
        })
    }

    fn event() -> Reply {
        Reply::Event(Event::Delta(Delta::default()))
    }

    fn count(prompt_tokens: u32, completion_tokens: u32) -> Count {
        Count {
            prompt_tokens,
            cached_tokens: prompt_tokens / 2,
            completion_tokens,
        }
    }

    #[tokio::test]
    async fn a_dead_process_breaks_what_was_open_after_what_it_said() {
        let (link, _frames) = link(2);
        let progress = Arc::new(Progress::default());
        let mut call = ask(&link, &progress).unwrap();
        for _ in 0..CREDITS {
            link.reply(call.id, count(3, 1), event()).unwrap();
        }
        link.down("it died".into());
        for _ in 0..CREDITS {
            assert!(matches!(call.next().await, Some(Reply::Event(_))));
        }
        assert!(matches!(
            call.next().await,
            Some(Reply::Failed(Failure::Broken(_)))
        ));
        assert!(call.next().await.is_none());
        assert!(matches!(ask(&link, &progress), Err(Failure::NotReady(_))));
    }

    #[tokio::test]
    async fn counts_reach_the_meter_once_and_not_after_its_close() {
        let (link, _frames) = link(2);
        let progress = Arc::new(Progress::default());
        let call = ask(&link, &progress).unwrap();
        link.reply(call.id, count(7, 0), Reply::Counted).unwrap();
        link.reply(call.id, count(7, 2), event()).unwrap();
        link.reply(call.id, count(7, 2), event()).unwrap();
        assert_eq!(progress.close(), count(7, 2));
        link.reply(call.id, count(7, 3), event()).unwrap();
        assert_eq!(progress.read(), count(7, 2));
    }

    #[tokio::test]
    async fn a_place_is_free_once_the_process_is_done_and_not_when_the_client_went() {
        let (link, mut frames) = link(1);
        let progress = Arc::new(Progress::default());
        let call = ask(&link, &progress).unwrap();
        let id = call.id;
        frames.try_recv().unwrap();
        assert!(matches!(ask(&link, &progress), Err(Failure::Busy)));
        drop(call);
        assert!(frames.try_recv().is_ok(), "it is cancelled");
        assert!(matches!(ask(&link, &progress), Err(Failure::Busy)));
        link.done(id);
        drop(ask(&link, &progress).unwrap());
    }

    #[tokio::test]
    async fn a_reader_that_takes_gives_credits_and_one_that_does_not_gives_none() {
        let (link, mut frames) = link(1);
        let progress = Arc::new(Progress::default());
        let mut call = ask(&link, &progress).unwrap();
        frames.try_recv().unwrap();
        for _ in 0..CREDITS {
            link.reply(call.id, Count::default(), event()).unwrap();
        }
        assert!(frames.try_recv().is_err());
        for _ in 0..CREDITS {
            call.next().await.unwrap();
        }
        assert!(frames.try_recv().is_ok() && frames.try_recv().is_ok());
        assert!(frames.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_process_that_breaks_its_word_is_told_apart() {
        let (link, _frames) = link(1);
        let progress = Arc::new(Progress::default());
        let call = ask(&link, &progress).unwrap();
        let said = |_| link.reply(call.id, Count::default(), event());
        assert!((0..=REPLIES).map(said).any(|said| said.is_err()));
        assert!(link.reply(99, Count::default(), event()).is_err());
    }
}
