//! The workers that a config names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result};

use super::wiring::Workers;
use crate::cli::model::{layouts_dir, trials_dir, weights_of};
use crate::config::{Config, Discover, EngineKind, RemoteConfig, WorkerConfig};
use crate::scheduler::Assigned;
use crate::telemetry::Metrics;
use crate::worker::{
    self, BertOptions, Discovery, LlamaOptions, Remote, RemoteOptions, RemoteTimeouts, RemoteTls,
    Worker,
};

/// Starts them; they load in the background.
pub(super) fn start(config: &Config, metrics: &Metrics) -> Result<Workers> {
    let mut workers = Workers::default();
    for worker in &config.workers {
        let pools: Vec<Arc<str>> = worker
            .models()
            .iter()
            .map(|name| Arc::from(&**name))
            .collect();
        let about = || format!("worker {}", worker.name);
        match (worker.engine, worker.remote.discover) {
            (EngineKind::Remote, Some(Discover::Dns)) => {
                let found = discovery(worker).map_err(Error::msg).with_context(about)?;
                workers.found.push((pools, found));
            }
            (EngineKind::Remote, None) => {
                let remote = remote_options(worker).and_then(Remote::start);
                let remote = remote.map_err(Error::msg).with_context(about)?;
                let worker = Arc::new(remote);
                workers.fixed.push(Assigned { pools, worker });
            }
            _ => {
                let worker = start_one(worker, metrics)?;
                workers.fixed.push(Assigned { pools, worker });
            }
        }
    }
    Ok(workers)
}

fn discovery(worker: &WorkerConfig) -> Result<Discovery, String> {
    let every = Duration::from_millis(worker.remote.discover_ms);
    Discovery::new(remote_options(worker)?, worker.remote.dns, every)
}

fn remote_options(worker: &WorkerConfig) -> Result<RemoteOptions, String> {
    let RemoteConfig { tls, timeouts, .. } = &worker.remote;
    let uri = |url: &String| url.parse().map_err(|error| format!("{url:?}: {error}"));
    let api_key = match &worker.remote.api_key_env {
        None => None,
        Some(name) => Some(std::env::var(name).map_err(|_| format!("${name} is not set"))?),
    };
    let url = worker.remote.url.as_ref().ok_or("it has no url")?;
    Ok(RemoteOptions {
        name: worker.name.clone(),
        url: uri(url)?,
        address: None,
        dialect: worker.remote.dialect,
        slots: worker.slots,
        api_key,
        http2: worker.remote.http2,
        tls: RemoteTls {
            ca: tls.ca.clone(),
            identity: tls.cert.clone().zip(tls.key.clone()),
        },
        timeouts: RemoteTimeouts {
            connect: Duration::from_millis(timeouts.connect_ms),
            first_token: Duration::from_millis(timeouts.first_token_ms),
            idle: Duration::from_millis(timeouts.idle_ms),
            answer: Duration::from_millis(timeouts.answer_ms),
        },
        probe: Duration::from_millis(worker.remote.probe_ms),
        metrics_url: worker.remote.metrics_url.as_ref().map(uri).transpose()?,
    })
}

fn start_one(worker: &WorkerConfig, metrics: &Metrics) -> Result<Arc<dyn Worker>> {
    let options = options(worker)?;
    let metrics = metrics.worker(&worker.name);
    Ok(if worker.isolate {
        options.start_isolated(metrics)?
    } else {
        options.start(metrics)?
    })
}

fn options(worker: &WorkerConfig) -> Result<worker::Options> {
    let weights = weights(worker)?;
    let name = worker.name.clone();
    Ok(match worker.engine {
        EngineKind::Llama => worker::Options::Llama(LlamaOptions {
            name,
            weights,
            slots: worker.slots(),
            context_tokens: worker.context_tokens,
            step_tokens: worker.step_tokens,
            prefill_percent: worker.prefill_percent,
            lookup: worker.lookup,
            cells: worker.kv_type,
            prefix_cache_mib: worker.prefix_cache_mib,
            adapters: worker.adapters,
            adapter_slots: worker.adapter_slots,
            layout: worker.layout,
            layouts: layouts_dir()?,
            trials: (!worker.isolate).then(trials_dir).transpose()?,
            tool_format: worker.tool_format,
            thinks: worker.thinks,
            threads: worker.threads,
        }),
        EngineKind::Bert => worker::Options::Bert(BertOptions {
            name,
            weights,
            slots: worker.slots(),
        }),
        EngineKind::Mistralrs => mistralrs(worker, weights)?,
        EngineKind::Remote => anyhow::bail!("worker {name}: it runs elsewhere"),
    })
}

#[cfg(feature = "mistralrs")]
#[expect(clippy::unnecessary_wraps, reason = "without the feature it fails")]
fn mistralrs(worker: &WorkerConfig, weights: PathBuf) -> Result<worker::Options> {
    Ok(worker::Options::Mistral(worker::MistralOptions {
        name: worker.name.clone(),
        weights,
        slots: worker.slots(),
        context_tokens: worker.context_tokens,
    }))
}

#[cfg(not(feature = "mistralrs"))]
fn mistralrs(worker: &WorkerConfig, _: PathBuf) -> Result<worker::Options> {
    anyhow::bail!(
        "worker {}: built without the feature `mistralrs`",
        worker.name
    )
}

fn weights(worker: &WorkerConfig) -> Result<PathBuf> {
    match &worker.weights {
        Some(path) => Ok(path.clone()),
        None => weights_of(&worker.model),
    }
}
