//! The accept loop: connections with time limits, and a drain that ends.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// After an accept that failed for want of file handles, another would fail too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const PING: Duration = Duration::from_secs(20);

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
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout);
    // A peer that is gone without a word doesn't answer a ping.
    server
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PING));
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
            // Which HTTP it speaks is told by its first bytes, for which nobody else sets a time.
            let speaks = tokio::time::timeout(patience, stream.readable()).await;
            let Some(tls) = tls else {
                if matches!(speaks, Ok(Ok(()))) {
                    connection.serve(stream).await;
                }
                return;
            };
            match tokio::time::timeout(patience, tls.accept(stream)).await {
                Ok(Ok(stream)) => connection.of(stream).await,
                Ok(Err(error)) => tracing::debug!(%error, "a client speaks no TLS"),
                Err(_) => tracing::debug!("a client took too long to begin TLS"),
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

/// A connection to be served.
struct Connection {
    server: auto::Builder<TokioExecutor>,
    routes: axum::Router,
    watcher: Watcher,
}

impl Connection {
    /// Over TLS it is agreed on beforehand.
    async fn of(mut self, stream: TlsStream<TcpStream>) {
        let agreed = stream.get_ref().1.alpn_protocol();
        self.server = match agreed {
            Some(b"h2") => self.server.http2_only(),
            _ => self.server.http1_only(),
        };
        self.serve(stream).await;
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = TowerToHyperService::new(self.routes);
        let connection = self
            .server
            .serve_connection(TokioIo::new(stream), service)
            .into_owned();
        if let Err(error) = self.watcher.watch(connection).await {
            tracing::debug!(%error, "a connection broke");
        }
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
