//! A config, a store and workers become a running gateway, and it is taken down in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::DEFAULT_ORGANISATION;
use super::models::{Following, Site};
use crate::api::{self, Api, InnerDoor};
use crate::batch::{self, Batches};
use crate::config::{Config, WorkerConfig};
use crate::files;
use crate::gateway::{Gateway, Verticals};
use crate::metering::{self, Metering};
use crate::router::Router;
use crate::scheduler::{self, Assigned, Scheduler};
use crate::telemetry::Metrics;
use crate::tenancy::{Admin, Limiter, Notices, Tenancy, Webhook};
use crate::types::{
    Actor, Caller, Claim, Dimension, Ledger, Membership, Store, TenantStore, UsageQuery,
};
use crate::worker::{Change, Discovery};

/// The project that the bootstrap key pays from, and the key's public name.
const BOOTSTRAP_PROJECT: &str = "local";
const BOOTSTRAP_KEY: &str = "key_bootstrap";
/// A store that fails while the process ends is waited for no longer; what is in flight then is recovered
/// at the next start.
const LAST_COMMITS: Duration = Duration::from_secs(10);

/// Workers, each with the pools that it serves.
#[derive(Default)]
pub(super) struct Workers {
    /// Those that are there from the start.
    pub(super) fixed: Vec<Assigned>,
    /// Where others are looked for.
    pub(super) found: Vec<(Vec<Arc<str>>, Discovery)>,
}

/// Everything that runs.
pub(super) struct App {
    pub(super) api: Arc<Api>,
    pub(super) writer: JoinHandle<()>,
    /// What looks after dead replicas, limits, counters and notices.
    background: (CancellationToken, Vec<JoinHandle<()>>),
    pub(super) store: Arc<dyn Store>,
    configs: watch::Sender<Arc<Config>>,
    _claim: Claim,
}

impl App {
    /// Takes the store over, books what is left of the dead in it, and starts the workers.
    pub(super) async fn build(
        config: &Config,
        store: Arc<dyn Store>,
        start: impl FnOnce(&Metrics) -> Result<Workers>,
    ) -> Result<Self> {
        let claim = store.claim()?;
        let metrics = Arc::new(Metrics::new()?);
        let lease = (!claim.exclusive).then(|| Duration::from_secs(config.ledger.lease_s));
        let membership = join(config, &*store, &metrics, lease).await?;
        let options = metering::Options {
            max_open: config.ledger.max_open,
            hold: Duration::from_millis(config.ledger.hold_ms),
            lease,
        };
        let ledger = Arc::clone(&store) as Arc<dyn Ledger>;
        let (metering, writer) = Metering::start(
            Arc::clone(&ledger),
            Arc::clone(&membership),
            Arc::clone(&metrics),
            &options,
        );
        let limiter = Arc::new(Limiter::new(
            Arc::clone(&ledger),
            lease.map(|_| Arc::clone(&membership)),
        ));
        let stop = CancellationToken::new();
        let notices = notices(config, &store, &metrics)?;
        let mut background = vec![
            tokio::spawn(Arc::clone(&limiter).tidy(stop.clone())),
            tokio::spawn(notices.run(stop.clone())),
        ];
        let alone = claim.exclusive;
        background.extend(upkeep(
            &metering, ledger, membership, &metrics, alone, &stop,
        ));
        let site = Site::read(config)?;
        let table = site.settle(&*store).await?;
        let (scheduler, tending) = schedule(config, start(&metrics)?, &metrics, &stop);
        background.extend(tending);
        let gateway = Gateway {
            tenancy: tenancy(config, &store).await?,
            limiter,
            router: Router::from(table),
            scheduler,
            retries: config.scheduler.retries,
            hedge_after: config.scheduler.hedge_after_ms.map(Duration::from_millis),
            metering,
            metrics,
            store: Arc::clone(&store),
            verticals: Verticals::default(),
        };
        let gateway = Arc::new(gateway);
        let (configs, following) = Following::new(site, &gateway);
        background.push(tokio::spawn(following.run(stop.clone())));
        let api = Arc::new(Api {
            gateway,
            batches: Arc::new(batches(config)),
            files: config.files.clone(),
            started: Timestamp::now(),
        });
        let runner = runner(config, &api, claim.exclusive);
        background.push(tokio::spawn(runner.run()));
        background.push(tokio::spawn(files::sweep(Arc::clone(&store), stop.clone())));
        Ok(Self {
            api,
            writer,
            background: (stop, background),
            store,
            configs,
            _claim: claim,
        })
    }

