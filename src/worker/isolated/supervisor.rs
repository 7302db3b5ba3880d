use std::io;
use std::process::Stdio;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::link::Link;
use super::process::{describe, reap, spawn};
use super::wire::{self, Source, Up};
use crate::worker::Health;

/// A process that died is started anew after this, and after twice as long each time that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A process that was ready for so long has proved itself: the next pause is the first again.
const PROVED: Duration = Duration::from_secs(60);

/// Keeps a process running. One thread does so from start to end, since Linux takes the end of the thread that
/// started a process for the death of its parent.
pub(super) struct Supervisor {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Supervisor {
    /// `start` is the first message to each process.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn start(
        name: String,
        start: Bytes,
        link: Arc<Link>,
        restarted: impl Fn() + Send + 'static,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name(format!("isolated-{name}"))
            .spawn(move || {
                let _last = Last(&link);
                runtime.block_on(keep_running(&name, &start, &link, &restarted, &stopped));
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Supervisor {
    /// Waits until the process is gone.
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // What it had to say it has logged.
            let _ended = thread.join();
        }
    }
}

/// However the thread ends, by a panic too: a worker without a process must not look ready.
struct Last<'a>(&'a Link);

impl Drop for Last<'_> {
    fn drop(&mut self) {
        self.0.down("it was stopped".into());
    }
}

async fn keep_running(
    name: &str,
    start: &Bytes,
    link: &Link,
    restarted: &impl Fn(),
    stop: &CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut ready = None;
        let ended = run(start, link, &mut ready, stop).await;
        if stop.is_cancelled() {
            return;
        }
        if ready.is_some_and(|since: Instant| since.elapsed() >= PROVED) {
            pause = FIRST_PAUSE;
        }
        let reason = format!("its engine's process {ended}; a new one is started");
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::error!(
            worker = name,
            reason,
            pause_ms,
            "a worker's process is gone"
        );
        link.down(reason);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => return,
        }
        pause = LONGEST_PAUSE.min(2 * pause);
        restarted();
    }
}

/// Runs one process to its end, and says how it ended. `ready` is since when it could be asked.
async fn run(
    start: &Bytes,
    link: &Link,
    ready: &mut Option<Instant>,
    stop: &CancellationToken,
) -> String {
    let (mut child, socket) = match spawn(Stdio::inherit()) {
        Ok(spawned) => spawned,
        Err(error) => return format!("can't be started: {error}"),
    };
    let (source, half) = wire::split(socket);
    let frames = link.up(start.clone());
    let writing = async {
        // A socket that can't be written to has an end to be read as well, and that is where it shows.
        let _broken = wire::write(frames, half).await;
        std::future::pending::<()>().await;
    };
    let fault = tokio::select! {
        read = read(source, link, ready) => read.err(),
        () = writing => None,
        () = stop.cancelled() => None,
    };
    // Both halves of the socket are closed by now, which is what tells the process to leave. Its requests are
    // told before it has left.
    link.down("its engine's process is gone".into());
    if let Some(fault) = fault {
        let _gone = child.start_kill();
        let _reaped = reap(&mut child).await;
        return format!("was killed: {fault}");
    }
    describe(reap(&mut child).await)
}

/// Takes what the process says, until it closes its end.
///
/// # Errors
/// It says what it may not, or its engine broke.
async fn read(mut source: Source, link: &Link, ready: &mut Option<Instant>) -> Result<(), String> {
    while let Some(message) = source.next().await.map_err(|error| error.to_string())? {
        match message {
            Up::Health(Health::Failed(reason)) if ready.is_some() => return Err(reason),
            Up::Health(health) => {
                if health == Health::Ready {
                    ready.get_or_insert_with(Instant::now);
                }
                link.set_health(health);
            }
            Up::Metrics(reading) => link.set_metrics(reading),
            Up::Reply { id, counted, reply } => link.reply(id, counted, reply)?,
            Up::Done { id } => link.done(id),
        }
    }
    Ok(())
}
