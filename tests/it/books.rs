//! The books of one store, read beside whoever serves from it.

use std::collections::HashMap;

use serde_json::Value;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{PgPool, SqlitePool};

use crate::harness::Server;

/// What one row of the ledger says of a request: its state, and the tokens of its prompt and answer.
pub(crate) type Row = (String, u64, u64);

/// All rows but those that cost nothing, by request. A request that stands twice is a fault.
pub(crate) fn charges(server: &Server) -> HashMap<String, Row> {
    let text = server.cli(&["usage", "--format", "cloudevents"]);
    let mut rows = HashMap::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let data = &event["data"];
        let tokens = |name: &str| data[name].as_str().unwrap().parse::<u64>().unwrap();
        let row = (
            data["state"].as_str().unwrap().to_owned(),
            tokens("prompt_tokens"),
            tokens("completion_tokens"),
        );
        let request = data["request_id"].as_str().unwrap().to_owned();
        assert!(
            rows.insert(request, row).is_none(),
            "a request stands twice"
        );
    }
    rows
}

/// What a query of one number gives.
pub(crate) async fn count(server: &Server, query: &'static str) -> i64 {
    let url = server.store_url();
    if url.starts_with("postgres") {
        let pool = PgPool::connect(&url).await.unwrap();
        let count = sqlx::query_scalar(query).fetch_one(&pool).await.unwrap();
        pool.close().await;
        return count;
    }
    let options = SqliteConnectOptions::new()
        .filename(server.store())
        .read_only(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let count = sqlx::query_scalar(query).fetch_one(&pool).await.unwrap();
    pool.close().await;
    count
}