    /// From now on models are what this config says, as far as their gates let it.
    pub(super) fn read_again(&self, config: Config) {
        self.configs.send_replace(Arc::new(config));
    }

    /// Whatever holds a way into the ledger goes first, then the writer commits the last of it.
    pub(super) async fn close(self) {
        let metrics = Arc::clone(&self.api.gateway.metrics);
        let (stop, tasks) = self.background;
        stop.cancel();
        self.api.batches.stop();
        for task in tasks {
            if task.await.is_err() {
                tracing::error!("a task in the background had a fault");
            }
        }
        // The engines' threads are joined on drop, which blocks.
        let dropped = tokio::task::spawn_blocking(move || drop(self.api)).await;
        if dropped.is_err() {
            tracing::error!("the gateway could not be taken down in order");
        }
        if tokio::time::timeout(LAST_COMMITS, self.writer)
            .await
            .is_err()
        {
            let pending = metrics.ledger.pending.get();
            tracing::error!(
                pending,
                "the store takes no commits: what had its checkpoint is booked at the next start"
            );
        }
        self.store.close().await;
    }
}

/// What keeps the books in order.
fn upkeep(
    metering: &Metering,
    ledger: Arc<dyn Ledger>,
    membership: Arc<Membership>,
    metrics: &Arc<Metrics>,
    alone: bool,
    stop: &CancellationToken,
) -> [JoinHandle<()>; 2] {
    let reap = metering::reap(
        metering.clone(),
        Arc::clone(&ledger),
        Arc::clone(&membership),
        stop.clone(),
    );
    let told = Arc::clone(metrics);
    let audit = metering::audit(ledger, membership, alone, told, stop.clone());
    [tokio::spawn(reap), tokio::spawn(audit)]
}

/// How clients are met.
pub(super) fn edge(config: &Config) -> api::Edge {
    api::Edge {
        max_body_bytes: config.server.max_body_bytes,
        cors_origins: config.server.cors_origins.clone(),
    }
}

fn notices(config: &Config, store: &Arc<dyn Store>, metrics: &Arc<Metrics>) -> Result<Notices> {
    let webhook = Webhook::new(&config.webhook).map_err(anyhow::Error::msg)?;
    Ok(Notices::new(
        Arc::clone(store),
        webhook,
        Arc::clone(metrics),
    ))
}

fn batches(config: &Config) -> Batches {
    Batches::new(batch::Options {
        window: Duration::from_secs(config.batches.window_s.into()),
        max_lines: config.batches.max_lines,
        lines_at_once: config.batches.lines_at_once,
        drain: Duration::from_secs(config.server.drain_s),
    })
}

/// What runs batches, through the routes that clients reach.
fn runner(config: &Config, api: &Arc<Api>, alone: bool) -> batch::Runner {
    let routes = api::gateway_routes(Arc::clone(api), &edge(config));
    batch::Runner::new(
        Arc::clone(&api.gateway.store),
        Arc::new(InnerDoor::new(Arc::clone(api), routes)),
        Arc::clone(&api.batches),
        Arc::clone(&api.gateway.metrics),
        alone,
    )
}

