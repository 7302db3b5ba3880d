//! The accept loop: connections with time limits, and a drain that ends.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// After an accept that failed for want of file handles, another would fail too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const PING: Duration = Duration::from_secs(20);

/// HTTP/2 begins with it (RFC 9113, 3.4), and no request of HTTP/1.1 does.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How soon a part of a preface is looked at again: there is no other word of the rest's having come.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; more wait to be accepted.
    pub max_connections: usize,
    /// Time to send a request's head.
    pub header_read_timeout: Duration,
    /// Time for running answers once the server is told to stop.
    pub drain: Duration,
}

/// Where clients come in.
pub struct Door {
    /// Where they knock.
    pub listener: TcpListener,
    /// How they are told who answers, where that is.
    pub tls: Option<TlsAcceptor>,
}

/// Serves until `stop` is done, then lets running answers end. What still runs after the drain is cut off, and
/// booked as a client's hang-up is.
pub async fn serve(
    door: Door,
    routes: axum::Router,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let server = Server::new(limits);
    let room = Arc::new(Semaphore::new(limits.max_connections));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, place) = tokio::select! {
            accepted = accept(&door.listener, &room) => accepted,
            // Tasks that ended are taken out, so that the set holds open connections alone.
            Some(_) = connections.join_next() => continue,
            () = &mut stop => break,
        };
        let connection = Connection {
            server: server.clone(),
            routes: routes.clone(),
            watcher: graceful.watcher(),
        };
        let (tls, patience) = (door.tls.clone(), limits.header_read_timeout);
        connections.spawn(async move {
            let _place = place;
            if let Some(served) = connection.begin(stream, tls, patience).await
                && let Err(error) = served.await
            {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
    drop(door);
    if tokio::time::timeout(limits.drain, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!(open = connections.len(), "the drain's time is over");
    }
    connections.shutdown().await;
}

/// How connections are served.
#[derive(Clone)]
struct Server {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Server {
    fn new(limits: Limits) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_read_timeout);
        // A peer that is gone without a word doesn't answer a ping.
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(Some(PING));
        Self { http1, http2 }
    }
}

/// A connection to be served.
struct Connection {
    server: Server,
    routes: axum::Router,
    watcher: Watcher,
}

/// A connection that is served, until it ends.
type Served = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

impl Connection {
    /// Finds out what the client speaks, for which it has so much time.
    async fn begin(
        self,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        patience: Duration,
    ) -> Option<Served> {
        let Some(tls) = tls else {
            // Which HTTP it speaks is told by its first bytes, for which nobody else sets a time.
            let told = tokio::time::timeout(patience, speaks_http2(&stream)).await;
            let is_http2 = told.ok()?.ok()?;
            return Some(self.served(stream, is_http2));
        };
        match tokio::time::timeout(patience, Box::pin(tls.accept(stream))).await {
            Ok(Ok(stream)) => {
                // It is agreed on beforehand.
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                return Some(self.served(stream, is_http2));
            }
            Ok(Err(error)) => tracing::debug!(%error, "a client speaks no TLS"),
            Err(_) => tracing::debug!("a client took too long to begin TLS"),
        }
        None
    }

    /// On the heap, where it is as large as what the client speaks needs: it stays there as long as the connection.
    fn served(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        is_http2: bool,
    ) -> Served {
        let (stream, service) = (TokioIo::new(stream), TowerToHyperService::new(self.routes));
        let Server { http1, http2 } = self.server;
        if is_http2 {
            Box::pin(self.watcher.watch(http2.serve_connection(stream, service)))
        } else {
            Box::pin(self.watcher.watch(http1.serve_connection(stream, service)))
        }
    }
}

/// Whether a client begins as HTTP/2 does. What it sent is left to be read: hyper, which would find out by itself, keeps
/// the bytes that it took for it, and a buffer of twice the size for what comes behind them.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut first).await?;
        if count == 0 || first[..count] != PREFACE[..count] {
            return Ok(false);
        }
        if count == PREFACE.len() {
            return Ok(true);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A connection and its place, once there is room for it.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // It is never closed, so there is always a permit to come.
    let place = Arc::clone(room).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Tokens are small and each is awaited: none shall wait for a fuller packet.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection refused TCP_NODELAY");
                }
                return (stream, place);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
