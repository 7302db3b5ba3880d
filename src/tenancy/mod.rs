//! Key -> who asks: a tenant with its limits, or an administrator.

mod admin;
mod limiter;
mod notices;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

pub use admin::{Admin, KeyWish, Made};
pub use limiter::{
    Limiter, Meter, Need, Over, Rate, Refused, Reservation, Standing, Unit, seconds,
};

pub use notices::{Notices, Webhook};

use crate::types::{
    Caller, Class, Holder, KeyId, LimitSet, Limits, Organisation, OrganisationId, Scope,
    SecretHash, StoreError, TenantStore,
};

/// How long a key that was found is taken for good: changes reach every process within it.
const CACHE_FOR: Duration = Duration::from_secs(2);
/// Keys that are remembered at once; beyond it the stale ones are swept out.
const CACHE_KEYS: usize = 10_000;

/// Why a key is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody has this key.
    #[error("this API key is not known here")]
    UnknownKey,
    /// It was good once.
    #[error("this API key {0}")]
    Over(&'static str),
    /// It can't be looked up at the moment.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Who holds a key.
#[derive(Debug, Clone)]
pub enum Identity {
    /// Asks models, and pays.
    Tenant(Arc<Access>),
    /// Makes projects and keys, and asks no model.
    Administrator(Administrator),
}

/// What a tenant's key opens.
#[derive(Debug, PartialEq, Eq)]
pub struct Access {
    /// Who asks, and who pays.
    pub caller: Caller,
    /// What people call its project.
    pub project_name: String,
    /// The models that it may ask; any, where there is no list.
    pub models: Option<Vec<String>>,
    /// What it must keep to.
    pub limits: Vec<LimitSet>,
}

/// The holder of an administrator's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Administrator {
    /// The key, as the audit log names it.
    pub key: KeyId,
    /// What it administers.
    pub organisation: OrganisationId,
}

/// Knows the keys.
pub struct Tenancy {
    store: Arc<dyn TenantStore>,
    bootstrap: Option<(SecretHash, Caller)>,
    known: DashMap<SecretHash, (Identity, Instant)>,
}

impl Access {
    /// Whether it may ask this model.
    #[must_use]
    pub fn allows(&self, model: &str) -> bool {
        self.models
            .as_ref()
            .is_none_or(|models| models.iter().any(|allowed| allowed == model))
    }

    /// Whether it is of the operator's own organisation, to which the names in the config are known.
    #[must_use]
    pub fn is_of_the_site(&self) -> bool {
        self.caller.organisation.as_str() == Organisation::DEFAULT
    }

    /// Whether any of its limits is of tokens or of money, for which a request has to be measured.
    #[must_use]
    pub fn counts_tokens(&self) -> bool {
        self.limits.iter().any(|set| {
            let limits = Limits {
                requests_per_minute: None,
                requests_per_day: None,
                concurrent: None,
                weight: None,
                class: None,
                ..set.limits.clone()
            };
            !limits.is_empty()
        })
    }

    /// The project's share of what the workers do, in relation to others'.
    #[must_use]
    pub fn weight(&self) -> f64 {
        let of_all = |set: &&LimitSet| set.scope == Scope::Project && set.model.is_none();
        let weight = self.limits.iter().find(of_all);
        f64::from(weight.and_then(|set| set.limits.weight).unwrap_or(1).max(1))
    }

    /// The class of a request that asks for this one, or for none. Nobody is served before others
    /// but who was given that right: what the key says holds before what the project says, and so on up.
    #[must_use]
    pub fn class(&self, asked: Option<Class>) -> Class {
        let of = |scope| {
            let mut sets = self.limits.iter();
            let set = sets.find(|set| set.scope == scope && set.model.is_none())?;
            set.limits.class
        };
        let scopes = [Scope::Key, Scope::Project, Scope::Organisation];
        let given = scopes.into_iter().find_map(of).unwrap_or_default();
        asked.map_or(given, |asked| asked.min(given))
    }
}

