//! Key -> [`Caller`]: who asks, and who pays.

mod keys;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use keys::{create_key, create_project, ensure_project};

use crate::types::{Caller, SecretHash, StoreError, TenantStore};

/// How long a key that was found is taken for good: changes reach every process within it.
const CACHE_FOR: Duration = Duration::from_secs(2);
/// Keys that are remembered at once; beyond it the stale ones are swept out.
const CACHE_KEYS: usize = 10_000;

/// Why a key is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody has this key.
    #[error("no such key")]
    UnknownKey,
    /// It can't be looked up at the moment.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Knows the keys.
pub struct Tenancy {
    store: Arc<dyn TenantStore>,
    bootstrap: Option<(SecretHash, Caller)>,
    known: DashMap<SecretHash, (Caller, Instant)>,
}

impl Tenancy {
    /// Looks keys up in a store. The bootstrap key, where there is one, needs none.
    #[must_use]
    pub fn new(store: Arc<dyn TenantStore>, bootstrap: Option<(&str, Caller)>) -> Self {
        Self {
            store,
            bootstrap: bootstrap.map(|(secret, caller)| (hash(secret), caller)),
            known: DashMap::new(),
        }
    }

    /// Who holds this secret.
    ///
    /// # Errors
    /// Nobody, or the store failed.
    pub async fn authenticate(&self, secret: &str) -> Result<Caller, Error> {
        let hash = hash(secret);
        if let Some((bootstrap, caller)) = &self.bootstrap
            && bool::from(bootstrap.ct_eq(&hash))
        {
            return Ok(caller.clone());
        }
        if let Some(caller) = self.remembered(&hash) {
            return Ok(caller);
        }
        let (key, project) = self.store.find_key(&hash).await?.ok_or(Error::UnknownKey)?;
        let caller = Caller { project, key };
        self.remember(hash, caller.clone());
        Ok(caller)
    }

    fn remembered(&self, hash: &SecretHash) -> Option<Caller> {
        let entry = self.known.get(hash)?;
        let (caller, since) = entry.value();
        (since.elapsed() < CACHE_FOR).then(|| caller.clone())
    }

    fn remember(&self, hash: SecretHash, caller: Caller) {
        if self.known.len() >= CACHE_KEYS {
            self.known
                .retain(|_, (_, since)| since.elapsed() < CACHE_FOR);
        }
        if self.known.len() < CACHE_KEYS {
            self.known.insert(hash, (caller, Instant::now()));
        }
    }
}

/// Secrets have 285 bits of chance in them: a plain hash can't be turned back, and needs no salt.
fn hash(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests;
