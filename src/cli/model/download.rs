//! One URL into one file, over as many connections as it takes.
//!
//! What has come in stays on disk when the connection or the process ends, and the next attempt, in
//! this call or a later one, asks only for the rest.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ureq::http::{Response, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::progress::Progress;

/// How many attempts in a row may end without a byte more than any before them.
const FRUITLESS_ATTEMPTS: u32 = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A server that says nothing for so long has gone.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 256 * 1024;

pub(super) struct Client {
    agent: Agent,
    back_off: Duration,
}

pub(super) struct Download<'a> {
    pub(super) url: &'a str,
    pub(super) bearer: Option<&'a str>,
    /// The partial file: continued if it is there.
    pub(super) into: &'a Path,
    pub(super) label: &'a str,
    /// The length, where it is known before the server is asked.
    pub(super) bytes: Option<u64>,
}

/// How a download ended that isn't a plain error.
#[derive(Debug)]
pub(super) enum Outcome {
    Complete,
    /// Nothing was served to us at all; somebody with other credentials or another proxy may do better.
    Refused(anyhow::Error),
}

enum Attempt {
    Complete,
    Refused(anyhow::Error),
    /// `reached` tells whether a server answered.
    Broken {
        cause: anyhow::Error,
        reached: bool,
    },
}

impl Client {
    /// `back_off` is the pause after the first fruitless attempt; it doubles with each further one.
    pub(super) fn new(back_off: Duration) -> Self {
        // The platform's verifier honours SSL_CERT_FILE, which sites with their own authority rely on.
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::PlatformVerifier)
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .user_agent(concat!("forebay/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .build();
        Self {
            agent: config.into(),
            back_off,
        }
    }

    pub(super) fn fetch(&self, download: &Download<'_>) -> Result<Outcome> {
        let progress = Progress::start(download.label);
        let mut most_bytes = length(download.into)?;
        let mut fruitless = 0;
        let mut ever_reached = false;
        loop {
            let (cause, reached) = match self.attempt(download, &progress)? {
                Attempt::Complete => {
                    progress.finish();
                    return Ok(Outcome::Complete);
                }
                Attempt::Refused(cause) => return Ok(Outcome::Refused(cause)),
                Attempt::Broken { cause, reached } => (cause, reached),
            };
            ever_reached |= reached;
            let bytes = length(download.into)?;
            fruitless = if bytes > most_bytes { 0 } else { fruitless + 1 };
            most_bytes = most_bytes.max(bytes);
            if fruitless == FRUITLESS_ATTEMPTS && ever_reached {
                return Err(cause.context(format!(
                    "gave up on {}; another pull goes on from byte {bytes}",
                    download.url
                )));
            }
            if fruitless == FRUITLESS_ATTEMPTS {
                return Ok(Outcome::Refused(
                    cause.context(format!("can't reach {}", download.url)),
                ));
            }
            let pause = self.back_off * 2_u32.pow(fruitless.saturating_sub(1));
            progress.note(format_args!("{cause:#}; on from byte {bytes} in {pause:?}"));
            #[expect(
                clippy::disallowed_methods,
                reason = "a command without a runtime: there is nobody else to stall"
            )]
            thread::sleep(pause);
        }
    }

    fn attempt(&self, download: &Download<'_>, progress: &Progress) -> Result<Attempt> {
        let mut have = length(download.into)?;
        match download.bytes {
            Some(bytes) if have == bytes && have > 0 => return Ok(Attempt::Complete),
            Some(bytes) if have > bytes => {
                fs::remove_file(download.into)?;
                have = 0;
            }
            _ => {}
        }
        let response = match self.request(download, have) {
            Ok(response) => response,
            Err(cause) => {
                return Ok(Attempt::Broken {
                    cause: cause.into(),
                    reached: false,
                });
            }
        };
        let status = response.status();
        let refusal = || anyhow!("{} answered {status}", download.url);
        match status.as_u16() {
            200 => receive(download, response, 0, progress),
            206 if continues_at(&response, have) => receive(download, response, have, progress),
            416 if have > 0 && complete_length(&response) == Some(have) => Ok(Attempt::Complete),
            206 | 416 => {
                restart(download.into)?;
                Ok(Attempt::Broken {
                    cause: refusal().context("the rest can't be had"),
                    reached: true,
                })
            }
            401 | 403 | 407 => Ok(Attempt::Refused(refusal())),
            408 | 429 | 500..=599 => Ok(Attempt::Broken {
                cause: refusal(),
                reached: true,
            }),
            _ => bail!(refusal()),
        }
    }

    fn request(&self, download: &Download<'_>, have: u64) -> Result<Response<Body>, ureq::Error> {
        // A compressed answer would make byte offsets mean something else.
        let mut request = self
            .agent
            .get(download.url)
            .header(header::ACCEPT_ENCODING, "identity");
        if have > 0 {
            request = request.header(header::RANGE, format!("bytes={have}-"));
        }
        if let Some(token) = download.bearer {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.call()
    }
}

/// Writes the answer's body into the file from byte `start` on.
fn receive(
    download: &Download<'_>,
    response: Response<Body>,
    start: u64,
    progress: &Progress,
) -> Result<Attempt> {
    let promised = response.body().content_length().map(|rest| start + rest);
    let total = promised.or(download.bytes);
    progress.set_total(total);
    progress.resume_at(start);
    let mut options = File::options();
    match start {
        0 => options.write(true).create(true).truncate(true),
        _ => options.append(true),
    };
    let mut file = options
        .open(download.into)
        .with_context(|| format!("can't write {}", download.into.display()))?;
    // One byte more than expected is enough to see that the answer is too long, and doesn't fill the disk.
    let limit = total.map_or(u64::MAX, |total| {
        total.saturating_sub(start).saturating_add(1)
    });
    let mut body = response.into_body().into_reader().take(limit);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut end = start;
    let cause = loop {
        match body.read(&mut buffer) {
            Ok(0) => break None,
            Ok(count) => {
                file.write_all(&buffer[..count])
                    .with_context(|| format!("can't write {}", download.into.display()))?;
                end += count as u64;
                progress.add(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Some(error),
        }
    };
    let whole = total.is_none_or(|total| end >= total);
    match cause {
        None if whole => Ok(Attempt::Complete),
        None => Ok(Attempt::Broken {
            cause: anyhow!("the connection closed early"),
            reached: true,
        }),
        Some(error) => Ok(Attempt::Broken {
            cause: anyhow!(error).context("the connection broke"),
            reached: true,
        }),
    }
}

fn restart(partial: &Path) -> io::Result<()> {
    match fs::remove_file(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn length(path: &Path) -> Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("can't look at {}", path.display())),
    }
}

fn content_range(response: &Response<Body>) -> Option<(&str, &str)> {
    let value = response
        .headers()
        .get(header::CONTENT_RANGE)?
        .to_str()
        .ok()?;
    value.strip_prefix("bytes ")?.split_once('/')
}

fn continues_at(response: &Response<Body>, offset: u64) -> bool {
    content_range(response)
        .and_then(|(range, _)| range.split_once('-'))
        .is_some_and(|(first, _)| first.parse() == Ok(offset))
}

fn complete_length(response: &Response<Body>) -> Option<u64> {
    content_range(response)?.1.parse().ok()
}
