//! The wiring: a config becomes a running gateway, and a signal ends it in order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Api};
use crate::cli::model::{layouts_dir, trials_dir, weights_of};
use crate::config::{Config, EngineKind, WorkerConfig};
use crate::gateway::Gateway;
use crate::metering::{self, Metering};
use crate::router::Router;
use crate::scheduler::{self, Scheduler};
use crate::store;
use crate::telemetry::Metrics;
use crate::tenancy::{Admin, Limiter, Tenancy};
use crate::types::{
    Actor, Caller, Claim, Dimension, Ledger, Membership, Store, TenantStore, UsageQuery,
};
use crate::worker::{self, BertOptions, LlamaOptions, Worker};

/// The project that the bootstrap key pays from, and the key's public name.
const BOOTSTRAP_PROJECT: &str = "local";
const BOOTSTRAP_KEY: &str = "key_bootstrap";
/// Where projects are that name no other; a new store has it.
pub const DEFAULT_ORGANISATION: &str = "default";
/// A store that fails while the process ends is waited for no longer; what is in flight then is recovered
/// at the next start.
const LAST_COMMITS: Duration = Duration::from_secs(10);

/// Everything that runs.
struct App {
    api: Arc<Api>,
    writer: JoinHandle<()>,
    /// What looks after dead replicas, and gives back what isn't used of limits.
    background: (CancellationToken, [JoinHandle<()>; 2]),
    store: Arc<dyn Store>,
    _claim: Claim,
}

/// Serves until SIGTERM or Ctrl-C, then drains.
///
/// # Errors
/// A listener can't be bound, the store can't be opened, or the wiring fails.
pub async fn serve(config: Config) -> Result<()> {
    // Both are bound before anything is loaded: a port that is taken shows at once.
    let listener = bind("server", config.server.listen).await?;
    let metrics_listener = bind("metrics", config.metrics.listen).await?;
    let app = build(&config).await?;
    let limits = api::Limits {
        max_connections: config.server.max_connections,
        header_read_timeout: Duration::from_secs(config.server.header_read_timeout_s),
        drain: Duration::from_secs(config.server.drain_s),
    };
    tracing::info!(server = %config.server.listen, metrics = %config.metrics.listen, "listening");

    let stop = stop_signal()?;
    let drained = CancellationToken::new();
    let gateway = api::gateway_routes(Arc::clone(&app.api), config.server.max_body_bytes);
    let metrics = api::metrics_routes(Arc::clone(&app.api));
    tokio::join!(
        async {
            api::serve(listener, gateway, limits, stop.cancelled()).await;
            drained.cancel();
        },
        // Metrics are there to the end of the drain: that is when one wants to see them.
        api::serve(
            metrics_listener,
            metrics,
            api::Limits {
                drain: Duration::from_secs(1),
                ..limits
            },
            drained.cancelled()
        ),
    );
    app.close().await;
    tracing::info!("stopped");
    Ok(())
}

async fn bind(section: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("[{section}] listen = {address} can't be bound"))
}

/// Cancelled at the first signal.
fn stop_signal() -> Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("draining");
        told.cancel();
    });
    Ok(stop)
}

async fn build(config: &Config) -> Result<App> {
    let store = store::open(&config.store.url).await?;
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
    let stop = CancellationToken::new();
    let reaper = metering::reap(
        metering.clone(),
        Arc::clone(&ledger),
        Arc::clone(&membership),
        stop.clone(),
    );
    let limiter = Arc::new(Limiter::new(ledger, lease.map(|_| membership)));
    let tidy = Arc::clone(&limiter).tidy(stop.clone());
    let gateway = Gateway {
        tenancy: tenancy(config, &store).await?,
        limiter,
        router: Router::new(config).map_err(anyhow::Error::msg)?,
        scheduler: scheduler(config, &metrics)?,
        metering,
        metrics,
        store: Arc::clone(&store),
    };
    let api = Arc::new(Api {
        gateway,
        started: Timestamp::now(),
    });
    Ok(App {
        api,
        writer,
        background: (stop, [tokio::spawn(reaper), tokio::spawn(tidy)]),
        store,
        _claim: claim,
    })
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
    // Alone, nobody else can be alive.
    let recovered = store.recover(&replica, lease.unwrap_or_default()).await?;
    if !recovered.is_empty() {
        let rows = recovered.len();
        tracing::warn!(rows, "booked what a dead process left in flight");
    }
    store.join(&replica).await?;
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

fn scheduler(config: &Config, metrics: &Metrics) -> Result<Scheduler> {
    let workers = config
        .workers
        .iter()
        .map(|worker| Ok((Arc::from(worker.model.as_str()), start(worker, metrics)?)))
        .collect::<Result<_>>()?;
    let limits = scheduler::Limits {
        max_queue: config.scheduler.max_queue,
        queue_timeout: Duration::from_millis(config.scheduler.queue_timeout_ms),
    };
    Ok(Scheduler::new(workers, limits, metrics))
}

fn start(worker: &WorkerConfig, metrics: &Metrics) -> Result<Arc<dyn Worker>> {
    let options = options(worker)?;
    let metrics = metrics.worker(&worker.name);
    Ok(if worker.isolate {
        options.start_isolated(metrics)?
    } else {
        options.start(metrics)?
    })
}

fn options(worker: &WorkerConfig) -> Result<worker::Options> {
    let weights = weights(worker)?;
    let name = worker.name.clone();
    Ok(match worker.engine {
        EngineKind::Llama => worker::Options::Llama(LlamaOptions {
            name,
            weights,
            slots: worker.slots,
            context_tokens: worker.context_tokens,
            step_tokens: worker.step_tokens,
            prefill_percent: worker.prefill_percent,
            lookup: worker.lookup,
            cells: worker.kv_type,
            prefix_cache_mib: worker.prefix_cache_mib,
            adapters: worker.adapters,
            adapter_slots: worker.adapter_slots,
            layout: worker.layout,
            layouts: layouts_dir()?,
            trials: (!worker.isolate).then(trials_dir).transpose()?,
            tool_format: worker.tool_format,
            threads: worker.threads,
        }),
        EngineKind::Bert => worker::Options::Bert(BertOptions {
            name,
            weights,
            slots: worker.slots,
        }),
        EngineKind::Mistralrs => mistralrs(worker, weights)?,
    })
}

#[cfg(feature = "mistralrs")]
#[expect(clippy::unnecessary_wraps, reason = "without the feature it fails")]
fn mistralrs(worker: &WorkerConfig, weights: PathBuf) -> Result<worker::Options> {
    Ok(worker::Options::Mistral(worker::MistralOptions {
        name: worker.name.clone(),
        weights,
        slots: worker.slots,
        context_tokens: worker.context_tokens,
    }))
}

#[cfg(not(feature = "mistralrs"))]
fn mistralrs(worker: &WorkerConfig, _: PathBuf) -> Result<worker::Options> {
    anyhow::bail!(
        "worker {}: built without the feature `mistralrs`",
        worker.name
    )
}

fn weights(worker: &WorkerConfig) -> Result<PathBuf> {
    match &worker.weights {
        Some(path) => Ok(path.clone()),
        None => weights_of(&worker.model),
    }
}

impl App {
    /// Whatever holds a way into the ledger goes first, then the writer commits the last of it.
    async fn close(self) {
        let metrics = Arc::clone(&self.api.gateway.metrics);
        let (stop, tasks) = self.background;
        stop.cancel();
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
