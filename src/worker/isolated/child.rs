//! The other side: what runs in the process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::process::{socket_to_parent, tie_to_parent};
use super::wire::{self, CREDITS, Down, Reply, Source, Up, WireError};
use super::{Error, probe};
use crate::telemetry::{Metrics, WorkerMetrics, WorkerReading};
use crate::types::{Count, Embed, EmbedJob, Failure, Job, Progress};
use crate::worker::{Health, Options, Worker};

/// Frames that wait for the socket. Whoever has one more waits.
const OUTBOX: usize = 64;
/// How often health and metrics are looked at, and sent where they changed.
const REPORT: Duration = Duration::from_millis(100);
/// How often a count is sent that grew without an event: a prompt was taken on, or its reader takes nothing.
const COUNT: Duration = Duration::from_millis(50);

/// Is the worker that the parent process asks for, until the parent closes the socket.
///
/// # Errors
/// It was not started by a parent, or the parent breaks the protocol.
pub async fn run_child() -> Result<(), Error> {
    tie_to_parent()?;
    let socket = socket_to_parent().map_err(|_| Error::NoParent)?;
    let (mut source, half) = wire::split(socket);
    let (outbox, frames) = mpsc::channel(OUTBOX);
    let writer = tokio::spawn(wire::write(frames, half));
    match source.next().await? {
        Some(Down::Start(options)) => serve(options, source, Outbox(outbox)).await?,
        Some(Down::Probe(weights)) => {
            let health = probe::load(weights).await;
            Outbox(outbox).send(&Up::Health(health)).await?;
        }
        Some(_) => return Err(Error::Order),
        // The parent is gone before its first word: with the last way to the writer the writer ends.
        None => drop(outbox),
    }
    // The last words go out, unless the parent is gone.
    let _gone = writer.await;
    Ok(())
}

/// The way to the parent.
#[derive(Clone)]
struct Outbox(mpsc::Sender<Bytes>);

impl Outbox {
    /// A parent that is gone is noticed where the socket is read.
    async fn send(&self, message: &impl Serialize) -> Result<(), WireError> {
        let _gone = self.0.send(wire::encode(message)?).await;
        Ok(())
    }
}

/// A request under way, as the parent's messages find it.
struct Open {
    cancel: CancellationToken,
    credits: Arc<Semaphore>,
}

/// A request under way, as the task has it that answers it.
struct Request {
    id: u64,
    outbox: Outbox,
    progress: Arc<Progress>,
    credits: Arc<Semaphore>,
}

/// Answers requests until the parent closes the socket. Then everything under way is dropped, which ends it, and
/// the engine is waited for: C++ must not be at work while the process ends.
async fn serve(options: Options, source: Source, outbox: Outbox) -> Result<(), Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Worker(error.to_string());
    let metrics = Metrics::new().map_err(|error| failed(&error))?;
    let metrics = metrics.worker(options.name());
    let worker = options
        .start(metrics.clone())
        .map_err(|error| failed(&error))?;
    let server = Server {
        worker: Arc::clone(&worker),
        metrics,
        outbox,
        open: HashMap::new(),
        tasks: JoinSet::new(),
        told: (Health::Loading, WorkerReading::default()),
    };
    let served = server.run(source).await;
    tokio::task::spawn_blocking(move || drop(worker))
        .await
        .map_err(|error| failed(&error))?;
    served
}

struct Server {
    worker: Arc<dyn Worker>,
    metrics: WorkerMetrics,
    outbox: Outbox,
    open: HashMap<u64, Open>,
    /// Each gives the id of its request once that is done.
    tasks: JoinSet<Result<u64, WireError>>,
    /// What the parent knows.
    told: (Health, WorkerReading),
}

impl Server {
    async fn run(mut self, mut source: Source) -> Result<(), Error> {
        let mut report = every(REPORT);
        loop {
            tokio::select! {
                message = source.next() => match message? {
                    Some(message) => self.take(message)?,
                    None => break,
                },
                Some(ended) = self.tasks.join_next() => {
                    let id = ended.map_err(|_| Error::Worker("a request's task had a fault".into()))??;
                    self.open.remove(&id);
                }
                _ = report.tick() => self.report().await?,
            }
        }
        self.tasks.shutdown().await;
        Ok(())
    }

