//! A server under load: where it listens and what its requests carry.

use std::{net::IpAddr, str::FromStr};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hyper::Uri;
use serde_json::{Map, Value};

/// `http://host:port` of a server on this machine. No other address can be expressed, so that a
/// load test can't be aimed at anybody else's server.
#[derive(Clone, Debug)]
pub(crate) struct LoopbackUrl(String);

impl LoopbackUrl {
    pub(crate) fn join(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl FromStr for LoopbackUrl {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let uri: Uri = text.parse().with_context(|| format!("not a URL: {text}"))?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!("not an http:// URL: {text}");
        };
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !local {
            bail!("{host} is not a loopback address: load tests stay on this machine");
        }
        Ok(Self(format!("http://{authority}")))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: LoopbackUrl,
    pub(crate) key: Option<String>,
    pub(crate) model: String,
    /// Fields that only this server knows, added to each request.
    pub(crate) extra: Map<String, Value>,
}

impl Target {
    /// The body of a streamed greedy chat completion of exactly `tokens` tokens.
    pub(crate) fn chat(&self, prompt: &str, tokens: u32) -> Bytes {
        let mut body = serde_json::json!({
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": tokens,
            "ignore_eos": true,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        for (name, value) in &self.extra {
            body[name] = value.clone();
        }
        Bytes::from(body.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::LoopbackUrl;

    #[test]
    fn only_loopback_addresses_are_accepted() {
        for url in [
            "http://127.0.0.1:8080",
            "http://127.9.9.9",
            "http://[::1]:80/",
            "http://localhost:1",
        ] {
            assert!(url.parse::<LoopbackUrl>().is_ok(), "{url}");
        }
        for url in [
            "http://10.0.0.1:80",
            "http://localhost.test",
            "http://0.0.0.0:1",
            "https://127.0.0.1",
            "127.0.0.1:80",
            "http://[::2]:1",
            "http://127.0.0.1@10.0.0.1:80",
        ] {
            assert!(url.parse::<LoopbackUrl>().is_err(), "{url}");
        }
    }
}
