//! Which revisions serve: what the config says, as far as their gates let it, and what was decided since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, ModelConfig};
use crate::eval::Suite;
use crate::gateway::Gateway;
use crate::router::{Auto, Gate, Rollout, RolloutError, Standing, Stored, Table};
use crate::types::{Actor, Serving, Store, StoredRevision};

/// A decision elsewhere takes effect here within this time, and a little.
const LOOK: Duration = Duration::from_secs(1);

/// What a config says of models, with all the files that it names as they were when it was read.
pub(crate) struct Site {
    config: Arc<Config>,
    gates: BTreeMap<String, Gate>,
    /// What each `[[model]]` is.
    revisions: Vec<StoredRevision>,
    auto: Option<Arc<Auto>>,
}

impl Site {
    pub(crate) fn read(config: &Config) -> Result<Self> {
        let revision = |model: &ModelConfig| {
            let definition = model.definition().map_err(Error::msg)?;
            Ok(StoredRevision {
                model: model.name.clone(),
                id: definition.id(),
                definition,
                made: Timestamp::now(),
            })
        };
        let revisions = config.models_named.iter().map(revision);
        Ok(Self {
            gates: gates(config)?,
            revisions: revisions.collect::<Result<_>>()?,
            auto: Auto::new(config).map_err(Error::msg)?.map(Arc::new),
            config: Arc::new(config.clone()),
        })
    }

    /// What each `[[model]]` is, as the config has it.
    pub(crate) fn revisions(&self) -> &[StoredRevision] {
        &self.revisions
    }

    /// What names mean, by what the store says serves.
    pub(crate) async fn table(&self, store: &dyn Store) -> Result<Table> {
        let (_, serving) = store.serving().await?;
        let definition = |one: &StoredRevision| (one.model.clone(), one.definition.clone());
        let stored = Stored {
            revisions: store.revisions().await?,
            serving,
            gates: self.gates.clone(),
            definitions: self.revisions.iter().map(definition).collect(),
            auto: self.auto.clone(),
        };
        Table::new(&self.config, &stored).map_err(Error::msg)
    }

    /// Asks the gates of what the config says anew, and gives what names mean after that.
    pub(super) async fn settle(&self, store: &dyn Store) -> Result<Table> {
        let rollout = Rollout {
            store,
            actor: Actor::Server,
        };
        for revision in &self.revisions {
            let standing = Standing {
                model: revision.model.clone(),
                configured: revision.id.clone(),
                gate: self.gates.get(&revision.model).cloned(),
                runnable: None,
            };
            let (model, id) = (&revision.model, &revision.id);
            match rollout.follow(&standing, revision).await {
                Ok(true) => tracing::info!(%model, revision = %id, "a revision serves"),
                Ok(false) => {}
                Err(RolloutError::Store(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(%model, revision = %id, %error, "its gate keeps it from serving: `forebay model promote` tries it");
                }
            }
        }
        self.table(store).await
    }
}

/// What each gate asks, with its suite as it is now.
fn gates(config: &Config) -> Result<BTreeMap<String, Gate>> {
    let mut gates = BTreeMap::new();
    for model in &config.models_named {
        if let Some(gate) = model.gate() {
            let suite = Suite::read(&gate.suite);
            let suite = suite
                .map_err(|error| Error::msg(format!("[[model]] {}: gate: {error}", model.name)))?;
            let gate = Gate {
                inputs: suite.inputs().into(),
                version: suite.version,
                suite: suite.name,
                bar: gate.bar,
            };
            gates.insert(model.name.clone(), gate);
        }
    }
    Ok(gates)
}

/// Which revisions there are, and which of them serve.
type Seen = (u64, Vec<Serving>);

/// Keeps what names mean as it was decided last, here or elsewhere.
pub(super) struct Following {
    gateway: Arc<Gateway>,
    /// What was read last that could be served.
    site: Site,
    /// The config, and each that comes in its place.
    configs: watch::Receiver<Arc<Config>>,
}

impl Following {
    pub(super) fn new(site: Site, gateway: &Arc<Gateway>) -> (watch::Sender<Arc<Config>>, Self) {
        let (sender, configs) = watch::channel(Arc::clone(&site.config));
        let following = Self {
            gateway: Arc::clone(gateway),
            site,
            configs,
        };
        (sender, following)
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let (mut known, mut failed) = (None, false);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = self.configs.changed() => self.read_again().await,
                () = tokio::time::sleep(LOOK) => {}
            }
            // A store that is away has changed nothing.
            let Ok(seen) = self.gateway.store.serving().await else {
                continue;
            };
            if known.as_ref() == Some(&seen) {
                continue;
            }
            match self.take_over(known.as_ref(), &seen).await {
                Ok(()) => (known, failed) = (Some(seen), false),
                // It is tried again until it is done, and told of once.
                Err(error) if !failed => {
                    tracing::error!("what serves could not be taken over yet: {error:#}");
                    failed = true;
                }
                Err(_) => {}
            }
        }
    }

    /// A config that can't be served changes nothing.
    async fn read_again(&mut self) {
        let config = Arc::clone(&self.configs.borrow_and_update());
        let settled = async {
            let site = tokio::task::spawn_blocking(move || Site::read(&config)).await??;
            let table = site.settle(&*self.gateway.store).await?;
            Ok::<_, Error>((site, table))
        };
        match settled.await {
            Ok((site, table)) => {
                let models = site.revisions.len();
                self.site = site;
                self.gateway.router.replace(table);
                tracing::info!(models, "the models of the config were read again");
            }
            Err(error) => tracing::error!("the models of the config stay as they were: {error:#}"),
        }
    }

    async fn take_over(&self, known: Option<&Seen>, seen: &Seen) -> Result<()> {
        let table = self.site.table(&*self.gateway.store).await?;
        self.gateway.router.replace(table);
        for state in &seen.1 {
            if known.is_some_and(|(_, known)| !known.contains(state)) {
                let (model, revision) = (&state.model, &state.revision);
                tracing::info!(%model, %revision, "other revisions serve");
            }
        }
        Ok(())
    }
}
