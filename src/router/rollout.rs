//! Which revision of a model serves, and what may be put in its place.

use std::collections::BTreeSet;

use crate::types::{
    Act, Actor, Evaluation, EvaluationQuery, Organisation, Page, Serving, Share, Store, StoreError,
    StoredRevision,
};

use super::table::{Gate, Served};

/// Decides in somebody's name which revisions serve. Each decision leaves a line in the audit log.
pub struct Rollout<'a> {
    /// Where it takes effect.
    pub store: &'a dyn Store,
    /// Who decides.
    pub actor: Actor,
}

/// A model, as the config has it.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its name.
    pub model: String,
    /// The id of what the config says.
    pub configured: String,
    /// What a revision must reach before it serves.
    pub gate: Option<Gate>,
    /// The ids of the revisions that can be run; `None` where nobody has looked.
    pub runnable: Option<BTreeSet<String>>,
}

/// Why other revisions don't serve.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The store failed, or somebody else was faster.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is none of that id.
    #[error("{model:?} has no one revision {id:?}")]
    NoSuchRevision {
        /// The model.
        model: String,
        /// What it was called.
        id: String,
    },
    /// Nothing served before.
    #[error("nothing served {0:?} before what serves it now")]
    NoPrevious(String),
    /// Nothing serves whose users could be shared.
    #[error("no revision serves {0:?}: promote one first")]
    NothingServes(String),
    /// Its adapter's file is another one, or no worker runs its base.
    #[error("{revision} of {model:?} can't be run as it was: its adapter or its base is gone")]
    CantRun {
        /// The model.
        model: String,
        /// Its id.
        revision: String,
    },
    /// It is what serves.
    #[error("{revision} serves {model:?} already")]
    Serves {
        /// The model.
        model: String,
        /// The revision.
        revision: String,
    },
    /// Nobody knows how good it is.
    #[error(
        "{revision} has not been tried on the suite {suite:?} as it is now: its gate asks for {bar}"
    )]
    NotEvaluated {
        /// The revision.
        revision: String,
        /// The gate's suite.
        suite: String,
        /// The gate's bar.
        bar: f64,
    },
    /// It isn't good enough.
    #[error(
        "{revision} has {score:.3} ({low:.3} to {high:.3}) on the suite {suite:?}: its gate asks for {bar} at the lower end",
        score = .evaluation.score, low = .evaluation.low, high = .evaluation.high, suite = .evaluation.suite
    )]
    BelowBar {
        /// The revision.
        revision: String,
        /// Its last evaluation.
        evaluation: Box<Evaluation>,
        /// The gate's bar.
        bar: f64,
    },
    /// Some items have no answer.
    #[error("{revision}: {failed} items of the suite {suite:?} have no answer")]
    Unanswered {
        /// The revision.
        revision: String,
        /// How many.
        failed: u32,
        /// The gate's suite.
        suite: String,
    },
}

impl Standing {
    pub(super) fn of(served: &Served) -> Self {
        Self {
            model: served.name.to_string(),
            configured: served.configured.clone(),
            gate: served.gate.clone(),
            runnable: Some(served.revisions.keys().cloned().collect()),
        }
    }
}

impl Standing {
    fn check_runs(&self, id: &str) -> Result<(), RolloutError> {
        let runs = self.runnable.as_ref().is_none_or(|all| all.contains(id));
        runs.then_some(()).ok_or_else(|| RolloutError::CantRun {
            model: self.model.clone(),
            revision: id.to_owned(),
        })
    }
}

