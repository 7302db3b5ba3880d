//! Which revisions serve: what the config says, as far as their gates let it, and what was decided since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::eval::Suite;
use crate::gateway::Gateway;
use crate::router::{Gate, Rollout, RolloutError, Standing, Stored, Table};
use crate::types::{Actor, Serving, Store, StoredRevision};

/// A decision elsewhere takes effect here within this time, and a little.
const LOOK: Duration = Duration::from_secs(1);

/// The gates of a config's models.
pub(crate) type Gates = BTreeMap<String, Gate>;

/// What each gate asks, with its suite as it is now.
pub(crate) fn gates(config: &Config) -> Result<Gates> {
    let mut gates = Gates::new();
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

/// What the config says of each `[[model]]`.
pub(crate) fn configured(
    config: &Config,
    gates: &Gates,
) -> Result<Vec<(Standing, StoredRevision)>> {
    let model = |model: &crate::config::ModelConfig| {
        let definition = model.definition().map_err(Error::msg)?;
        let revision = StoredRevision {
            model: model.name.clone(),
            id: definition.id(),
            definition,
            made: Timestamp::now(),
        };
        let standing = Standing {
            model: model.name.clone(),
            configured: revision.id.clone(),
            gate: gates.get(&model.name).cloned(),
        };
        Ok((standing, revision))
    };
    config.models_named.iter().map(model).collect()
}

/// Asks the gates of what the config says anew, and gives what names mean after that.
pub(super) async fn settle(config: &Config, gates: &Gates, store: &dyn Store) -> Result<Table> {
    let rollout = Rollout {
        store,
        actor: Actor::Server,
    };
    for (standing, revision) in configured(config, gates)? {
        let (model, id) = (&standing.model, &revision.id);
        match rollout.follow(&standing, &revision).await {
            Ok(true) => tracing::info!(%model, revision = %id, "a revision serves"),
            Ok(false) => {}
            Err(RolloutError::Store(error)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%model, revision = %id, %error, "its gate keeps it from serving: `forebay model promote` tries it");
            }
        }
    }
    let stored = look(gates, store).await?;
    Table::new(config, &stored).map_err(Error::msg)
}

async fn look(gates: &Gates, store: &dyn Store) -> Result<Stored> {
    let (_, serving) = store.serving().await?;
    Ok(Stored {
        revisions: store.revisions().await?,
        serving,
        gates: gates.clone(),
    })
}

/// Keeps what names mean as it was decided last, here or elsewhere.
pub(super) struct Following {
    gateway: Arc<Gateway>,
    gates: Gates,
    /// The config, and each that comes in its place.
    configs: watch::Receiver<Arc<Config>>,
}

impl Following {
    pub(super) fn new(
        config: &Config,
        gates: Gates,
        gateway: &Arc<Gateway>,
    ) -> (watch::Sender<Arc<Config>>, Self) {
        let (sender, configs) = watch::channel(Arc::new(config.clone()));
        let following = Self {
            gateway: Arc::clone(gateway),
            gates,
            configs,
        };
        (sender, following)
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut known = None;
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
            if known.as_ref() != Some(&seen) {
                self.take_over(known.as_ref(), &seen).await;
                known = Some(seen);
            }
        }
    }

    /// A config that can't be served changes nothing.
    async fn read_again(&mut self) {
        let config = Arc::clone(&self.configs.borrow_and_update());
        let settled = async {
            let gates = gates(&config)?;
            let table = settle(&config, &gates, &*self.gateway.store).await?;
            Ok::<_, Error>((gates, table))
        };
        match settled.await {
            Ok((gates, table)) => {
                let models = config.models_named.len();
                self.gates = gates;
                self.gateway.router.replace(table);
                tracing::info!(models, "the models of the config were read again");
            }
            Err(error) => tracing::error!("the models of the config stay as they were: {error:#}"),
        }
    }

    async fn take_over(&self, known: Option<&(u64, Vec<Serving>)>, seen: &(u64, Vec<Serving>)) {
        let config = Arc::clone(&self.configs.borrow());
        let table = async {
            let stored = look(&self.gates, &*self.gateway.store).await?;
            Table::new(&config, &stored).map_err(Error::msg)
        };
        match table.await {
            Ok(table) => self.gateway.router.replace(table),
            Err(error) => {
                tracing::error!("what serves could not be taken over: {error:#}");
                return;
            }
        }
        for state in &seen.1 {
            let before = known.is_none_or(|(_, known)| known.contains(state));
            if !before {
                let (model, revision) = (&state.model, &state.revision);
                tracing::info!(%model, %revision, "other revisions serve");
            }
        }
    }
}
