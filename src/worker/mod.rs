//! What runs models. Only the scheduler asks a worker for anything.

mod embedded;
mod isolated;
mod options;
mod remote;

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use embedded::{Bert, BertOptions, Llama, LlamaOptions};
#[cfg(feature = "mistralrs")]
pub use embedded::{Mistral, MistralOptions};
pub use isolated::{Error as ChildError, Isolated, run_child};
pub use options::Options;
pub use remote::{
    Change, Discovery, Options as RemoteOptions, Remote, Timeouts as RemoteTimeouts,
    Tls as RemoteTls,
};

use crate::types::{
    Embed, EmbedJob, Embedded, Events, Failure, Generate, Job, Measure, Progress, Tokenize,
    Tokenized,
};

/// Whether a worker can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Health {
    /// It reads its weights.
    Loading,
    /// It can be asked.
    Ready,
    /// It can't, and says why in one line.
    Failed(String),
}

/// Something that runs one model.
///
/// The counts in [`Progress`] are the worker's duty: the prompt when it takes it on, each token when it is
/// generated, and a refused count means that nobody waits any more.
#[async_trait]
pub trait Worker: Send + Sync {
    /// Its name in logs, metrics and the ledger.
    fn name(&self) -> &str;

    /// How many requests it runs at once.
    fn capacity(&self) -> usize;

    /// Where nobody knows how many it runs at once: [`Worker::capacity`] is what it is given at first, and what it
    /// takes is learned, up to this.
    fn learns_up_to(&self) -> Option<u32> {
        None
    }

    /// Whether it is one of several that may come and go: then a model is ready as long as one of them is.
    fn is_replaceable(&self) -> bool {
        false
    }

    /// Whether it can be asked.
    fn health(&self) -> Health;

    /// How many requests wait inside it, as far as it tells.
    fn waiting(&self) -> u32 {
        0
    }

    /// Whether it puts a sequence of the batch class aside when one of a higher class comes: then it may be
    /// given as many more of those as it runs of the batch class.
    fn preempts(&self) -> bool {
        false
    }

    /// What a request would take, where this worker can tell before it runs.
    ///
    /// # Errors
    /// The request can't be run by this model.
    async fn measure(&self, _request: &Generate) -> Result<Option<Measure>, Failure> {
        Ok(None)
    }

    /// The tokens of texts, where this worker can tell before it runs.
    ///
    /// # Errors
    /// As [`Worker::measure`].
    async fn measure_embed(&self, _request: &Embed) -> Result<Option<u32>, Failure> {
        Ok(None)
    }

    /// A prompt in the tokens of this model.
    ///
    /// # Errors
    /// It can't be told, or the worker is broken.
    async fn tokenize(&self, _model: &str, _ask: Tokenize) -> Result<Tokenized, Failure> {
        Err(cannot("tell its tokens"))
    }

    /// The text that tokens of this model stand for.
    ///
    /// # Errors
    /// As [`Worker::tokenize`].
    async fn detokenize(&self, _model: &str, _tokens: Vec<u32>) -> Result<String, Failure> {
        Err(cannot("tell its tokens"))
    }

    /// Starts an answer. Dropping the stream cancels it.
    ///
    /// # Errors
    /// The request can't be run by this model, or the worker is broken.
    async fn generate(&self, _job: Job, _progress: Arc<Progress>) -> Result<Events, Failure> {
        Err(cannot("generate text"))
    }

    /// Turns texts into vectors. Dropping the future cancels it.
    ///
    /// # Errors
    /// As [`Worker::generate`].
    async fn embed(&self, _job: EmbedJob, _progress: Arc<Progress>) -> Result<Embedded, Failure> {
        Err(cannot("make embeddings"))
    }
}

fn cannot(what: &str) -> Failure {
    Failure::Invalid {
        param: Some("model".into()),
        message: format!("this model can't {what}"),
    }
}