impl Rollout<'_> {
    /// The revision whose id begins so.
    ///
    /// # Errors
    /// There is none, more than one, or the store failed.
    pub async fn find(&self, model: &str, id: &str) -> Result<StoredRevision, RolloutError> {
        let all = self.store.revisions().await?.into_iter();
        let mut fits = all.filter(|one| one.model == model && one.id.starts_with(id));
        match (fits.next(), fits.next()) {
            (Some(one), None) => Ok(one),
            _ => Err(RolloutError::NoSuchRevision {
                model: model.to_owned(),
                id: id.to_owned(),
            }),
        }
    }

    /// What serves a model, where that was ever decided.
    ///
    /// # Errors
    /// The store failed.
    pub async fn state(&self, model: &str) -> Result<Option<Serving>, StoreError> {
        let (_, all) = self.store.serving().await?;
        Ok(all.into_iter().find(|state| state.model == model))
    }

    /// How a revision, by its name in the ledger, did last on a gate's suite as it is now.
    ///
    /// # Errors
    /// The store failed.
    pub async fn last_try(
        &self,
        revision: &str,
        gate: &Gate,
    ) -> Result<Option<Evaluation>, StoreError> {
        let query = EvaluationQuery {
            model: None,
            revision: Some(revision.to_owned()),
            suite_version: Some(gate.version.clone()),
        };
        let last = Page {
            after: None,
            limit: 1,
        };
        Ok(self.store.evaluations(&query, &last).await?.pop())
    }

    /// Whether a revision, by its name in the ledger, may serve: its last evaluation on the gate's suite decides.
    ///
    /// # Errors
    /// It may not, or the store failed.
    pub async fn ask_gate(&self, revision: &str, gate: Option<&Gate>) -> Result<(), RolloutError> {
        let Some(gate) = gate else {
            return Ok(());
        };
        let last = self.last_try(revision, gate).await?;
        let revision = revision.to_owned();
        let Some(evaluation) = last else {
            return Err(RolloutError::NotEvaluated {
                revision,
                suite: gate.suite.clone(),
                bar: gate.bar,
            });
        };
        if evaluation.failed > 0 {
            return Err(RolloutError::Unanswered {
                revision,
                failed: evaluation.failed,
                suite: evaluation.suite,
            });
        }
        if evaluation.low < gate.bar {
            return Err(RolloutError::BelowBar {
                revision,
                evaluation: Box::new(evaluation),
                bar: gate.bar,
            });
        }
        Ok(())
    }

    /// Puts what the config says in the place of what serves, where it says another thing than when that was decided last, and the
    /// gate lets it. What was promoted or rolled back since stays as it is.
    ///
    /// # Errors
    /// The gate doesn't let it: then what served goes on serving.
    pub async fn follow(
        &self,
        standing: &Standing,
        revision: &StoredRevision,
    ) -> Result<bool, RolloutError> {
        self.store.define(revision).await?;
        loop {
            let state = self.state(&standing.model).await?;
            if state.is_some_and(|state| state.configured == revision.id) {
                return Ok(false);
            }
            match self.promote(standing, revision).await {
                Ok(_) => return Ok(true),
                // Another replica was faster, with the same config or another one.
                Err(RolloutError::Store(StoreError::InUse(_))) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// From now on this revision serves, if the gate lets it.
    ///
    /// # Errors
    /// The gate doesn't, or the store failed.
    pub async fn promote(
        &self,
        standing: &Standing,
        revision: &StoredRevision,
    ) -> Result<Serving, RolloutError> {
        standing.check_runs(&revision.id)?;
        let name = revision.definition.name();
        self.ask_gate(&name, standing.gate.as_ref()).await?;
        let state = self.state(&standing.model).await?;
        let serves = state.as_ref().map(|state| state.revision.clone());
        let previous = match serves {
            Some(serves) if serves == revision.id => {
                state.as_ref().and_then(|state| state.previous.clone())
            }
            other => other,
        };
        let next = Serving {
            model: standing.model.clone(),
            version: state.as_ref().map_or(0, |state| state.version) + 1,
            configured: match state {
                // What the config says may be another thing, which nobody has asked the gate about.
                Some(state) if revision.id != standing.configured => state.configured,
                _ => standing.configured.clone(),
            },
            revision: revision.id.clone(),
            previous,
            canary: None,
            shadow: None,
        };
        self.decide("model.promoted", next).await
    }

    /// What served before serves again, whatever its gate: it is what people knew.
    ///
    /// # Errors
    /// Nothing did, or the store failed.
    pub async fn roll_back(&self, standing: &Standing) -> Result<Serving, RolloutError> {
        let model = &standing.model;
        let state = self.state(model).await?;
        let none = || RolloutError::NoPrevious(model.clone());
        let state = state.ok_or_else(none)?;
        let previous = state.previous.ok_or_else(none)?;
        standing.check_runs(&previous)?;
        let next = Serving {
            version: state.version + 1,
            configured: state.configured,
            previous: Some(state.revision),
            revision: previous,
            canary: None,
            shadow: None,
            model: state.model,
        };
        self.decide("model.rolled_back", next).await
    }

    /// So many users of a hundred get another revision, if the gate lets it; none, where there is no share.
    ///
    /// # Errors
    /// The gate doesn't, the revision is what serves, or the store failed.
    pub async fn canary(
        &self,
        standing: &Standing,
        share: Option<(&StoredRevision, f64)>,
    ) -> Result<Serving, RolloutError> {
        if let Some((revision, _)) = share {
            let name = revision.definition.name();
            self.ask_gate(&name, standing.gate.as_ref()).await?;
        }
        let state = self.beside(standing, share).await?;
        let canary = share.map(shared);
        self.decide("model.canary", Serving { canary, ..state })
            .await
    }

    /// What so many users of a hundred ask is asked of another revision as well, and its answer thrown away; of none, where
    /// there is no share.
    ///
    /// # Errors
    /// The revision is what serves, or the store failed.
    pub async fn shadow(
        &self,
        standing: &Standing,
        share: Option<(&StoredRevision, f64)>,
    ) -> Result<Serving, RolloutError> {
        let state = self.beside(standing, share).await?;
        let shadow = share.map(shared);
        self.decide("model.shadow", Serving { shadow, ..state })
            .await
    }

    /// The next state, in which another revision stands beside what serves.
    async fn beside(
        &self,
        standing: &Standing,
        share: Option<(&StoredRevision, f64)>,
    ) -> Result<Serving, RolloutError> {
        let model = &standing.model;
        let state = self.state(model).await?;
        let mut state = state.ok_or_else(|| RolloutError::NothingServes(model.clone()))?;
        if let Some((revision, _)) = share
            && revision.id == state.revision
        {
            return Err(RolloutError::Serves {
                model: model.clone(),
                revision: revision.definition.name(),
            });
        }
        if let Some((revision, _)) = share {
            standing.check_runs(&revision.id)?;
        }
        state.version += 1;
        Ok(state)
    }

    async fn decide(&self, event: &'static str, next: Serving) -> Result<Serving, RolloutError> {
        let act = Act::Serve {
            event,
            next: next.clone(),
        };
        let organisation = Organisation::DEFAULT.into();
        self.store.act(&self.actor, &organisation, &act).await?;
        Ok(next)
    }
}

fn shared((revision, percent): (&StoredRevision, f64)) -> Share {
    Share {
        revision: revision.id.clone(),
        percent,
    }
}
