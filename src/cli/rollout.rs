//! `forebay model promote` and the like: which revision of a model serves.

use std::io::{Write, stdout};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::asker::{Asker, GatewayArguments};
use super::eval::kept;
use crate::app::models::Site;
use crate::config::Config;
use crate::eval::{Report, Suite};
use crate::router::{Rollout, RolloutError, Router, Standing};
use crate::types::{Actor, Serving, Store, StoredRevision};

/// By then all running servers have looked into the store.
const FOLLOWED: Duration = Duration::from_secs(2);

#[derive(Subcommand)]
pub(super) enum RolloutCommand {
    /// Show the revisions of a model, which of them serve, and how they did on its gate's suite
    Revisions {
        /// The model
        model: String,
    },
    /// Let a revision serve, once it meets the model's gate: it is tried on the gate's suite if it wasn't yet
    Promote {
        /// The model
        model: String,
        /// The beginning of a revision's id [default: what the config says]
        #[arg(long, value_name = "ID")]
        revision: Option<String>,
        /// Try it anew, though it was tried
        #[arg(long)]
        again: bool,
        #[command(flatten)]
        gateway: GatewayArguments,
    },
    /// Let what served before serve again
    Rollback {
        /// The model
        model: String,
    },
    /// Give some users another revision, always the same users
    Canary(ShareArguments),
    /// Ask another revision beside what serves, and throw its answers away
    Shadow(ShareArguments),
}

#[derive(Args)]
pub(super) struct ShareArguments {
    /// The model
    model: String,
    /// So many users of a hundred; 0 ends it
    #[arg(long)]
    percent: f64,
    /// The beginning of a revision's id [default: what the config says]
    #[arg(long, value_name = "ID")]
    revision: Option<String>,
}

pub(super) async fn run(
    command: &RolloutCommand,
    config: &Config,
    store: &dyn Store,
) -> Result<()> {
    let here = Here {
        config,
        rollout: Rollout {
            store,
            actor: Actor::CommandLine,
        },
    };
    match command {
        RolloutCommand::Revisions { model } => here.list(model).await,
        RolloutCommand::Promote {
            model,
            revision,
            again,
            gateway,
        } => {
            let (standing, revision) = here.find(model, revision.as_deref()).await?;
            here.promote(&standing, &revision, *again, gateway).await
        }
        RolloutCommand::Rollback { model } => {
            let (standing, _) = here.find(model, None).await?;
            let state = here.rollout.roll_back(&standing).await?;
            told(&state).await;
            Ok(())
        }
        RolloutCommand::Canary(arguments) => {
            let (standing, revision) = here.share(arguments).await?;
            let share = revision.as_ref().map(|one| (one, arguments.percent));
            let state = here.rollout.canary(&standing, share).await?;
            told(&state).await;
            Ok(())
        }
        RolloutCommand::Shadow(arguments) => {
            let (standing, revision) = here.share(arguments).await?;
            let share = revision.as_ref().map(|one| (one, arguments.percent));
            let state = here.rollout.shadow(&standing, share).await?;
            told(&state).await;
            Ok(())
        }
    }
}

struct Here<'a> {
    config: &'a Config,
    rollout: Rollout<'a>,
}

