use std::path::PathBuf;

use serde::Deserialize;

use crate::types::{Dialect, Kind};

/// What a `[[worker]]` of the engine `remote` has beside a worker's other keys: any server that speaks OpenAI's API.
/// It is flattened into that section, which refuses unknown keys.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct RemoteConfig {
    /// Where it listens, without `/v1`: `http://gpu-1:8000`.
    pub url: Option<String>,
    /// The models that it serves, by its own names.
    pub models: Vec<String>,
    /// What its models can be asked for: `generate` or `embed`.
    pub kind: Kind,
    /// What it is: `openai` (anything), `vllm`, `sglang`, `tgi`, `llama-server` or `forebay`.
    pub dialect: Dialect,
    /// `dns`: each address that the URL's host has is a worker of its own, and they are looked up again and again.
    pub discover: Option<Discover>,
    /// How often they are looked up, in milliseconds.
    pub discover_ms: u64,
    /// The DNS server that is asked, `127.0.0.1:53`; the system's by default.
    pub dns: Option<std::net::SocketAddr>,
    /// The environment variable that holds the key which the worker wants to see as `Authorization: Bearer`.
    pub api_key_env: Option<String>,
    /// Speak HTTP/2 to it without TLS. With TLS the two agree on it by themselves.
    pub http2: bool,
    /// PEM files for https.
    pub tls: TlsConfig,
    /// Where it fails in mid-stream, another worker of the same models goes on with the answer. For workers that run the very
    /// same weights, all of them `vllm`, `sglang` or `llama-server`.
    pub resume: bool,
    /// How long is waited for what.
    pub timeouts: TimeoutsConfig,
    /// How often its health is asked for, in milliseconds.
    pub probe_ms: u64,
    /// Where its metrics are, if not at `/metrics` of its own URL.
    pub metrics_url: Option<String>,
}

/// PEM files for https to a worker.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// Who signed the worker's certificate; the system's authorities by default.
    pub ca: Option<PathBuf>,
    /// The gateway's own certificate, where the worker asks for one.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// How long a worker is waited for, in milliseconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsConfig {
    /// For a connection.
    pub connect_ms: u64,
    /// For the first token of a stream.
    pub first_token_ms: u64,
    /// For the next bytes of a stream.
    pub idle_ms: u64,
    /// For a whole answer.
    pub answer_ms: u64,
}

/// How the workers behind one URL are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discover {
    /// By the addresses of its host, as a headless Service of Kubernetes has them.
    Dns,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            url: None,
            models: Vec::new(),
            kind: Kind::Generate,
            dialect: Dialect::default(),
            discover: None,
            discover_ms: 5_000,
            dns: None,
            api_key_env: None,
            http2: false,
            tls: TlsConfig::default(),
            resume: false,
            timeouts: TimeoutsConfig::default(),
            probe_ms: 2_000,
            metrics_url: None,
        }
    }
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            connect_ms: 2_000,
            first_token_ms: 60_000,
            idle_ms: 30_000,
            answer_ms: 600_000,
        }
    }
}

impl RemoteConfig {
    /// What doesn't go together, in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(url) = &self.url else {
            return Err("engine = \"remote\" needs a url".into());
        };
        let uri: http::Uri = url
            .parse()
            .map_err(|error| format!("url {url:?}: {error}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(format!("url {url:?} must begin with http:// or https://"));
        }
        if self.models.is_empty() {
            return Err("engine = \"remote\" needs models = [...]".into());
        }
        for model in &self.models {
            super::check_name("[[worker]] models", model)?;
        }
        if self.resume && !self.dialect.resumes() {
            return Err("resume is for the dialects vllm, sglang and llama-server".into());
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return Err("tls.cert and tls.key go together".into());
        }
        let t = &self.timeouts;
        let times = [t.connect_ms, t.first_token_ms, t.idle_ms, t.answer_ms];
        if times.contains(&0) || self.probe_ms == 0 || self.discover_ms == 0 {
            return Err("no timeout, probe_ms or discover_ms can be 0".into());
        }
        Ok(())
    }
}
