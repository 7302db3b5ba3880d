//! Only SQL: implements the ports of tenancy and metering on SQLite and on PostgreSQL.
//!
//! What both understand is written once, in `sql/`, and compiled for each: `sqlite/` and `postgres/` give it
//! their driver's types and the few words in which they differ.

mod postgres;
mod sqlite;
mod syncer;

use std::sync::Arc;

use crate::types::{Durability, Store, StoreError};

/// Opens the store at a URL, `sqlite://PATH` or `postgres://...`, makes what isn't there and migrates it.
///
/// # Errors
/// The URL is of neither kind, the store can't be opened, a migration fails, or it isn't as durable as a
/// ledger has to be. No message quotes the URL, which may hold a password.
pub async fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    open_with(url, Durability::Power).await
}

/// As [`open`], where commits of the ledger may survive less than a power cut.
///
/// # Errors
/// As [`open`].
pub async fn open_with(url: &str, durability: Durability) -> Result<Arc<dyn Store>, StoreError> {
    match url.split_once("://") {
        Some(("sqlite", _)) => Ok(Arc::new(sqlite::Sqlite::open(url, durability).await?)),
        Some(("postgres" | "postgresql", _)) => {
            Ok(Arc::new(postgres::Postgres::open(url, durability).await?))
        }
        _ => Err(unusable(
            "[store] url is neither sqlite://PATH nor postgres://...",
        )),
    }
}

fn unusable(reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable(reason.into().into())
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

#[cfg(test)]
pub(crate) mod tests;
