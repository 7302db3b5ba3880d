use std::sync::Arc;

use super::{Adapter, Price};

/// What a model can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Chat and text completions.
    Generate,
    /// Embedding vectors.
    Embed,
}

/// Which door a request came in by; a column of the ledger and a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
}

impl Endpoint {
    /// The name in the ledger and in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
        }
    }
}

/// How a model name will be served: the router's answer, which the scheduler carries out.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The name the client asked for, as it stands in the registry.
    pub model: Arc<str>,
    /// What the name meant when the request came; a ledger row pins it.
    pub revision: Arc<str>,
    /// The pool of workers that can serve it.
    pub pool: Arc<str>,
    /// The adapter over the workers' weights, where the model has one.
    pub adapter: Option<Arc<Adapter>>,
    /// What it costs.
    pub price: Arc<Price>,
}
