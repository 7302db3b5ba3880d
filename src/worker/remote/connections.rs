//! Connections of plain HTTP/1.1 to one worker, each driven by whoever waits for an answer on it. With a task for each,
//! as hyper's pool has it, every answer would wait for another task to be woken, and every piece of a stream.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{Connection, SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::client::Error;

/// An idle connection is kept that long: some servers close theirs after five seconds.
pub(super) const KEEP_IDLE: Duration = Duration::from_secs(4);

/// Connections that nobody waits on, the one that was used last at the back.
#[derive(Clone, Default)]
pub(super) struct Idle(Arc<Mutex<VecDeque<(Instant, Line)>>>);

/// A connection with what puts requests into it.
struct Line {
    requests: SendRequest<Full<Bytes>>,
    /// None once it is at its end: what was not sent is given back by its being dropped.
    connection: Option<Connection<TokioIo<TcpStream>, Full<Bytes>>>,
}

/// An answer's body.
pub(super) struct Body {
    /// Until it is at its end.
    incoming: Option<Incoming>,
    /// What brings it; none where that has a task of its own.
    line: Option<(Line, Idle)>,
}

impl Idle {
    /// Sends a request over an idle connection, or over one that is dialled for it.
    ///
    /// # Errors
    /// What the dialling says, or the connection broke off.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        dial: impl Future<Output = Result<TcpStream, Error>>,
    ) -> Result<Response<Body>, Error> {
        while let Some(line) = poll_fn(|context| Poll::Ready(self.take(context))).await {
            request = match line.send(request, self).await {
                Ok(response) => return Ok(response),
                // Its worker closed it in this moment.
                Err(Some(unsent)) => unsent,
                Err(None) => return Err(Error::Broken),
            };
        }
        let line = Line::open(dial.await?).await?;
        line.send(request, self).await.map_err(|_| Error::Broken)
    }

    fn take(&self, context: &mut Context<'_>) -> Option<Line> {
        loop {
            let (since, mut line) = self.lock().pop_back()?;
            if since.elapsed() < KEEP_IDLE && line.drive(context).is_pending() && line.is_ready() {
                return Some(line);
            }
        }
    }

    fn put(&self, line: Line) {
        let now = Instant::now();
        let mut kept = self.lock();
        let is_old = |(since, _): &(Instant, Line)| now.duration_since(*since) >= KEEP_IDLE;
        while kept.front().is_some_and(is_old) {
            kept.pop_front();
        }
        kept.push_back((now, line));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Instant, Line)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    async fn open(stream: TcpStream) -> Result<Self, Error> {
        let (requests, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Error::Connect)?;
        Ok(Self {
            requests,
            connection: Some(connection),
        })
    }

    /// Reads and writes what there is to be; ready once the connection is at its end.
    fn drive(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(connection) = &mut self.connection {
            ready!(Pin::new(connection).poll(context).map(drop));
            self.connection = None;
        }
        Poll::Ready(())
    }

    /// Whether the last answer was read to its end, and another request may follow.
    fn is_ready(&self) -> bool {
        self.connection.is_some() && self.requests.is_ready()
    }

    /// Gives the answer once its head is there. An error has the request where nothing of it was sent.
    async fn send(
        mut self,
        request: Request<Full<Bytes>>,
        idle: &Idle,
    ) -> Result<Response<Body>, Option<Request<Full<Bytes>>>> {
        let mut response = pin!(self.requests.try_send_request(request));
        let answered = poll_fn(|context| {
            let _ = self.drive(context);
            match response.as_mut().poll(context) {
                Poll::Ready(Ok(response)) => Poll::Ready(Ok(response)),
                Poll::Ready(Err(mut error)) => Poll::Ready(Err(error.take_message())),
                Poll::Pending => Poll::Pending,
            }
        });
        let response = answered.await?;
        Ok(response.map(|incoming| Body {
            incoming: Some(incoming),
            line: Some((self, idle.clone())),
        }))
    }
}

