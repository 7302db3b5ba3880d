use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{KeyId, OrganisationId, ProjectId};

/// Who sends a request, once the key was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Whose project it is.
    pub organisation: OrganisationId,
    /// The tenant that pays.
    pub project: ProjectId,
    /// The key that was shown.
    pub key: KeyId,
}

/// How urgent a request is. Higher classes are served first.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Runs where nobody else wants to, and makes way.
    Batch,
    /// The class of a request that names none.
    #[default]
    Standard,
    /// Somebody sits and waits.
    Interactive,
}

impl Class {
    /// The name in the ledger.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Standard => "standard",
            Self::Interactive => "interactive",
        }
    }
}

impl FromStr for Class {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        [Self::Batch, Self::Standard, Self::Interactive]
            .into_iter()
            .find(|class| class.as_str() == word)
            .ok_or_else(|| format!("{word:?} is none of batch, standard and interactive"))
    }
}
