//! Workers by the addresses of a name, which come and go: a headless Service of Kubernetes, or any name in the DNS.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::name_server::TokioConnectionProvider;
use hickory_resolver::proto::xfer::Protocol;

use super::{Options, Remote};
use crate::worker::Worker;

/// That nobody is there is believed when it was said so often in a row.
const BELIEVED_AFTER: u32 = 3;
/// A name is asked for so long at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// What has changed behind a name.
pub enum Change {
    /// A worker has come.
    Join(Arc<dyn Worker>),
    /// The worker of this name has gone.
    Leave(String),
}

/// Looks up a worker's host again and again.
pub struct Discovery {
    options: Options,
    resolver: TokioResolver,
    every: Duration,
    known: BTreeSet<IpAddr>,
    asked: bool,
    /// How often in a row nobody was found: a server that fails says the same as one that knows of nobody.
    nobody: u32,
}

impl Discovery {
    /// Of the host in the options' URL; each address is a worker, named by the options' name and the address.
    ///
    /// # Errors
    /// The system's DNS configuration can't be read.
    pub fn new(options: Options, dns: Option<SocketAddr>, every: Duration) -> Result<Self, String> {
        let provider = TokioConnectionProvider::default();
        let mut builder = match dns {
            None => TokioResolver::builder(provider).map_err(|error| error.to_string())?,
            Some(server) => {
                let mut config = ResolverConfig::new();
                config.add_name_server(NameServerConfig::new(server, Protocol::Udp));
                config.add_name_server(NameServerConfig::new(server, Protocol::Tcp));
                TokioResolver::builder_with_config(config, provider)
            }
        };
        let resolving = builder.options_mut();
        // What is asked again shall be answered anew.
        resolving.cache_size = 0;
        resolving.timeout = PATIENCE;
        resolving.attempts = 1;
        Ok(Self {
            options,
            resolver: builder.build(),
            every,
            known: BTreeSet::new(),
            asked: false,
            nobody: 0,
        })
    }

    /// Waits for the next changes.
    pub async fn next(&mut self) -> Vec<Change> {
        loop {
            if self.asked {
                tokio::time::sleep(self.every).await;
            }
            self.asked = true;
            let Some(now) = self.look_up().await else {
                continue;
            };
            self.nobody = if now.is_empty() { self.nobody + 1 } else { 0 };
            if (1..BELIEVED_AFTER).contains(&self.nobody) {
                continue;
            }
            let changes = self.compare(now);
            if !changes.is_empty() {
                return changes;
            }
        }
    }

    /// The addresses of now; `None` where nobody could tell.
    async fn look_up(&self) -> Option<BTreeSet<IpAddr>> {
        let host = self.options.url.host().unwrap_or_default();
        let asked = tokio::time::timeout(PATIENCE, self.resolver.lookup_ip(host)).await;
        match asked {
            Ok(Ok(found)) => Some(found.iter().collect()),
            // There is nobody at the moment, which is an answer too.
            Ok(Err(error)) if error.is_no_records_found() || error.is_nx_domain() => {
                Some(BTreeSet::new())
            }
            Ok(Err(error)) => {
                tracing::warn!(host, %error, "the addresses could not be looked up");
                None
            }
            Err(_) => {
                tracing::warn!(host, "the addresses could not be looked up in time");
                None
            }
        }
    }

    fn compare(&mut self, now: BTreeSet<IpAddr>) -> Vec<Change> {
        let (mut changes, mut started) = (Vec::new(), Vec::new());
        for gone in self.known.difference(&now) {
            changes.push(Change::Leave(self.name_of(*gone)));
        }
        for new in now.difference(&self.known) {
            let options = Options {
                name: self.name_of(*new),
                address: Some(*new),
                ..self.options.clone()
            };
            match Remote::start(options) {
                Ok(worker) => {
                    started.push(*new);
                    changes.push(Change::Join(Arc::new(worker)));
                }
                Err(error) => tracing::error!(worker = self.options.name, error, "can't be used"),
            }
        }
        self.known = now.intersection(&self.known).copied().collect();
        self.known.extend(started);
        changes
    }

    fn name_of(&self, address: IpAddr) -> String {
        format!("{}@{address}", self.options.name)
    }
}
