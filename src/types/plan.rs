use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Adapter, Price, Profile};

/// The name by which a client leaves it to the gateway which model answers.
pub const AUTO: &str = "auto";

/// What a model can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Chat and text completions.
    Generate,
    /// Embedding vectors.
    Embed,
}

/// Which door a request came in by; a column of the ledger and a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
}

impl Endpoint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Chat, Self::Completions, Self::Embeddings];

    /// The one with this path.
    #[must_use]
    pub fn at(path: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|endpoint| endpoint.path() == path)
    }

    /// Its path.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
        }
    }

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
    /// What workers are asked for: the pool's own name, or that of an adapter which remote workers have loaded.
    pub sent: Arc<str>,
    /// What it says before its clients do.
    pub profile: Option<Arc<Profile>>,
    /// What it costs.
    pub price: Arc<Price>,
    /// Its workers all run one model that can go on with another's answer.
    pub resume: bool,
    /// The names of models that are asked in its place, one after another, where its workers fail.
    pub fallbacks: Arc<[String]>,
}
