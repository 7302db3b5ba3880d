//! One streamed chat completion, timed as its reader sees it.

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

/// What one answer cost and how it came. The gaps lie between pieces of text.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) first_text: Duration,
    pub(crate) gaps: Vec<Duration>,
    pub(crate) usage: Usage,
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

    /// An error is a refused request, a broken or failed stream, or an answer without text, usage
    /// or end mark.
    pub(crate) async fn chat(&self, target: &Target, body: Bytes) -> Result<Answer> {
        let mut request = Request::post(target.url.join("/v1/chat/completions"))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &target.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let start = Instant::now();
        let response = self.http.request(request.body(Full::new(body))?).await?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            let text = response.into_body().collect().await?.to_bytes();
            bail!(
                "{status}: {}",
                String::from_utf8_lossy(&text[..text.len().min(200)])
            );
        }
        read(response, start).await
    }
}

async fn read(response: Response<Incoming>, start: Instant) -> Result<Answer> {
    let mut body = response.into_body();
    let mut stream = Stream::default();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            stream.push(&data, start.elapsed())?;
        }
    }
    stream.finish()
}

/// The server-sent events of one answer, put together from whatever pieces the network gives.
#[derive(Default)]
struct Stream {
    rest: Vec<u8>,
    answer: Answer,
    last_text: Option<Duration>,
    has_usage: bool,
    done: bool,
}

impl Stream {
    fn push(&mut self, data: &[u8], now: Duration) -> Result<()> {
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

    fn event(&mut self, event: &[u8], now: Duration) -> Result<()> {
        if event == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_slice(event).context("an event that is no chunk")?;
        if let Some(error) = chunk.error {
            bail!("the stream failed: {error}");
        }
        if let Some(usage) = chunk.usage {
            self.answer.usage = usage;
            self.has_usage = true;
        }
        // A first chunk with only the role is no text yet: servers send it at different times.
        let text = chunk
            .choices
            .iter()
            .any(|c| c.delta.content.as_ref().is_some_and(|t| !t.is_empty()));
        if text {
            match self.last_text {
                Some(last) => self.answer.gaps.push(now - last),
                None => self.answer.first_text = now,
            }
            self.last_text = Some(now);
        }
        Ok(())
    }

    fn finish(self) -> Result<Answer> {
        ensure!(self.last_text.is_some(), "an answer without text");
        ensure!(self.has_usage, "an answer without usage");
        ensure!(self.done, "an answer without its end mark");
        Ok(self.answer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        for cut in 0..EVENTS.len() {
            let (head, tail) = EVENTS.as_bytes().split_at(cut);
            let mut stream = Stream::default();
            stream.push(head, Duration::from_millis(3)).unwrap();
            stream.push(tail, Duration::from_millis(3)).unwrap();
            let answer = stream.finish().unwrap();
            assert_eq!(answer.usage.completion_tokens, 2);
            assert_eq!(answer.first_text, Duration::from_millis(3));
            assert_eq!(answer.gaps.len(), 1);
        }
    }

    #[test]
    fn a_stream_without_its_end_is_an_error() {
        let mut stream = Stream::default();
        stream
            .push(
                EVENTS.trim_end_matches("data: [DONE]\n\n").as_bytes(),
                Duration::ZERO,
            )
            .unwrap();
        assert!(stream.finish().is_err());
        let failed =
            Stream::default().push(b"data: {\"error\":{\"message\":\"no\"}}\n", Duration::ZERO);
        assert!(failed.is_err());
    }
}