/// Books what is left of the dead, and goes on counting where the last life of this replica ended.
async fn join(
    config: &Config,
    store: &dyn Store,
    metrics: &Metrics,
    lease: Option<Duration>,
) -> Result<Arc<Membership>> {
    let name = config.ledger.replica.clone().unwrap_or_else(host_name);
    let membership = Membership::new(name);
    let replica = membership.now();
    store.join(&replica).await?;
    // Alone, nobody else can be alive.
    if lease.is_none() {
        store.lose_keys().await?;
    }
    let recovered = store.recover(&replica, lease.unwrap_or_default()).await?;
    if !recovered.is_empty() {
        let rows = recovered.len();
        tracing::warn!(rows, "booked what a dead process left in flight");
    }
    let own = UsageQuery {
        group_by: vec![Dimension::State, Dimension::Model],
        // Where there is one process at a time, whatever was booked is its own.
        replica: lease.map(|_| replica.name.clone()),
        absorbed: true,
        ..UsageQuery::default()
    };
    metrics.rehydrate(&store.usage(&own).await?);
    Ok(Arc::new(membership))
}

fn host_name() -> String {
    let system = rustix::system::uname();
    system.nodename().to_string_lossy().into_owned()
}

async fn tenancy(config: &Config, store: &Arc<dyn Store>) -> Result<Tenancy> {
    let bootstrap = match &config.tenancy.bootstrap_key {
        Some(secret) => Some((secret.as_str(), bootstrap_caller(&**store).await?)),
        None => None,
    };
    Ok(Tenancy::new(
        Arc::clone(store) as Arc<dyn TenantStore>,
        bootstrap,
    ))
}

async fn bootstrap_caller(store: &dyn TenantStore) -> Result<Caller> {
    let admin = Admin {
        store,
        actor: Actor::Server,
    };
    let organisation = store.find_organisation(DEFAULT_ORGANISATION).await?.id;
    let project = admin
        .ensure_project(&organisation, BOOTSTRAP_PROJECT)
        .await?;
    Ok(Caller {
        organisation: project.organisation,
        project: project.id,
        key: BOOTSTRAP_KEY.into(),
    })
}

/// The scheduler, and what looks after it.
fn schedule(
    config: &Config,
    workers: Workers,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> (Arc<Scheduler>, Vec<JoinHandle<()>>) {
    let scheduler = Arc::new(scheduler(config, workers.fixed, metrics));
    let mut tasks = vec![tokio::spawn(Arc::clone(&scheduler).tend(stop.clone()))];
    for (pools, discovery) in workers.found {
        let following = follow(discovery, pools, Arc::clone(&scheduler), stop.clone());
        tasks.push(tokio::spawn(following));
    }
    (scheduler, tasks)
}

/// Lets workers join and leave as they come and go.
async fn follow(
    mut discovery: Discovery,
    pools: Vec<Arc<str>>,
    scheduler: Arc<Scheduler>,
    stop: CancellationToken,
) {
    while let Some(changes) = stop.run_until_cancelled(discovery.next()).await {
        for change in changes {
            match change {
                Change::Join(worker) => scheduler.join(Assigned {
                    pools: pools.clone(),
                    worker,
                }),
                Change::Leave(worker) => scheduler.leave(&worker),
            }
        }
    }
}

fn scheduler(config: &Config, workers: Vec<Assigned>, metrics: &Metrics) -> Scheduler {
    let limits = scheduler::Limits {
        max_queue: config.scheduler.max_queue,
        max_queue_per_tenant: config.scheduler.queue_per_project(),
        queue_timeout: Duration::from_millis(config.scheduler.queue_timeout_ms),
        promote_after: Duration::from_millis(config.scheduler.promote_after_ms),
        slow_start: Duration::from_millis(config.scheduler.slow_start_ms),
    };
    let models = config.workers.iter().flat_map(WorkerConfig::models);
    let pools: Vec<Arc<str>> = models.map(|name| Arc::from(&**name)).collect();
    Scheduler::new(&pools, workers, limits, metrics)
}
