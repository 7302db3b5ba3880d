//! The workers that a config names.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::wiring::Workers;
use crate::cli::model::{layouts_dir, trials_dir, weights_of};
use crate::config::{Config, EngineKind, WorkerConfig};
use crate::telemetry::Metrics;
use crate::worker::{self, BertOptions, LlamaOptions, Worker};

/// Starts them; they load in the background.
pub(super) fn start(config: &Config, metrics: &Metrics) -> Result<Workers> {
    let started = |worker: &WorkerConfig| {
        Ok((
            Arc::from(worker.model.as_str()),
            start_one(worker, metrics)?,
        ))
    };
    config.workers.iter().map(started).collect()
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
            slots: worker.slots,
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
            threads: worker.threads,
        }),
        EngineKind::Bert => worker::Options::Bert(BertOptions {
            name,
            weights,
            slots: worker.slots,
        }),
        EngineKind::Mistralrs => mistralrs(worker, weights)?,
    })
}

#[cfg(feature = "mistralrs")]
#[expect(clippy::unnecessary_wraps, reason = "without the feature it fails")]
fn mistralrs(worker: &WorkerConfig, weights: PathBuf) -> Result<worker::Options> {
    Ok(worker::Options::Mistral(worker::MistralOptions {
        name: worker.name.clone(),
        weights,
        slots: worker.slots,
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
