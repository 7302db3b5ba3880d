//! One chat completion, timed as its reader sees it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, header};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;

use crate::target::{LoopbackUrl, Target};

/// What one answer cost and when its pieces of text came.
#[derive(Debug)]
pub(crate) struct Answer {
    asked: Instant,
    texts: Vec<Instant>,
    pub(crate) usage: Usage,
}

impl Answer {
    /// An answer may hold no text at all: the model may end at once.
    pub(crate) fn first_text(&self) -> Result<Duration> {
        let first = self.texts.first().context("an answer without text")?;
        Ok(*first - self.asked)
    }

    pub(crate) fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.texts.windows(2).map(|pair| pair[1] - pair[0])
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Usage {
    pub(crate) prompt_tokens: u64,
    pub(crate) completion_tokens: u64,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct PromptDetails {
    cached_tokens: Option<u64>,
}

impl Usage {
    pub(crate) fn cached_tokens(&self) -> u64 {
        self.prompt_tokens_details
            .as_ref()
            .and_then(|d| d.cached_tokens)
            .unwrap_or(0)
    }
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
}

#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
}

#[derive(Clone)]
pub(crate) struct Client {
    http: HttpClient<HttpConnector, Full<Bytes>>,
}

impl Client {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            // No connection is used twice: a server that closes an idle one in the moment in which it is
            // taken up again would fail a request that it never saw.
            http: HttpClient::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
        }
    }

    /// The status of a GET, for readiness.
    pub(crate) async fn status(&self, url: &LoopbackUrl, path: &str) -> Result<StatusCode> {
        let request = Request::get(url.join(path)).body(Full::default())?;
        Ok(self.http.request(request).await?.status())
    }

    /// The body of a GET.
    pub(crate) async fn text(&self, url: &LoopbackUrl, path: &str) -> Result<String> {
        let request = Request::get(url.join(path)).body(Full::default())?;
        let response = self.http.request(request).await?;
        ensure!(
            response.status() == StatusCode::OK,
            "{path}: {}",
            response.status()
        );
        let text = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// A streamed answer, read to its end.
    pub(crate) async fn chat(&self, target: &Target, body: Bytes) -> Result<Answer> {
        let mut reading = self.open(target, body).await?;
        while reading.more().await? {}
        reading.finish()
    }

    /// A streamed answer that the caller reads as far as it likes.
    pub(crate) async fn open(&self, target: &Target, body: Bytes) -> Result<Reading> {
        let asked = Instant::now();
        let body = self.post(target, body).await?.into_body();
        let stream = Stream::default();
        Ok(Reading {
            asked,
            body,
            stream,
        })
    }

    /// What an answer cost that comes in one piece.
    pub(crate) async fn whole(&self, target: &Target, body: Bytes) -> Result<Usage> {
        #[derive(Deserialize)]
        struct Completion {
            usage: Usage,
        }
        let response = self.post(target, body).await?;
        let text = response.into_body().collect().await?.to_bytes();
        let completion: Completion =
            serde_json::from_slice(&text).context("an answer that is no completion")?;
        Ok(completion.usage)
    }

    async fn post(&self, target: &Target, body: Bytes) -> Result<Response<Incoming>> {
        let mut request = Request::post(target.url.join("/v1/chat/completions"))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &target.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let response = self.http.request(request.body(Full::new(body))?).await?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let text = response.into_body().collect().await?.to_bytes();
            bail!(
                "{status}: {}",
                String::from_utf8_lossy(&text[..text.len().min(200)])
            );
        }
        Ok(response)
    }
}

/// A streamed answer that is being read. Its drop closes the connection, which is how a client cancels.
pub(crate) struct Reading {
    asked: Instant,
    body: Incoming,
    stream: Stream,
}

impl Reading {
    /// Reads what comes next; false where nothing more does.
    pub(crate) async fn more(&mut self) -> Result<bool> {
        let Some(frame) = self.body.frame().await else {
            return Ok(false);
        };
        if let Ok(data) = frame?.into_data() {
            self.stream.push(&data, Instant::now())?;
        }
        Ok(true)
    }

    /// When the pieces of text came, as far as it is read.
    pub(crate) fn texts(&self) -> &[Instant] {
        &self.stream.texts
    }

    /// An error is a stream that broke off: one without usage or end mark.
    pub(crate) fn finish(self) -> Result<Answer> {
        self.stream.finish(self.asked)
    }
}

/// The server-sent events of one answer, put together from whatever pieces the network gives.
#[derive(Default)]
struct Stream {
    rest: Vec<u8>,
    texts: Vec<Instant>,
    usage: Option<Usage>,
    done: bool,
}

impl Stream {
    fn push(&mut self, data: &[u8], now: Instant) -> Result<()> {
        self.rest.extend_from_slice(data);
        let mut start = 0;
        while let Some(length) = self.rest[start..].iter().position(|byte| *byte == b'\n') {
            let line = self.rest[start..start + length].to_vec();
            start += length + 1;
            if let Some(event) = line.strip_prefix(b"data:") {
                self.event(event.trim_ascii(), now)?;
            }
        }
        self.rest.drain(..start);
        Ok(())
    }

    fn event(&mut self, event: &[u8], now: Instant) -> Result<()> {
        if event == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(event).context("an event that is no chunk")?;
        if let Some(error) = chunk.error {
            bail!("the stream failed: {error}");
        }
        if chunk.usage.is_some() {
            self.usage = chunk.usage;
        }
        // A first chunk with only the role is no text yet: servers send it at different times.
        let text = chunk
            .choices
            .iter()
            .any(|c| c.delta.content.as_ref().is_some_and(|t| !t.is_empty()));
        if text {
            self.texts.push(now);
        }
        Ok(())
    }

    fn finish(self, asked: Instant) -> Result<Answer> {
        ensure!(self.done, "an answer without its end mark");
        Ok(Answer {
            asked,
            texts: self.texts,
            usage: self.usage.context("an answer without usage")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Stream;

    const EVENTS: &str = concat!(
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n",
        ": a comment\n\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\r\n\r\n",
        "data: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn a_stream_cut_anywhere_reads_the_same() {
        let (asked, wait) = (Instant::now(), Duration::from_millis(3));
        for cut in 0..EVENTS.len() {
            let (head, tail) = EVENTS.as_bytes().split_at(cut);
            let mut stream = Stream::default();
            stream.push(head, asked + wait).unwrap();
            stream.push(tail, asked + wait).unwrap();
            let answer = stream.finish(asked).unwrap();
            assert_eq!(answer.usage.completion_tokens, 2);
            assert_eq!(answer.first_text().unwrap(), wait);
            assert_eq!(answer.gaps().count(), 1);
        }
    }

    #[test]
    fn a_stream_without_its_end_is_an_error() {
        let mut stream = Stream::default();
        stream
            .push(
                EVENTS.trim_end_matches("data: [DONE]\n\n").as_bytes(),
                Instant::now(),
            )
            .unwrap();
        assert!(stream.finish(Instant::now()).is_err());
        let failed =
            Stream::default().push(b"data: {\"error\":{\"message\":\"no\"}}\n", Instant::now());
        assert!(failed.is_err());
    }
}
