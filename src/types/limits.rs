use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Class, Money};

/// What a limit is of. A request is held to the limits of all that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All projects of an organisation together.
    Organisation,
    /// All keys of a project together.
    Project,
    /// One key.
    Key,
}

impl Scope {
    /// The word in the store and in error messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Organisation => "organisation",
            Self::Project => "project",
            Self::Key => "key",
        }
    }

    /// The scope of this word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        [Self::Organisation, Self::Project, Self::Key]
            .into_iter()
            .find(|scope| scope.as_str() == word)
    }
}

/// The limits of one scope, for one model or for all of them together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSet {
    /// Of what.
    pub scope: Scope,
    /// The id of the organisation, project or key.
    pub id: Arc<str>,
    /// The model that they are for; all models together, where there is none.
    pub model: Option<String>,
    /// The numbers.
    pub limits: Limits,
}

/// How much may be used. What is `None` has no limit; zero lets nothing through.
///
/// A minute is any 60 seconds; days and months are those of UTC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests in any 60 seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Tokens in any 60 seconds, those of prompts included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    /// Requests a day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_day: Option<u64>,
    /// Tokens a day, those of prompts included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
    /// Tokens a day of requests of the batch class, which count here as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_tokens_per_day: Option<u64>,
    /// Requests under way at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u64>,
    /// What a day may cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_per_day: Option<Money>,
    /// What a month may cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_per_month: Option<Money>,
    /// What a day may cost before a warning is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warn_per_day: Option<Money>,
    /// What a month may cost before a warning is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warn_per_month: Option<Money>,
    /// Of a project: its share of what the workers do, in relation to other projects'; 1 where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The class of requests that name none, and the highest that they may name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
}

impl Limits {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
