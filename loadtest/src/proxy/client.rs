//! A client that costs little: what it sends was written beforehand, and of what comes it looks for the end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::instant::TOKENS;

/// What is asked, and of whom.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) address: String,
    pub(super) path: String,
    pub(super) key: String,
    pub(super) model: String,
    pub(super) stream: bool,
}

/// Microseconds from the request to: its first byte, the last token, the end.
pub(super) struct Times {
    pub(super) first: Histogram<u64>,
    pub(super) content: Histogram<u64>,
    pub(super) end: Histogram<u64>,
    /// Requests in a second.
    pub(super) rate: f64,
    /// Bytes of resident memory are not its business; requests that failed are.
    pub(super) failed: u64,
}

impl Ask {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let Self {
            key,
            model,
            stream,
            address,
            path,
        } = self;
        let body = format!(
            r#"{{"model":"{model}","messages":[{{"role":"user","content":"Where does the water go?"}}],"stream":{stream}}}"#
        );
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").into()
    }
}

/// Opens so many streams, and returns once each has said something. They stay open as long as what is returned.
pub(super) async fn open(ask: &Ask, streams: usize) -> Result<Vec<TcpStream>> {
    let request = ask.bytes();
    let open = async || {
        let mut stream = connect(&ask.address).await?;
        stream.write_all(&request).await?;
        let mut buffer = Vec::with_capacity(4 << 10);
        while memmem::find(&buffer, b"data: ").is_none() {
            ensure!(
                stream.read_buf(&mut buffer).await? > 0,
                "a stream broke off"
            );
            ensure!(buffer.starts_with(b"HTTP/1.1 200"), "a stream is no 200");
        }
        Ok(stream)
    };
    futures_util::future::try_join_all((0..streams).map(|_| open())).await
}

/// So many connections, each of which asks one thing after another for a while.
pub(super) async fn load(ask: &Ask, connections: usize, time: Duration) -> Result<Times> {
    let start = Instant::now();
    let until = start + time;
    let clients = (0..connections).map(|_| client(ask, until));
    let all = futures_util::future::try_join_all(clients).await?;
    let mut sum = Times::new()?;
    for times in all {
        sum.first.add(&times.first)?;
        sum.content.add(&times.content)?;
        sum.end.add(&times.end)?;
        sum.failed += times.failed;
    }
    #[expect(clippy::cast_precision_loss, reason = "a number of requests")]
    let count = sum.end.len() as f64;
    sum.rate = count / start.elapsed().as_secs_f64();
    Ok(sum)
}

impl Times {
    fn new() -> Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, 60_000_000, 3);
        Ok(Self {
            first: histogram()?,
            content: histogram()?,
            end: histogram()?,
            rate: 0.0,
            failed: 0,
        })
    }
}

async fn client(ask: &Ask, until: Instant) -> Result<Times> {
    let request = ask.bytes();
    let mut stream = connect(&ask.address).await?;
    let mut buffer = Vec::with_capacity(64 << 10);
    let mut times = Times::new()?;
    while Instant::now() < until {
        match once(&mut stream, &request, ask.stream, &mut buffer).await {
            Ok([first, content, end]) => {
                times.first.record(micros(first))?;
                times.content.record(micros(content))?;
                times.end.record(micros(end))?;
            }
            Err(_) => {
                times.failed += 1;
                stream = connect(&ask.address).await?;
            }
        }
    }
    Ok(times)
}

pub(super) async fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("{address} can't be reached"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}

/// One request: when its first byte came, its last token, and its end.
pub(super) async fn once(
    stream: &mut TcpStream,
    request: &[u8],
    streams: bool,
    buffer: &mut Vec<u8>,
) -> Result<[Duration; 3]> {
    let start = Instant::now();
    stream.write_all(request).await?;
    buffer.clear();
    let (mut first, mut content) = (None, None);
    let last = format!("\"w{} \"", TOKENS - 1);
    let mut head = None;
    loop {
        ensure!(stream.read_buf(buffer).await? > 0, "it broke off");
        first.get_or_insert_with(|| start.elapsed());
        if head.is_none() {
            head = memmem::find(buffer, b"\r\n\r\n").map(|end| end + 4);
            ensure!(
                buffer.starts_with(b"HTTP/1.1 200") || head.is_none(),
                "no 200"
            );
        }
        let Some(head) = head else { continue };
        if streams && content.is_none() && tail(buffer, 4096, last.as_bytes()) {
            content = Some(start.elapsed());
        }
        let whole = match content_length(&buffer[..head]) {
            Some(length) => buffer.len() >= head + length,
            None => buffer.ends_with(b"\r\n0\r\n\r\n"),
        };
        if whole {
            let end = start.elapsed();
            ensure!(!streams || tail(buffer, 64, b"[DONE]"), "it has no end");
            return Ok([first.unwrap_or(end), content.unwrap_or(end), end]);
        }
    }
}

/// Whether these bytes are among the last ones.
fn tail(buffer: &[u8], bytes: usize, needle: &[u8]) -> bool {
    memmem::rfind(&buffer[buffer.len().saturating_sub(bytes)..], needle).is_some()
}

/// What the head says of the body's length.
pub(super) fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?;
    let line = head.lines().find(|line| {
        line.get(..15)
            .is_some_and(|name| name.eq_ignore_ascii_case("content-length:"))
    })?;
    line[15..].trim().parse().ok()
}
