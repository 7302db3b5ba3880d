//! The two servers of a scenario.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Map;

use super::{Args, Pair, SETTLE, driver};
use crate::{
    forebay::{self, Settings},
    peer,
    process::{Process, Scratch},
    prompt,
    target::Target,
};

const WARM_UP_CONCURRENCY: usize = 4;
const WARM_UP_TOKENS: u32 = 32;
const KEY: &str = "fb-local";
/// The default of a server that nobody tuned.
const PREFIX_CACHE_MIB: u32 = 1024;

/// What both servers are told alike.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) slots: usize,
    /// Of each slot.
    pub(crate) context_tokens: u32,
    /// Whether a prompt may be cheaper for an earlier one that begins like it.
    pub(crate) prompt_cache: bool,
}

pub(super) struct Servers {
    pub(super) setup: Setup,
    targets: Pair<Target>,
    processes: Pair<Process>,
}

impl Servers {
    /// One after another, so that neither disturbs the other's choice of a layout.
    pub(super) async fn start(
        args: &Args,
        setup: Setup,
        weights: &Path,
        scratch: &Scratch,
    ) -> Result<Self> {
        let model = &args.weights.model;
        let settings = Settings {
            model,
            weights,
            slots: setup.slots,
            context_tokens: setup.context_tokens,
            prefix_cache_mib: if setup.prompt_cache {
                PREFIX_CACHE_MIB
            } else {
                0
            },
            key: KEY,
        };
        let forebay = forebay::Server::start(&args.forebay_bin, &settings, scratch).await?;
        let (peer_url, peer) = peer::start(&args.peer, weights, setup, scratch).await?;
        let cache = [("cache_prompt".to_owned(), setup.prompt_cache.into())];
        let servers = Self {
            setup,
            targets: Pair {
                peer: Target {
                    url: peer_url,
                    key: None,
                    model: model.clone(),
                    extra: Map::from_iter(cache),
                },
                forebay: Target {
                    url: forebay.url,
                    key: Some(KEY.to_owned()),
                    model: model.clone(),
                    extra: Map::new(),
                },
            },
            processes: Pair {
                peer,
                forebay: forebay.process,
            },
        };
        servers.warm_up(args.seed).await?;
        Ok(servers)
    }

    /// The first batches pay for memory and pages that later ones find. A server that can't answer
    /// at all is found here too, before minutes go by.
    async fn warm_up(&self, seed: u64) -> Result<()> {
        for (name, target) in self.targets.named() {
            let prompts = prompt::mixed(!seed, 0, 0, 2 * WARM_UP_CONCURRENCY);
            let sample = driver::run(target, &prompts, WARM_UP_CONCURRENCY, WARM_UP_TOKENS);
            let sample = sample.await.with_context(|| format!("{name}: warm-up"))?;
            ensure!(
                sample.answers > 0,
                "{name} answers nothing: {}",
                sample.failures.join("; ")
            );
        }
        Ok(())
    }

    /// Loads one server, then the other; in every second round the other way about.
    pub(super) async fn in_turn<T>(
        &self,
        round: u64,
        load: impl AsyncFn(&Target) -> Result<T>,
    ) -> Pair<Result<T>> {
        let load = async |target| {
            tokio::time::sleep(SETTLE).await;
            load(target).await
        };
        let Pair { peer, forebay } = self.targets.as_ref();
        if round.is_multiple_of(2) {
            let peer = load(peer).await;
            let forebay = load(forebay).await;
            Pair { peer, forebay }
        } else {
            let forebay = load(forebay).await;
            let peer = load(peer).await;
            Pair { peer, forebay }
        }
    }

    pub(super) fn check_alive(&mut self) -> Result<()> {
        self.processes.peer.check_alive()?;
        self.processes.forebay.check_alive()
    }

    pub(super) async fn stop(self) -> Result<()> {
        self.processes.peer.stop().await?;
        self.processes.forebay.stop().await
    }
}