impl Tenancy {
    /// Looks keys up in a store. The bootstrap key, where there is one, is in none.
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
    /// Nobody, or nobody any more, or the store failed.
    pub async fn authenticate(&self, secret: &str) -> Result<Identity, Error> {
        let hash = hash(secret);
        if let Some(identity) = self.remembered(&hash) {
            return Ok(identity);
        }
        let identity = self.look_up(&hash).await?;
        self.remember(hash, identity.clone());
        Ok(identity)
    }

    /// What a key opens whose holder asked for something earlier, as it stands now.
    ///
    /// # Errors
    /// The key is good no more, or the store failed.
    pub async fn access(&self, caller: &Caller) -> Result<Arc<Access>, Error> {
        if let Some((_, bootstrap)) = &self.bootstrap
            && bootstrap.key == caller.key
        {
            return self.bootstrap_access(bootstrap).await;
        }
        let key = self.store.find_key(&caller.key).await?;
        let mut limits = self.store.limits(&caller.project).await?;
        limits.extend(self.store.limits_of(Scope::Key, key.id.as_str()).await?);
        let project = self.store.find_project(caller.project.as_str()).await?;
        let archived = project.archived.is_some();
        let holder = Holder {
            key,
            project_name: project.name,
            archived,
            limits,
        };
        match identity(holder)? {
            Identity::Tenant(access) => Ok(access),
            Identity::Administrator(_) => Err(Error::UnknownKey),
        }
    }

    async fn bootstrap_access(&self, caller: &Caller) -> Result<Arc<Access>, Error> {
        let project = self.store.find_project(caller.project.as_str()).await?;
        Ok(Arc::new(Access {
            caller: caller.clone(),
            project_name: project.name,
            models: None,
            limits: self.store.limits(&caller.project).await?,
        }))
    }

    async fn look_up(&self, hash: &SecretHash) -> Result<Identity, Error> {
        if let Some((bootstrap, caller)) = &self.bootstrap
            && bool::from(bootstrap.ct_eq(hash))
        {
            return self.bootstrap_access(caller).await.map(Identity::Tenant);
        }
        // By a hash of what was sent: how long it takes says nothing of any secret.
        let holder = self.store.holder(hash).await?.ok_or(Error::UnknownKey)?;
        self.note_use(&holder);
        identity(holder)
    }

    /// Kept to the minute. Nobody waits for it, and a failure is seen where it matters.
    fn note_use(&self, holder: &Holder) {
        let age = |used: Timestamp| Timestamp::now().duration_since(used);
        let recent = SignedDuration::from_secs(60);
        if holder.key.last_used.is_some_and(|used| age(used) < recent) {
            return;
        }
        let (store, key) = (Arc::clone(&self.store), holder.key.id.clone());
        tokio::spawn(async move {
            if let Err(error) = store.used(&key).await {
                tracing::debug!(%error, "when a key was last used could not be noted");
            }
        });
    }

    fn remembered(&self, hash: &SecretHash) -> Option<Identity> {
        let entry = self.known.get(hash)?;
        let (identity, since) = entry.value();
        (since.elapsed() < CACHE_FOR).then(|| identity.clone())
    }

    fn remember(&self, hash: SecretHash, identity: Identity) {
        if self.known.len() >= CACHE_KEYS {
            self.known
                .retain(|_, (_, since)| since.elapsed() < CACHE_FOR);
        }
        if self.known.len() < CACHE_KEYS {
            self.known.insert(hash, (identity, Instant::now()));
        }
    }
}

fn identity(holder: Holder) -> Result<Identity, Error> {
    let key = holder.key;
    if key.revoked.is_some() {
        return Err(Error::Over("was taken back"));
    }
    if key.expires.is_some_and(|end| end <= Timestamp::now()) {
        return Err(Error::Over("has expired"));
    }
    if holder.archived {
        return Err(Error::Over("is of a project that was archived"));
    }
    Ok(match key.project {
        Some(project) => Identity::Tenant(Arc::new(Access {
            caller: Caller {
                organisation: key.organisation,
                project,
                key: key.id,
            },
            project_name: holder.project_name,
            models: key.models,
            limits: holder.limits,
        })),
        None => Identity::Administrator(Administrator {
            key: key.id,
            organisation: key.organisation,
        }),
    })
}

/// Secrets have 285 bits of chance in them: a plain hash can't be turned back, and needs no salt.
fn hash(secret: &str) -> SecretHash {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests;
