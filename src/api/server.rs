//! The accept loop: connections with time limits, and a drain that ends.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// After an accept that failed for want of file handles, another would fail too.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const PING: Duration = Duration::from_secs(20);

/// HTTP/2 begins with it (RFC 9113, 3.4), and no request of HTTP/1.1 does.
const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

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
        let accepted = Box::pin(async {
            let mut stream = tls.accept(stream).await?;
            // Hyper waits for ever for the first bytes of HTTP/2.
            stream.fill_buf().await?;
            Ok::<_, io::Error>(stream)
        });
        match tokio::time::timeout(patience, accepted).await {
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
        let comes_more = !stream.ready(Interest::READABLE).await?.is_read_closed();
        // Tokio's own `peek` would be done at once where a part of the preface is there.
        let look = || {
            let (_, count) = recv(stream, &mut first, RecvFlags::PEEK)?;
            match PREFACE.strip_prefix(&first[..count]) {
                Some([]) => Ok(true),
                Some(_) if count > 0 && comes_more => Err(ErrorKind::WouldBlock.into()),
                _ => Ok(false),
            }
        };
        match stream.try_io(Interest::READABLE, look) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            told => return told,
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[tokio::test]
    async fn what_a_client_speaks_is_told_by_its_first_bytes_however_they_come() {
        for cut in 1..PREFACE.len() {
            let (mut client, server) = pair().await;
            client.write_all(&PREFACE[..cut]).await.unwrap();
            let mut told = Box::pin(speaks_http2(&server));
            let early = tokio::time::timeout(SOON / 10, &mut told).await;
            assert!(early.is_err(), "told by {cut} bytes");
            client.write_all(&PREFACE[cut..]).await.unwrap();
            assert!(told.await.unwrap());
            // Nothing of it is taken away.
            let mut first = [0; PREFACE.len()];
            assert_eq!(server.peek(&mut first).await.unwrap(), PREFACE.len());
        }
        let (mut client, server) = pair().await;
        client.write_all(b"PR").await.unwrap();
        let mut told = Box::pin(speaks_http2(&server));
        assert!(tokio::time::timeout(SOON, &mut told).await.is_err());
        client.write_all(b"OPFIND / HTTP/1.1\r\n").await.unwrap();
        assert!(!told.await.unwrap());
    }

    #[tokio::test]
    async fn who_leaves_before_the_end_of_a_preface_speaks_none() {
        for begun in [&b""[..], b"P", &PREFACE[..23]] {
            let (mut client, server) = pair().await;
            client.write_all(begun).await.unwrap();
            let told = async {
                tokio::time::sleep(SOON).await;
                client.shutdown().await.unwrap();
                speaks_http2(&server).await.unwrap()
            };
            assert!(!told.await);
            let (mut client, server) = pair().await;
            client.write_all(begun).await.unwrap();
            let leave = async {
                tokio::time::sleep(SOON).await;
                client.shutdown().await.unwrap();
            };
            let (told, ()) = tokio::join!(speaks_http2(&server), leave);
            assert!(!told.unwrap());
        }
    }
}
