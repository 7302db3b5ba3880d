//! Pulling the plug, again and again, and looking at the books.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future;
use rand::Rng;
use serde_json::{Value, json};

use crate::books::{Row, charges, count};
use crate::harness::{Joined, Server, chat};
use crate::postgres::Cluster;

const CLIENTS: u64 = 12;
/// A lease that is over soon, so that the test is.
const LEASE: [(&str, &str); 1] = [("FOREBAY_LEDGER__LEASE_S", "3")];

/// Usage that clients saw, by request.
type Seen = Arc<Mutex<HashMap<String, (u64, u64)>>>;

fn kills() -> u32 {
    std::env::var("FOREBAY_KILLS").map_or(4, |text| text.parse().unwrap())
}

/// One request; its usage goes into `seen` if the answer came whole.
async fn ask(client: &reqwest::Client, url: &str, index: u64, seen: &Seen) {
    let stream = index.is_multiple_of(2);
    let body = chat(json!({
        "ask": format!("Tell me about number {index}."), "max_tokens": 1 + index % 60, "ignore_eos": true,
        "stream": stream, "stream_options": {"include_usage": true},
    }));
    let request = client
        .post(format!("{url}/v1/chat/completions"))
        .bearer_auth("fb-local");
    let Ok(answer) = request.json(&body).send().await else {
        tokio::time::sleep(Duration::from_millis(100)).await;
        return;
    };
    let id = answer.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let status = answer.status();
    let Ok(text) = answer.text().await else {
        return;
    };
    if status != 200 {
        assert_eq!(status, 503, "{text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
        return;
    }
    let usage = if stream {
        let joined = Joined::read(&text);
        if !joined.done {
            return;
        }
        joined.usage
    } else {
        serde_json::from_str::<Value>(&text).unwrap()["usage"].clone()
    };
    let tokens = |name: &str| usage[name].as_u64().unwrap();
    let usage = (tokens("prompt_tokens"), tokens("completion_tokens"));
    seen.lock().unwrap().insert(id, usage);
}

/// Clients that ask until they are told to stop, wherever the server is by now.
async fn load(url: Arc<Mutex<String>>, stop: Arc<AtomicBool>, seen: Seen) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let clients = (0..CLIENTS).map(|number| {
        let (client, url, stop, seen) = (
            client.clone(),
            Arc::clone(&url),
            Arc::clone(&stop),
            Arc::clone(&seen),
        );
        tokio::spawn(async move {
            let mut index = number;
            while !stop.load(Ordering::Relaxed) {
                let url = url.lock().unwrap().clone();
                ask(&client, &url, index, &seen).await;
                index += CLIENTS;
            }
        })
    });
    future::join_all(clients).await;
}

/// Every usage that a client saw is one settled row with the same tokens; nothing is left in flight.
async fn assert_balanced(server: &Server, seen: &Seen) -> HashMap<String, Row> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while count(server, "SELECT count(*) FROM in_flight").await > 0 {
        assert!(Instant::now() < deadline, "something is left in flight");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let rows = charges(server);
    for (id, (prompt, completion)) in seen.lock().unwrap().iter() {
        let expected = ("settled".to_owned(), *prompt, *completion);
        assert_eq!(rows.get(id), Some(&expected), "{id}");
    }
    let sums = "SELECT CAST(coalesce(sum(requests), 0) AS BIGINT) - (SELECT count(*) FROM charge WHERE state <> 'absorbed') FROM spent";
    assert_eq!(
        count(server, sums).await,
        0,
        "the sums of days are those of the ledger"
    );
    let money = "SELECT CAST(coalesce(sum(low), 0) AS BIGINT)
        - (SELECT CAST(coalesce(sum(amount_pico & 4294967295), 0) AS BIGINT) FROM charge) FROM spent";
    assert_eq!(count(server, money).await, 0);
    rows
}

async fn killed_again_and_again(mut server: Server) {
    let (seen, stop) = (Seen::default(), Arc::new(AtomicBool::new(false)));
    let url = Arc::new(Mutex::new(server.url.clone()));
    let clients = tokio::spawn(load(Arc::clone(&url), Arc::clone(&stop), Arc::clone(&seen)));
    for _ in 0..kills() {
        let pause = rand::rng().random_range(200..2500);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        server.kill_and_restart().await;
        url.lock().unwrap().clone_from(&server.url);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::Relaxed);
    clients.await.unwrap();
    let rows = assert_balanced(&server, &seen).await;
    let recovered = rows.values().filter(|row| row.0 == "recovered").count();
    let whole = seen.lock().unwrap().len();
    eprintln!(
        "{} kills: {} rows, {whole} seen whole, {recovered} recovered",
        kills(),
        rows.len()
    );
    assert!(whole > 0 && recovered > 0);
}

