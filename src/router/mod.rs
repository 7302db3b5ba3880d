//! Model name -> [`Plan`]: what a name means, where it can run and what it costs.

mod auto;
mod rollout;
mod table;

#[cfg(test)]
mod tests;

use std::sync::{Arc, PoisonError, RwLock};

use jiff::Timestamp;

use crate::config::Config;
use crate::types::{AUTO, Class, Kind, Plan, Price};

pub use auto::{Auto, Question, Route};
pub use rollout::{Rollout, RolloutError, Standing};
pub use table::{Choice, DriftOf, Gate, Stored, Table};

/// Why a name can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No model has this name.
    #[error("the model {0:?} does not exist")]
    UnknownModel(String),
    /// It exists, and can't do this.
    #[error("the model {model:?} {}", match .kind {
        Kind::Generate => "makes text, not embeddings",
        Kind::Embed => "makes embeddings, not text",
    })]
    WrongKind {
        /// Its name.
        model: String,
        /// What it can do.
        kind: Kind,
    },
    /// No revision of it may serve.
    #[error("no revision of the model {0:?} has passed its gate yet")]
    Closed(String),
}

/// In what form a model's workers want a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Speech {
    /// Taken apart, for engines in this process. So is a request for a model that there isn't.
    pub decoded: bool,
    /// In the client's own words, for remote workers.
    pub relayed: bool,
}

impl Speech {
    /// Of a model that there isn't.
    pub const UNKNOWN: Self = Self {
        decoded: true,
        relayed: false,
    };
    /// Of no worker.
    const NONE: Self = Self {
        decoded: false,
        relayed: false,
    };

    fn and(self, other: Self) -> Self {
        Self {
            decoded: self.decoded || other.decoded,
            relayed: self.relayed || other.relayed,
        }
    }
}

/// The registry of models. Its names are the only ones that become labels. What it holds is replaced whole, under
/// requests that run.
pub struct Router {
    table: RwLock<Arc<Table>>,
}

impl Router {
    /// What a config says by itself: see [`Table::new`].
    ///
    /// # Errors
    /// As there.
    pub fn new(config: &Config) -> Result<Self, String> {
        Table::new(config, &Stored::default()).map(Self::from)
    }

    /// From now on names mean this. Requests that have begun go on as they were.
    pub fn replace(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a name means for whoever asks: `by` names them where some get another revision than others, always the same.
    /// Whoever has no name gets what serves.
    ///
    /// # Errors
    /// There is no such model, or none of its revisions may serve.
    pub fn choose(
        &self,
        model: &str,
        by: impl FnOnce() -> Option<String>,
    ) -> Result<Choice, Error> {
        self.table().choose(model, by)
    }

    /// How a name will be served, at the price that holds now for requests of this class.
    ///
    /// # Errors
    /// As [`Router::choose`], or it can't do what is asked.
    pub fn resolve(&self, model: &str, kind: Kind, class: Class) -> Result<Plan, Error> {
        self.choose(model, || None)?.plan(kind, class)
    }

    /// What a model costs now for requests of this class, whether or not it may serve.
    #[must_use]
    pub fn price(&self, model: &str, class: Class) -> Option<Arc<Price>> {
        let table = self.table();
        let (served, _) = table.find(model)?;
        Some(served.price_at(Timestamp::now(), class))
    }

    /// Whether there is a model of this name, or a revision of one.
    #[must_use]
    pub fn knows(&self, model: &str) -> bool {
        let table = self.table();
        if model == AUTO && table.auto.is_some() {
            return true;
        }
        match table.find(model) {
            Some((served, Some(id))) => served.revision(id).is_some(),
            found => found.is_some(),
        }
    }

    /// Why a request for this name can't be served now.
    #[must_use]
    pub fn refusal(&self, model: &str) -> Error {
        let refusal = self.choose(model, || None).err();
        refusal.unwrap_or_else(|| Error::Closed(model.to_owned()))
    }

    /// Whether a project, by its id or by the name that the config may call it, may ask for a model. A model that there
    /// isn't is open to all.
    #[must_use]
    pub fn is_open_to(&self, model: &str, id: &str, name: Option<&str>) -> bool {
        let table = self.table();
        let served = table.find(model);
        let projects = served.and_then(|(served, _)| served.projects.as_ref());
        projects.is_none_or(|projects| {
            let is_it = |known: &String| known == id || name == Some(known.as_str());
            projects.iter().any(is_it)
        })
    }

    /// Whether a name is one of a revision, rather than of a model.
    #[must_use]
    pub fn names_revision(&self, model: &str) -> bool {
        matches!(self.table().find(model), Some((_, Some(_))))
    }

    /// How a request for `auto` is decided, where there is one.
    #[must_use]
    pub fn auto(&self) -> Option<Arc<Auto>> {
        self.table().auto.clone()
    }

    /// The registry's own spelling of a name, which is empty where there is no such model: a label.
    #[must_use]
    pub fn label(&self, model: &str) -> Arc<str> {
        let table = self.table();
        let found = table.find(model);
        found.map_or_else(Arc::default, |(served, _)| Arc::clone(&served.name))
    }

    /// A model's own name for one that it may have beside that; any other name is as it was.
    #[must_use]
    pub fn own_name(&self, model: &str) -> Arc<str> {
        let table = self.table();
        let found = table.find(model);
        found.map_or_else(|| model.into(), |(served, _)| Arc::clone(&served.name))
    }

    /// All names in order, the models' own ones first.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let table = self.table();
        let all = table.models.keys().chain(table.aliases.keys());
        let auto = table.auto.as_ref().map(|_| AUTO.to_owned());
        all.cloned().chain(auto).collect()
    }

    /// What serves of each `[[model]]` and each worker's own, in the order of their names.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        let table = self.table();
        table
            .models
            .values()
            .map(|model| Standing::of(model))
            .collect()
    }
}

impl From<Table> for Router {
    fn from(table: Table) -> Self {
        Self {
            table: RwLock::new(Arc::new(table)),
        }
    }
}
