//! The wiring: a config becomes a running gateway, and a signal ends it in order.

pub(crate) mod models;
mod wiring;
mod workers;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::config::{Config, ServerTlsConfig};
use crate::store;
use wiring::{App, edge};

/// Where projects are that name no other; a new store has it.
pub const DEFAULT_ORGANISATION: &str = "default";

/// Serves until SIGTERM or Ctrl-C, then drains. At SIGHUP the `[[model]]` of the file are read again.
///
/// # Errors
/// A listener can't be bound, the store can't be opened, or the wiring fails.
pub async fn serve(config: Config, path: &Path) -> Result<()> {
    // Both are bound before anything is loaded: a port that is taken shows at once.
    let listener = bind("server", config.server.listen).await?;
    let metrics_listener = bind("metrics", config.metrics.listen).await?;
    let certificate = certificate(config.server.tls.as_ref())?;
    let store = store::open_with(&config.store.url, config.ledger.durability).await?;
    let app = App::build(&config, store, |metrics| workers::start(&config, metrics)).await?;
    let limits = api::Limits {
        max_connections: config.server.max_connections,
        header_read_timeout: Duration::from_secs(config.server.header_read_timeout_s),
        drain: Duration::from_secs(config.server.drain_s),
    };
    tracing::info!(server = %config.server.listen, metrics = %config.metrics.listen, "listening");

    let stop = stop_signal()?;
    let mut again = signal(SignalKind::hangup())?;
    let door = api::Door {
        listener,
        tls: follow(certificate, &stop)?,
    };
    let metrics_door = api::Door {
        listener: metrics_listener,
        tls: None,
    };
    let drained = CancellationToken::new();
    let gateway = api::gateway_routes(Arc::clone(&app.api), &edge(&config));
    let metrics = api::metrics_routes(Arc::clone(&app.api));
    tokio::join!(
        // Lines of batches end while clients' answers do.
        async {
            stop.cancelled().await;
            app.api.batches.stop();
        },
        async {
            let read = || read_again(&config, path, &app);
            while let Some(Some(())) = stop.run_until_cancelled(again.recv()).await {
                read();
            }
        },
        async {
            api::serve(door, gateway, limits, stop.cancelled()).await;
            drained.cancel();
        },
        // Metrics are there to the end of the drain: that is when one wants to see them.
        api::serve(
            metrics_door,
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

fn certificate(config: Option<&ServerTlsConfig>) -> Result<Option<api::Certificate>> {
    let read = |tls: &ServerTlsConfig| api::Certificate::read(&tls.cert, &tls.key);
    let certificate = config.map(read).transpose();
    certificate.map_err(|error| anyhow!("[server.tls] {error}"))
}

/// What speaks TLS with this certificate, and with those that come after it.
fn follow(
    certificate: Option<api::Certificate>,
    stop: &CancellationToken,
) -> Result<Option<TlsAcceptor>> {
    let Some(certificate) = certificate else {
        return Ok(None);
    };
    let acceptor = certificate.acceptor().map_err(Error::msg)?;
    tokio::spawn(certificate.follow(stop.clone()));
    Ok(Some(acceptor))
}

/// Takes over the models of the file as it is now.
fn read_again(config: &Config, path: &Path, app: &App) {
    match Config::load(path).and_then(|new| config.with_models_of(new)) {
        Ok(new) => app.read_again(new),
        Err(error) => tracing::error!(%error, "the models of the config stay as they were"),
    }
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
