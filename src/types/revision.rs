use std::fmt::Write;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Adapter, Page, Profile, StoreError};

/// What a vertical's answers depend on: a revision of it, which is kept as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    /// The `model` of the workers that run it.
    pub base: String,
    /// The adapter over the base, where it has one.
    pub adapter: Option<Arc<Adapter>>,
    /// What remote workers call the adapter that they have loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter_name: Option<Arc<str>>,
    /// What it says before its clients do.
    pub profile: Option<Arc<Profile>>,
}

impl Definition {
    /// A name for it: another one where anything in it is another.
    #[must_use]
    pub fn id(&self) -> String {
        // Our own shapes always serialise.
        let text = serde_json::to_string(self).unwrap_or_default();
        format!("{:08x}", crc32fast::hash(text.as_bytes()))
    }

    /// Its name in the ledger: what it stands on, and its id where there is more to it.
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = self.base.clone();
        if let Some(adapter) = &self.adapter {
            let stem = adapter.path.file_stem().unwrap_or_default();
            // Writing to a String can't fail.
            let _infallible = write!(name, "+{}*{}", stem.to_string_lossy(), adapter.scale);
        }
        if let Some(adapter) = &self.adapter_name {
            let _infallible = write!(name, "+{adapter}");
        }
        if self.adapter.is_some() || self.adapter_name.is_some() || self.profile.is_some() {
            let _infallible = write!(name, "#{}", self.id());
        }
        name
    }
}

/// A revision of a model as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredRevision {
    /// The model's name.
    pub model: String,
    /// [`Definition::id`] of what it is.
    pub id: String,
    /// What it is.
    pub definition: Definition,
    /// When it was first seen.
    pub made: Timestamp,
}

/// A revision that some users get.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The revision's id.
    pub revision: String,
    /// How many users of a hundred, above 0.
    pub percent: f64,
}

/// Which revisions of a model serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Serving {
    /// The model's name.
    pub model: String,
    /// Counts the changes; 0 before the first.
    pub version: u64,
    /// The id of what the config said when this was last decided by it.
    pub configured: String,
    /// The id of the revision that serves.
    pub revision: String,
    /// What served before it.
    pub previous: Option<String>,
    /// Answers some users in its place.
    pub canary: Option<Share>,
    /// Is asked beside it, and answers nobody.
    pub shadow: Option<Share>,
}

/// How a revision did on a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Names it (UUID version 7, so they sort by time).
    pub id: String,
    /// When it ran.
    pub at: Timestamp,
    /// The suite's name.
    pub suite: String,
    /// A name for the suite's content.
    pub suite_version: String,
    /// The model, as it was asked for.
    pub model: String,
    /// [`Definition::name`] of what answered; empty where the server didn't tell.
    pub revision: String,
    /// The mean over all items, from 0 to 1.
    pub score: f64,
    /// The lower end of its 95% interval.
    pub low: f64,
    /// The upper end of it.
    pub high: f64,
    /// How many items there were.
    pub items: u32,
    /// How many of them have no answer.
    pub failed: u32,
    /// The whole report on the model; null in lists.
    pub report: Value,
}

/// Which evaluations are wanted.
#[derive(Debug, Clone, Default)]
pub struct EvaluationQuery {
    /// Of the model by this name.
    pub model: Option<String>,
    /// Of what has this name in the ledger.
    pub revision: Option<String>,
    /// On a suite of this content.
    pub suite_version: Option<String>,
}

/// Where revisions of models are kept, which of them serve, and how they did.
#[async_trait]
pub trait ModelStore: Send + Sync {
    /// Keeps a revision, unless it is there.
    ///
    /// # Errors
    /// The store failed.
    async fn define(&self, revision: &StoredRevision) -> Result<(), StoreError>;

    /// All revisions of all models, oldest first.
    ///
    /// # Errors
    /// The store failed.
    async fn revisions(&self) -> Result<Vec<StoredRevision>, StoreError>;

    /// How many revisions there are, and which of them serve.
    ///
    /// # Errors
    /// The store failed.
    async fn serving(&self) -> Result<(u64, Vec<Serving>), StoreError>;

    /// Keeps how a revision did.
    ///
    /// # Errors
    /// The store failed.
    async fn evaluated(&self, evaluation: &Evaluation) -> Result<(), StoreError>;

    /// Evaluations without their reports, newest first.
    ///
    /// # Errors
    /// The store failed.
    async fn evaluations(
        &self,
        query: &EvaluationQuery,
        page: &Page,
    ) -> Result<Vec<Evaluation>, StoreError>;

    /// One of them whole: the last whose id begins or ends so.
    ///
    /// # Errors
    /// There is none, or the store failed.
    async fn find_evaluation(&self, id: &str) -> Result<Evaluation, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(scale: f32, content: &str, system: Option<&str>) -> Definition {
        Definition {
            base: "base".into(),
            adapter: Some(Arc::new(Adapter {
                path: "a/law.gguf".into(),
                scale,
                content: content.into(),
            })),
            adapter_name: None,
            profile: system.map(|system| {
                Arc::new(Profile {
                    system: Some(system.into()),
                    ..Profile::default()
                })
            }),
        }
    }

    #[test]
    fn another_content_is_another_revision() {
        let all = [
            definition(1.0, "x", None),
            definition(0.5, "x", None),
            definition(1.0, "y", None),
            definition(1.0, "x", Some("Be kind.")),
            definition(1.0, "x", Some("Be kind!")),
        ];
        let mut ids: Vec<_> = all.iter().map(Definition::id).collect();
        assert!(
            all[0].name().starts_with("base+law*1#"),
            "{}",
            all[0].name()
        );
        assert!(all[0].name().ends_with(&ids[0]));
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), all.len());
        // What is kept is what was.
        for definition in all {
            let text = serde_json::to_string(&definition).unwrap();
            let again: Definition = serde_json::from_str(&text).unwrap();
            assert_eq!(again.id(), definition.id());
        }
    }

    #[test]
    fn a_model_that_is_its_base_has_its_name() {
        let plain = Definition {
            adapter: None,
            ..definition(1.0, "", None)
        };
        assert_eq!(plain.name(), "base");
    }
}