impl Body {
    /// Takes no more of it. Its connection serves on if all of the answer is there.
    fn end(&mut self) {
        self.incoming = None;
        if let Some((mut line, idle)) = self.line.take()
            && line
                .drive(&mut Context::from_waker(Waker::noop()))
                .is_pending()
            && line.is_ready()
        {
            idle.put(line);
        }
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self {
            incoming: Some(incoming),
            line: None,
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some((line, _)) = &mut self.line {
            let _ = line.drive(context);
        }
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(incoming).poll_frame(context);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.end();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.incoming.as_ref().map(Incoming::size_hint);
        hint.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http_body_util::BodyExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// What the server does with a request.
    enum Act {
        /// Says this, and waits for the next request.
        Say(&'static str),
        /// Says this, and closes soon after.
        SayAndClose(&'static str, Duration),
    }

    /// A server that does these in turn. It tells of each request over which connection it came.
    async fn server(acts: Vec<Act>) -> (SocketAddr, mpsc::Receiver<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, told) = mpsc::channel(8);
        tokio::spawn(async move {
            let mut acts = acts.into_iter();
            for number in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut bytes = [0; 4096];
                while let Ok(1..) = stream.read(&mut bytes).await {
                    tell.send(number).await.unwrap();
                    match acts.next().unwrap() {
                        Act::Say(what) => stream.write_all(what.as_bytes()).await.unwrap(),
                        Act::SayAndClose(what, wait) => {
                            stream.write_all(what.as_bytes()).await.unwrap();
                            tokio::time::sleep(wait).await;
                            break;
                        }
                    }
                }
            }
        });
        (address, told)
    }

    async fn ask(idle: &Idle, address: SocketAddr) -> Result<Response<Body>, Error> {
        let request = Request::get("/").header("host", "a");
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let dial = async {
            TcpStream::connect(address)
                .await
                .map_err(|_| Error::Connect)
        };
        idle.send(request, dial).await
    }

    async fn text(response: Response<Body>) -> String {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    const ONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\none";
    const TWO: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n";

    #[tokio::test]
    async fn a_connection_serves_again_once_its_answer_is_read() {
        let (address, mut told) = server(vec![Act::Say(ONE), Act::Say(TWO), Act::Say(ONE)]).await;
        let idle = Idle::default();
        for expected in ["one", "two", "one"] {
            assert_eq!(text(ask(&idle, address).await.unwrap()).await, expected);
            assert_eq!(told.recv().await, Some(0));
        }
        assert_eq!(idle.lock().len(), 1);
    }

    #[tokio::test]
    async fn one_that_its_worker_closed_is_replaced_and_nobody_notices() {
        let acts = vec![Act::SayAndClose(ONE, Duration::ZERO), Act::Say(TWO)];
        let (address, mut told) = server(acts).await;
        let idle = Idle::default();
        assert_eq!(text(ask(&idle, address).await.unwrap()).await, "one");
        // The end of the connection is on its way.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(text(ask(&idle, address).await.unwrap()).await, "two");
        assert_eq!(told.recv().await, Some(0));
        assert_eq!(told.recv().await, Some(1));
    }

    #[tokio::test]
    async fn what_could_not_be_sent_is_given_back() {
        let soon = Duration::from_millis(100);
        let (address, _told) = server(vec![Act::SayAndClose(ONE, soon)]).await;
        let idle = Idle::default();
        assert_eq!(text(ask(&idle, address).await.unwrap()).await, "one");
        // It was found to be well, and its worker closes it only then.
        let line = poll_fn(|context| Poll::Ready(idle.take(context))).await;
        tokio::time::sleep(4 * soon).await;
        let request = Request::get("/").header("host", "a");
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let sent = line.unwrap().send(request, &idle).await;
        assert!(matches!(sent, Err(Some(_))));
    }

    #[tokio::test]
    async fn what_is_left_of_an_answer_is_never_anothers() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none";
        let (address, mut told) = server(vec![Act::Say(cut), Act::Say(TWO)]).await;
        let idle = Idle::default();
        let mut begun = ask(&idle, address).await.unwrap().into_body();
        let piece = begun.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece, "one");
        drop(begun);
        assert_eq!(idle.lock().len(), 0);
        assert_eq!(text(ask(&idle, address).await.unwrap()).await, "two");
        assert_eq!(told.recv().await, Some(0));
        assert_eq!(told.recv().await, Some(1));
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_an_error_at_whatever_place_it_does() {
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none";
        let (address, _told) = server(vec![
            Act::SayAndClose(cut, Duration::ZERO),
            Act::SayAndClose("HTTP/1.1 2", Duration::ZERO),
        ])
        .await;
        let idle = Idle::default();
        let body = ask(&idle, address).await.unwrap().into_body();
        assert!(body.collect().await.is_err());
        assert!(matches!(ask(&idle, address).await, Err(Error::Broken)));
        assert_eq!(idle.lock().len(), 0);
    }

    #[tokio::test]
    async fn one_that_was_idle_for_long_is_let_go() {
        let (address, _told) = server(vec![Act::Say(ONE)]).await;
        let idle = Idle::default();
        assert_eq!(text(ask(&idle, address).await.unwrap()).await, "one");
        let long_ago = Instant::now().checked_sub(KEEP_IDLE).unwrap();
        idle.lock()[0].0 = long_ago;
        assert!(
            poll_fn(|context| Poll::Ready(idle.take(context)))
                .await
                .is_none()
        );
        assert_eq!(idle.lock().len(), 0);
    }
}
