use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::embedded::{Bert, BertOptions, Llama, LlamaOptions};
#[cfg(feature = "mistralrs")]
use super::embedded::{Mistral, MistralOptions};
use super::{Isolated, Worker};
use crate::telemetry::WorkerMetrics;

/// What a worker with an engine of this binary is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Options {
    /// llama.cpp's kernels under our own batching.
    Llama(LlamaOptions),
    /// A sentence encoder.
    Bert(BertOptions),
    /// mistral.rs.
    #[cfg(feature = "mistralrs")]
    Mistral(MistralOptions),
}

impl Options {
    /// The worker's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Llama(options) => &options.name,
            Self::Bert(options) => &options.name,
            #[cfg(feature = "mistralrs")]
            Self::Mistral(options) => &options.name,
        }
    }

    /// How many requests the worker runs at once.
    #[must_use]
    pub fn capacity(&self) -> usize {
        match self {
            Self::Llama(options) => options.slots as usize,
            Self::Bert(options) => options.slots as usize,
            #[cfg(feature = "mistralrs")]
            Self::Mistral(options) => options.capacity(),
        }
    }

    /// Starts the engine in this process.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(self, metrics: WorkerMetrics) -> io::Result<Arc<dyn Worker>> {
        Ok(match self {
            Self::Llama(options) => Arc::new(Llama::start(options, metrics)?),
            Self::Bert(options) => Arc::new(Bert::start(options, metrics)?),
            #[cfg(feature = "mistralrs")]
            Self::Mistral(options) => Arc::new(Mistral::start(options, metrics)?),
        })
    }

    /// Starts the engine in a process of its own.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start_isolated(self, metrics: WorkerMetrics) -> io::Result<Arc<dyn Worker>> {
        Ok(Arc::new(Isolated::start(self, metrics)?))
    }
}