#[tokio::test]
async fn no_kill_loses_or_doubles_a_charge_in_sqlite() {
    killed_again_and_again(Server::start().await).await;
}

#[tokio::test]
async fn no_kill_loses_or_doubles_a_charge_in_postgresql() {
    let cluster = Cluster::start(false);
    let url = cluster.database("kills");
    let settings = [("FOREBAY_STORE__URL", url.as_str()), LEASE[0]];
    killed_again_and_again(Server::start_with(&settings).await).await;
}

#[tokio::test]
async fn no_kill_loses_or_doubles_a_charge_that_did_not_wait_for_the_disk() {
    let process = ("FOREBAY_LEDGER__DURABILITY", "process");
    killed_again_and_again(Server::start_with(&[process]).await).await;
    let cluster = Cluster::start(false);
    let url = cluster.database("process");
    let settings = [("FOREBAY_STORE__URL", url.as_str()), LEASE[0], process];
    killed_again_and_again(Server::start_with(&settings).await).await;
}

#[tokio::test]
async fn postgresql_goes_and_comes_back_in_mid_load() {
    let mut cluster = Cluster::start(false);
    let url = cluster.database("away");
    let settings = [("FOREBAY_STORE__URL", url.as_str()), LEASE[0]];
    let server = Server::start_with(&settings).await;
    let (seen, stop) = (Seen::default(), Arc::new(AtomicBool::new(false)));
    let url = Arc::new(Mutex::new(server.url.clone()));
    let clients = tokio::spawn(load(url, Arc::clone(&stop), Arc::clone(&seen)));
    for pause_s in [1, 6] {
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.stop();
        let before = seen.lock().unwrap().len();
        tokio::time::sleep(Duration::from_secs(pause_s)).await;
        // Those that were committed a moment before may still arrive; none ends without its row.
        let during = seen.lock().unwrap().len() - before;
        assert!(
            during <= usize::try_from(CLIENTS).unwrap(),
            "{during} answers ended without a ledger"
        );
        let refused = server
            .post("/v1/chat/completions", &chat(json!({"ask": "Hi"})))
            .send()
            .await
            .unwrap();
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        let ready = server
            .client
            .get(format!("{}/ready", server.url))
            .send()
            .await
            .unwrap();
        assert_eq!(ready.status(), 503);
        cluster.serve();
        let deadline = Instant::now() + Duration::from_secs(20);
        while seen.lock().unwrap().len() < before + during + 5 {
            assert!(
                Instant::now() < deadline,
                "it does not come back by itself:\n{}",
                server.log()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    clients.await.unwrap();
    assert_balanced(&server, &seen).await;
}

/// `kill -STOP` and `-CONT`.
fn signal(server: &Server, name: &str) {
    let done = std::process::Command::new("kill")
        .args([name, &server.id().to_string()])
        .status()
        .unwrap();
    assert!(done.success());
}

#[tokio::test]
async fn a_replica_paused_past_its_lease_gives_up_what_others_booked() {
    let cluster = Cluster::start(false);
    let url = cluster.database("paused");
    let settings = |name| {
        [
            ("FOREBAY_STORE__URL", url.as_str()),
            LEASE[0],
            ("FOREBAY_LEDGER__REPLICA", name),
        ]
    };
    let paused = Server::start_with(&settings("paused")).await;
    let other = Server::start_with(&settings("other")).await;
    let mut running = paused
        .stream(json!({"ask": "Count up.", "max_tokens": 1500, "ignore_eos": true}))
        .await;
    let id = running.headers()["x-request-id"]
        .to_str()
        .unwrap()
        .to_owned();
    let checkpointed = "SELECT count(*) FROM in_flight WHERE completion_tokens > 0";
    while count(&other, checkpointed).await == 0 {
        running.chunk().await.unwrap().unwrap();
    }
    signal(&paused, "-STOP");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !charges(&other).contains_key(&id) {
        assert!(Instant::now() < deadline, "nobody recovered it");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let recovered = charges(&other)[&id].clone();
    assert_eq!(recovered.0, "recovered");
    signal(&paused, "-CONT");
    let joined = Joined::read(&running.text().await.unwrap_or_default());
    assert!(
        !joined.done && joined.usage.is_null(),
        "no end without a row of its own"
    );
    assert_eq!(joined.error["code"], "replica_lost", "{:?}", joined.error);
    assert_eq!(charges(&other)[&id], recovered, "it stands once");
    // It lives on.
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answer = paused
            .post(
                "/v1/chat/completions",
                &chat(json!({"ask": "Hi", "max_tokens": 2})),
            )
            .send()
            .await;
        if answer.unwrap().status() == 200 {
            break;
        }
        assert!(Instant::now() < deadline, "{}", paused.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((paused.metric("forebay_ledger_fenced_total").await - 1.0).abs() < 0.5);
    assert_balanced(&other, &Seen::default()).await;
}