impl Here<'_> {
    /// A model as the config has it, and a revision of it: that of the config, where none is named.
    async fn find(&self, model: &str, id: Option<&str>) -> Result<(Standing, StoredRevision)> {
        let site = Site::read(self.config)?;
        let own = site.revisions().iter().find(|one| one.model == model);
        let own = own.ok_or_else(|| anyhow!("the config has no [[model]] {model:?}"))?;
        self.rollout.store.define(own).await?;
        let table = site.table(self.rollout.store).await?;
        let mut standings = Router::from(table).standings().into_iter();
        let standing = standings.find(|one| one.model == model);
        let standing = standing.context("its table has no such model")?;
        let revision = match id {
            Some(id) => self.rollout.find(model, id).await?,
            None => own.clone(),
        };
        Ok((standing, revision))
    }

    async fn share(
        &self,
        arguments: &ShareArguments,
    ) -> Result<(Standing, Option<StoredRevision>)> {
        let percent = arguments.percent;
        ensure!(
            (0.0..=100.0).contains(&percent),
            "--percent must be between 0 and 100"
        );
        let (standing, revision) = self
            .find(&arguments.model, arguments.revision.as_deref())
            .await?;
        Ok((standing, (percent > 0.0).then_some(revision)))
    }

    async fn promote(
        &self,
        standing: &Standing,
        revision: &StoredRevision,
        again: bool,
        gateway: &GatewayArguments,
    ) -> Result<()> {
        let name = revision.definition.name();
        let asked = self.rollout.ask_gate(&name, standing.gate.as_ref()).await;
        let untried = matches!(asked, Err(RolloutError::NotEvaluated { .. }));
        if untried || (again && standing.gate.is_some()) {
            self.evaluate(standing, revision, gateway).await?;
        }
        match self.rollout.promote(standing, revision).await {
            Ok(state) => {
                told(&state).await;
                Ok(())
            }
            Err(error) => {
                let serves = self.rollout.state(&standing.model).await?;
                match serves {
                    Some(state) => bail!("{error}; {} goes on serving", state.revision),
                    None => bail!("{error}; nothing serves {}", standing.model),
                }
            }
        }
    }

    /// Tries a revision on its gate's suite.
    async fn evaluate(
        &self,
        standing: &Standing,
        revision: &StoredRevision,
        gateway: &GatewayArguments,
    ) -> Result<()> {
        let model = self
            .config
            .models_named
            .iter()
            .find(|one| one.name == standing.model);
        let Some(gate) = model.and_then(|model| model.gate()) else {
            return Ok(());
        };
        let suite = Suite::read(&gate.suite).map_err(|error| anyhow!(error))?;
        let asker = Asker::new(gateway, self.config)?;
        let name = format!("{}@{}", standing.model, revision.id);
        let run = tokio::task::block_in_place(|| {
            asker.await_revision(&name)?;
            asker.run(&suite, &name)
        });
        let report = Report::new(&suite, Timestamp::now(), vec![run?]);
        for evaluation in kept(&report)? {
            let expected = revision.definition.name();
            ensure!(
                evaluation.revision == expected,
                "the server answered by {:?}, not by {expected:?}",
                evaluation.revision
            );
            self.rollout.store.evaluated(&evaluation).await?;
            eprintln!(
                "{name} has {:.3} ({:.3} to {:.3}) on {}",
                evaluation.score, evaluation.low, evaluation.high, evaluation.suite
            );
        }
        Ok(())
    }

    async fn list(&self, model: &str) -> Result<()> {
        let (standing, own) = self.find(model, None).await?;
        let state = self.rollout.state(model).await?;
        let all = self.rollout.store.revisions().await?;
        let mut out = stdout().lock();
        for one in all.iter().filter(|one| one.model == model) {
            let tried = match &standing.gate {
                Some(gate) => self.rollout.last_try(&one.definition.name(), gate).await?,
                None => None,
            };
            let tried = tried.map_or_else(
                || "not tried".to_owned(),
                |tried| format!("{:.3} ({:.3} to {:.3})", tried.score, tried.low, tried.high),
            );
            let roles = roles(one, &own, state.as_ref());
            let made = one.made.strftime("%Y-%m-%d %H:%M:%SZ");
            writeln!(
                out,
                "{}  {made}  {tried}  {}  {roles}",
                one.id,
                one.definition.name()
            )?;
        }
        Ok(())
    }
}

/// What a revision is to its model now.
fn roles(one: &StoredRevision, own: &StoredRevision, state: Option<&Serving>) -> String {
    let mut roles = Vec::new();
    if let Some(state) = state {
        let share = |name: &str, share: &Option<crate::types::Share>| {
            let share = share.as_ref().filter(|share| share.revision == one.id)?;
            Some(format!("{name} {}%", share.percent))
        };
        roles.extend((state.revision == one.id).then(|| "serves".to_owned()));
        roles.extend((state.previous.as_ref() == Some(&one.id)).then(|| "previous".to_owned()));
        roles.extend(share("canary", &state.canary));
        roles.extend(share("shadow", &state.shadow));
    }
    roles.extend((own.id == one.id).then(|| "in the config".to_owned()));
    roles.join(", ")
}

async fn told(state: &Serving) {
    let share = |share: &Option<crate::types::Share>| {
        share.as_ref().map_or_else(String::new, |share| {
            format!("{} for {}%", share.revision, share.percent)
        })
    };
    let mut line = format!("{}: {} serves", state.model, state.revision);
    for (name, share) in [
        ("canary", share(&state.canary)),
        ("shadow", share(&state.shadow)),
    ] {
        if !share.is_empty() {
            line += &format!(", {name} {share}");
        }
    }
    // Servers look into the store each second: what is asked after this command is asked of that revision.
    tokio::time::sleep(FOLLOWED).await;
    eprintln!("{line}");
}
