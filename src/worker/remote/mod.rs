//! Any server of OpenAI's API as a worker. What the client said is passed on as it is, and so is the answer: of both
//! only what the gateway has to know is read, and only what is its own to say is changed.

mod answer;
mod body;
mod chunk;
mod client;
mod connections;
mod dialect;
mod discover;
mod embed;
mod frames;
mod gather;
mod probe;
mod refusal;
mod tokens;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::Uri;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use discover::{Change, Discovery};

use super::{Health, Worker};
use crate::types::{
    Count, Dialect, EmbedJob, Embedded, Events, Failure, Job, Progress, Relay, Tokenize, Tokenized,
};
use answer::{Bounds, Reading, read_whole};
use chunk::Names;
use client::{Client, Error};
use connections::Body;
use dialect::{Traits, traits};
use gather::gathered;
use probe::Status;

/// What a worker whose capacity nobody said is given at first, and at most.
const FIRST_CAPACITY: u32 = 8;
const MOST_CAPACITY: u32 = 4096;
/// English has about so many.
const BYTES_PER_TOKEN: u64 = 4;

/// Where a worker is, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name.
    pub name: String,
    /// Its URL, without `/v1`.
    pub url: Uri,
    /// The address that is called, where the URL's host has several.
    pub address: Option<IpAddr>,
    /// What it is.
    pub dialect: Dialect,
    /// Requests that it runs at once; learned, where it isn't said.
    pub slots: Option<u32>,
    /// What it wants to see as `Authorization: Bearer`.
    pub api_key: Option<String>,
    /// Speak HTTP/2 without TLS.
    pub http2: bool,
    /// Files for https.
    pub tls: Tls,
    /// How long it is waited for.
    pub timeouts: Timeouts,
    /// How often its health is asked for.
    pub probe: Duration,
    /// Where its metrics are, if not at `/metrics`.
    pub metrics_url: Option<Uri>,
}

/// PEM files for https.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Who signed the worker's certificate.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How long a worker is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// For the first token of a stream.
    pub first_token: Duration,
    /// For the next bytes of a stream.
    pub idle: Duration,
    /// For a whole answer.
    pub answer: Duration,
}

/// A remote worker. Dropped, it is no longer asked how it is.
pub struct Remote {
    name: String,
    slots: Option<u32>,
    client: Arc<Client>,
    traits: Traits,
    timeouts: Timeouts,
    status: Arc<Status>,
    _probing: DropGuard,
}

impl Remote {
    /// Starts to look after it; it can be asked once it has said that it is well. Needs a runtime.
    ///
    /// # Errors
    /// A file or a key can't be used.
    pub fn start(options: Options) -> Result<Self, String> {
        let client = Arc::new(Client::new(&options)?);
        let (status, stop) = (Arc::new(Status::default()), CancellationToken::new());
        let traits = traits(options.dialect);
        tokio::spawn(probe::run(
            options.name.clone(),
            Arc::clone(&client),
            traits,
            options.metrics_url,
            options.probe,
            Arc::clone(&status),
            stop.clone(),
        ));
        Ok(Self {
            name: options.name,
            slots: options.slots,
            client,
            traits,
            timeouts: options.timeouts,
            status,
            _probing: stop.drop_guard(),
        })
    }

    async fn send(
        &self,
        path: &str,
        body: Vec<u8>,
        wait: Duration,
        progress: &Progress,
    ) -> Result<http::Response<Body>, Failure> {
        let answer = async {
            match self.client.post(path, body).await {
                Ok(response) if response.status().is_success() => Ok(response),
                Ok(response) => Err(refusal::read(response).await),
                Err(error) => {
                    if matches!(error, Error::Connect) {
                        // It has not even seen the prompt.
                        progress.tell(Count::default());
                    }
                    Err(Failure::Broken(error.to_string()))
                }
            }
        };
        tokio::time::timeout(wait, answer)
            .await
            .unwrap_or_else(|_| Err(Failure::Broken("it did not answer in time".into())))
    }

    async fn relay(
        &self,
        job: &Job,
        relay: &Relay,
        progress: Arc<Progress>,
    ) -> Result<Events, Failure> {
        let streams = relay.streams || self.traits.only_streams;
        let body = body::outgoing(job, relay, &self.traits, streams);
        let bounds = Bounds {
            request_bytes: body.len(),
            answers: job.request.answers(),
            max_tokens: job.request.max_tokens,
            carried: job.resume.as_ref().map_or(0, |resume| resume.tokens),
        };
        // Until the worker says how many there are.
        progress.guess(true);
        let prompt_tokens = relay.guess_prompt(BYTES_PER_TOKEN);
        progress.start(u32::try_from(prompt_tokens).unwrap_or(u32::MAX));
        progress.advance_by(bounds.carried);
        let name = |name| String::from_utf8_lossy(&body::text(name)).into_owned();
        let names = Names {
            id: name(&job.id),
            model: name(&job.asked),
            endpoint: relay.endpoint,
        };
        let (dispatched, limit) = (Instant::now(), self.timeouts.answer);
        let path = relay.endpoint.path();
        if streams {
            let wait = self.timeouts.first_token.min(limit);
            let response = self.send(path, body, wait, &progress).await?;
            let framed = is_framed(&response);
            let reading = Reading::new(
                (response.into_body(), framed),
                names,
                (relay.include_usage || !relay.streams, job.resumable),
                bounds,
                progress,
                self.timeouts,
                dispatched,
            );
            let events = reading.events();
            return if relay.streams {
                Ok(events)
            } else {
                gathered(events).await
            };
        }
        let response = self.send(path, body, limit, &progress).await?;
        let reading = read_whole(response.into_body(), &names, bounds, &progress);
        tokio::time::timeout(answer::left(limit, dispatched), reading)
            .await
            .unwrap_or_else(|_| Err(Failure::Broken("its answer did not come in time".into())))
    }
}

/// Whether HTTP tells the end of a body from a connection that is gone.
fn is_framed(response: &http::Response<Body>) -> bool {
    let headers = response.headers();
    response.version() == http::Version::HTTP_2
        || headers.contains_key(http::header::TRANSFER_ENCODING)
        || headers.contains_key(http::header::CONTENT_LENGTH)
}

#[async_trait]
impl Worker for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn capacity(&self) -> usize {
        self.slots.unwrap_or(FIRST_CAPACITY) as usize
    }

    fn learns_up_to(&self) -> Option<u32> {
        self.slots.is_none().then_some(MOST_CAPACITY)
    }

    fn is_replaceable(&self) -> bool {
        true
    }

    fn health(&self) -> Health {
        self.status.health()
    }

    fn waiting(&self) -> u32 {
        self.status.waiting()
    }

    async fn generate(&self, job: Job, progress: Arc<Progress>) -> Result<Events, Failure> {
        match &job.request.relay {
            Some(relay) => self.relay(&job, relay, progress).await,
            None => Err(Failure::Broken(
                "a remote worker was given a request without its own words".into(),
            )),
        }
    }

    async fn tokenize(&self, model: &str, ask: Tokenize) -> Result<Tokenized, Failure> {
        self.tokens(model, ask).await
    }

    async fn detokenize(&self, model: &str, tokens: Vec<u32>) -> Result<String, Failure> {
        self.text_of(model, &tokens).await
    }

    async fn embed(&self, job: EmbedJob, progress: Arc<Progress>) -> Result<Embedded, Failure> {
        self.embeddings(&job, &progress).await
    }
}