    fn take(&mut self, message: Down) -> Result<(), Error> {
        match message {
            Down::Generate { id, job } => self.answer(id, async move |worker, request| {
                generate(&*worker, job, &request).await
            }),
            Down::Embed { id, request: asked } => self.answer(id, async move |worker, request| {
                embed(&*worker, asked, &request).await
            }),
            Down::Tokenize { id, ask } => self.answer(id, async move |worker, request| {
                let told = worker.tokenize(worker.name(), ask).await;
                request
                    .say(told.map_or_else(Reply::Failed, Reply::Tokenized))
                    .await
            }),
            Down::Detokenize { id, tokens } => self.answer(id, async move |worker, request| {
                let told = worker.detokenize(worker.name(), tokens).await;
                request
                    .say(told.map_or_else(Reply::Failed, Reply::Text))
                    .await
            }),
            Down::Credit { id, events } => {
                if let Some(open) = self.open.get(&id) {
                    open.credits.add_permits(events as usize);
                }
            }
            Down::Cancel { id } => {
                if let Some(open) = self.open.get(&id) {
                    open.cancel.cancel();
                }
            }
            Down::Start(_) | Down::Probe(_) => return Err(Error::Order),
        }
        Ok(())
    }

    /// Answers a request in a task of its own.
    fn answer<F, W>(&mut self, id: u64, work: W)
    where
        W: FnOnce(Arc<dyn Worker>, Arc<Request>) -> F + Send + 'static,
        F: Future<Output = Result<(), WireError>> + Send,
    {
        let (request, cancel) = self.open(id);
        let worker = Arc::clone(&self.worker);
        self.tasks.spawn(async move {
            let request = Arc::new(request);
            let answer = work(worker, Arc::clone(&request));
            let answered = cancel.run_until_cancelled(answer).await;
            request.done(answered).await
        });
    }

    fn open(&mut self, id: u64) -> (Request, CancellationToken) {
        let request = Request {
            id,
            outbox: self.outbox.clone(),
            progress: Arc::default(),
            credits: Arc::new(Semaphore::new(CREDITS as usize)),
        };
        let cancel = CancellationToken::new();
        let open = Open {
            cancel: cancel.clone(),
            credits: Arc::clone(&request.credits),
        };
        self.open.insert(id, open);
        (request, cancel)
    }

    async fn report(&mut self) -> Result<(), WireError> {
        let now = (self.worker.health(), self.metrics.read());
        if now.1 != self.told.1 {
            self.outbox.send(&Up::Metrics(now.1)).await?;
        }
        if now.0 != self.told.0 {
            self.outbox.send(&Up::Health(now.0.clone())).await?;
        }
        self.told = now;
        Ok(())
    }
}

impl Request {
    async fn say(&self, reply: Reply) -> Result<(), WireError> {
        let reply = Up::Reply {
            id: self.id,
            counted: self.progress.read(),
            reply,
        };
        self.outbox.send(&reply).await
    }

    /// `answered` is none where it was cancelled.
    async fn done(&self, answered: Option<Result<(), WireError>>) -> Result<u64, WireError> {
        if let Some(Err(error)) = answered {
            let failure = Failure::Broken(error.to_string());
            self.say(Reply::Failed(failure)).await?;
        }
        self.outbox.send(&Up::Done { id: self.id }).await?;
        Ok(self.id)
    }

    /// Waits for what the worker does, and meanwhile tells how far it has counted.
    async fn while_counting<T>(&self, work: impl Future<Output = T>) -> Result<T, WireError> {
        let mut told = self.progress.read();
        let mut look = every(COUNT);
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                _ = look.tick() => {
                    let now: Count = self.progress.read();
                    if now != told {
                        told = now;
                        self.say(Reply::Counted).await?;
                    }
                }
            }
        }
    }
}

async fn generate(worker: &dyn Worker, job: Job, request: &Request) -> Result<(), WireError> {
    let mut events = match worker.generate(job, Arc::clone(&request.progress)).await {
        Ok(events) => events,
        Err(failure) => return request.say(Reply::Failed(failure)).await,
    };
    request.say(Reply::Started).await?;
    loop {
        let next = async {
            if let Ok(credit) = request.credits.acquire().await {
                credit.forget();
            }
            events.next().await
        };
        match request.while_counting(next).await? {
            Some(Ok(event)) => request.say(Reply::Event(event)).await?,
            Some(Err(failure)) => return request.say(Reply::Failed(failure)).await,
            None => return Ok(()),
        }
    }
}

async fn embed(worker: &dyn Worker, asked: Embed, request: &Request) -> Result<(), WireError> {
    let job = EmbedJob {
        request: Arc::new(asked),
        // It runs one.
        model: worker.name().into(),
    };
    let work = worker.embed(job, Arc::clone(&request.progress));
    let reply = match request.while_counting(work).await? {
        Ok(embedded) => Reply::Embedded(embedded),
        Err(failure) => Reply::Failed(failure),
    };
    request.say(reply).await
}

fn every(period: Duration) -> Interval {
    let mut every = interval(period);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every
}
