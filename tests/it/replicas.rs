//! Two replicas on one PostgreSQL.

use std::time::{Duration, Instant};

use futures_util::future;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{CHAT, Server};
use crate::postgres::Cluster;
use crate::tenancy::{Admin, chat_as};

async fn two(url: &str) -> [Server; 2] {
    let start = |name| async move {
        Server::start_with(&[
            ("FOREBAY_STORE__URL", url),
            ("FOREBAY_LEDGER__REPLICA", name),
        ])
        .await
    };
    [start("one").await, start("two").await]
}

#[tokio::test]
async fn a_revocation_reaches_both_replicas_within_two_seconds() {
    let cluster = Cluster::start(false);
    let servers = two(&cluster.database("revoke")).await;
    let admin = Admin::of(&servers[0]);
    let (id, key) = admin.project("p", json!({})).await;
    for server in &servers {
        assert_eq!(
            chat_as(server, &key, json!({"ask": "Hi", "max_tokens": 1}))
                .await
                .status(),
            200
        );
    }
    let keys = format!("/v1/organization/projects/{id}/api_keys");
    let list = admin.done(Method::GET, &keys, json!(null)).await;
    let key_id = list["data"][0]["id"].as_str().unwrap();
    admin
        .done(Method::DELETE, &format!("{keys}/{key_id}"), json!(null))
        .await;
    let revoked = Instant::now();
    let mut good = [true, true];
    while good.contains(&true) {
        assert!(revoked.elapsed() < Duration::from_millis(2200), "{good:?}");
        for (server, good) in servers.iter().zip(&mut good) {
            *good = chat_as(server, &key, json!({"ask": "Hi", "max_tokens": 1}))
                .await
                .status()
                == 200;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// 64 clients, half of them on each replica, until each was refused twice. The larger the budget, the longer the
/// prompts, which begin alike, and the shorter the answers: reused tokens are tokens too, and take little time.
async fn spend(servers: &[Server; 2], key: &str, budget: u64) -> u64 {
    let repeats = usize::try_from(budget / 5000).unwrap().min(200);
    let opening = &"Read this with care. ".repeat(repeats);
    let longest = if repeats < 20 { 80 } else { 8 };
    let clients = (0..64_usize).map(|number| async move {
        let (mut refused, mut round, mut spent) = (0, number, 0);
        while refused < 2 {
            let body =
                json!({"ask": format!("{opening}Tell me about {round}."), "max_tokens": 1 + round % longest});
            let answer = chat_as(&servers[number % 2], key, body).await;
            if answer.status() == 429 {
                refused += 1;
                tokio::time::sleep(Duration::from_millis(700)).await;
                continue;
            }
            assert_eq!(answer.status(), 200);
            let answer: Value = answer.json().await.unwrap();
            spent += answer["usage"]["total_tokens"].as_u64().unwrap();
            round += 64;
        }
        spent
    });
    future::join_all(clients).await.into_iter().sum()
}

#[tokio::test]
async fn a_budget_is_spent_by_both_and_no_more_than_it() {
    let budget: u64 = std::env::var("FOREBAY_BUDGET").map_or(12_000, |text| text.parse().unwrap());
    let cluster = Cluster::start(false);
    let servers = two(&cluster.database("budget")).await;
    let admin = Admin::of(&servers[0]);
    let (_, key) = admin
        .project("p", json!({"max_tokens_per_1_day": budget}))
        .await;
    let spent = spend(&servers, &key, budget).await;
    assert!(spent <= budget, "{spent} of {budget}");
    assert!(spent * 100 >= budget * 95, "{spent} of {budget}");
    let rows = servers[1].usage();
    let row = rows
        .iter()
        .find(|row| row["project"] == "p" && row["model"] == CHAT)
        .unwrap();
    let booked =
        row["prompt_tokens"].as_u64().unwrap() + row["completion_tokens"].as_u64().unwrap();
    assert_eq!(booked, spent, "what clients saw is what is booked");
}

#[tokio::test]
async fn a_rate_holds_over_both() {
    let cluster = Cluster::start(false);
    let servers = two(&cluster.database("rate")).await;
    let admin = Admin::of(&servers[0]);
    let (_, key) = admin
        .project("p", json!({"max_requests_per_1_minute": 100}))
        .await;
    let start = Instant::now();
    let tries = (0..160_usize).map(|number| {
        let (server, key) = (&servers[number % 2], &key);
        async move {
            chat_as(server, key, json!({"ask": "Hi", "max_tokens": 1}))
                .await
                .status()
                .as_u16()
        }
    });
    let mut statuses = Vec::new();
    let mut tries = tries.collect::<Vec<_>>();
    while !tries.is_empty() {
        let part = tries.split_off(tries.len().saturating_sub(16));
        statuses.extend(future::join_all(part).await);
    }
    let served = statuses.iter().filter(|status| **status == 200).count();
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "too slow to tell"
    );
    assert!((95..=100).contains(&served), "{served} of 100");
    assert!(statuses.iter().all(|status| [200, 429].contains(status)));
}
