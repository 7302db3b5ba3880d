//! A scripted server of OpenAI's API: what a model would do, as fast as one likes, and with the faults that a real one
//! can't be made to show on demand.

mod answer;
mod script;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use answer::{Body, plain, whole_or_stream};
pub use script::{Fault, Pace, Script, UsageKind};

/// A running upstream. Dropped, it closes.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

pub(crate) struct Shared {
    script: Mutex<Script>,
    seen: Mutex<Vec<Seen>>,
    keeps: bool,
    running: AtomicUsize,
    most: AtomicUsize,
    started: AtomicUsize,
    ended: AtomicUsize,
    /// Of [`Pace::Batching`], made anew with each script.
    slots: Mutex<Arc<Semaphore>>,
    prefill: tokio::sync::Mutex<()>,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its path.
    pub path: String,
    /// Its headers; several of one name are one after another.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Value,
}

impl Upstream {
    /// Listens on a free port of the loopback interface, or on this one.
    ///
    /// # Errors
    /// The port can't be had.
    pub async fn start(script: Script, port: u16) -> std::io::Result<Self> {
        Self::start_at(script, ([127, 0, 0, 1], port).into(), true).await
    }

    /// As [`Upstream::start`], at any address of the loopback interface. It `keeps` what it has seen, or doesn't: under a
    /// heavy load that would be much.
    ///
    /// # Errors
    /// As [`Upstream::start`].
    pub async fn start_at(script: Script, at: SocketAddr, keeps: bool) -> std::io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            slots: Mutex::new(slots(&script)),
            script: Mutex::new(script),
            seen: Mutex::default(),
            keeps,
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            prefill: tokio::sync::Mutex::default(),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self {
            address,
            shared,
            serving,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers by another script from now on; what runs goes on by the one before.
    pub fn play(&self, script: Script) {
        *lock(&self.shared.slots) = slots(&script);
        *lock(&self.shared.script) = script;
    }

    /// Changes the script.
    pub fn change(&self, change: impl FnOnce(&mut Script)) {
        change(&mut lock(&self.shared.script));
    }

    /// Requests that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.running.load(Ordering::Acquire)
    }

    /// The most that ran at once.
    #[must_use]
    pub fn most_running(&self) -> usize {
        self.shared.most.load(Ordering::Acquire)
    }

    /// Requests that came.
    #[must_use]
    pub fn started(&self) -> usize {
        self.shared.started.load(Ordering::Acquire)
    }

    /// Requests whose answer went out to its end.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// The requests that came, oldest first.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.shared.seen).clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn script(&self) -> Script {
        lock(&self.script).clone()
    }

    /// A request begins, and ends when what this gives is dropped.
    fn begin(self: &Arc<Self>) -> Running {
        self.started.fetch_add(1, Ordering::AcqRel);
        let running = self.running.fetch_add(1, Ordering::AcqRel) + 1;
        self.most.fetch_max(running, Ordering::AcqRel);
        Running(Arc::clone(self))
    }
}

/// A request that runs.
pub(crate) struct Running(Arc<Shared>);

impl Running {
    pub(crate) fn ended(&self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn slots(&self) -> Arc<Semaphore> {
        Arc::clone(&lock(&self.0.slots))
    }

    pub(crate) async fn prefill(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.prefill.lock().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slots(script: &Script) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(match script.pace {
        Pace::Batching { slots, .. } => slots,
        Pace::Instant | Pace::Steady { .. } => Semaphore::MAX_PERMITS,
    }))
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with the listener's task, and with them what they do.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let _best_effort = stream.set_nodelay(true);
            let service = service_fn(|request| respond(request, Arc::clone(&shared)));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // A client that goes, and a fault that is told to break the connection.
            let _broken = connection.await;
        });
    }
}

/// Breaks the connection.
#[derive(Debug, thiserror::Error)]
#[error("told to break off")]
pub(crate) struct Break;

async fn respond(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, Break> {
    let path = request.uri().path().to_owned();
    if request.method() == Method::GET {
        let script = lock(&shared.script);
        return Ok(match path.as_str() {
            "/health" | "/ready" if script.healthy => plain(StatusCode::OK, "{}"),
            "/health" | "/ready" => plain(StatusCode::SERVICE_UNAVAILABLE, "{}"),
            "/v1/models" => plain(StatusCode::OK, "{\"object\":\"list\",\"data\":[]}"),
            "/metrics" => {
                let waiting = script.waiting;
                plain(
                    StatusCode::OK,
                    &format!("vllm:num_requests_waiting{{engine=\"0\"}} {waiting}\n"),
                )
            }
            _ => plain(StatusCode::NOT_FOUND, "{}"),
        });
    }
    let running = shared.begin();
    let headers = request.headers().iter();
    let headers = headers
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    let Ok(body) = request.into_body().collect().await else {
        return Err(Break);
    };
    let Ok(body) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
        return Ok(plain(StatusCode::BAD_REQUEST, &error("not JSON")));
    };
    if shared.keeps {
        let seen = Seen {
            path: path.clone(),
            headers,
            body: body.clone(),
        };
        lock(&shared.seen).push(seen);
    }
    let script = shared.script();
    match script.fault {
        Fault::Refuse(status) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Ok(plain(status, &error("told to refuse")));
        }
        Fault::Reset => return Err(Break),
        Fault::Hang(0) => {
            std::future::pending::<()>().await;
        }
        _ => {}
    }
    if script
        .most
        .is_some_and(|most| shared.running.load(Ordering::Acquire) > most)
    {
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, &error("full")));
    }
    whole_or_stream(&path, body, script, running).await
}

fn error(message: &str) -> String {
    json!({"error": {"message": message, "type": "scripted", "param": null, "code": null}})
        .to_string()
}

/// Never an error.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed()
}
