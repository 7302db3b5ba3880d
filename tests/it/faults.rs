//! Workers that fail, one of three under load: the client sees nothing of it where another can do the work, and pays once.

use std::time::{Duration, Instant};

use loadtest::upstream::{Fault, Pace, Script, Upstream, UsageKind};
use serde_json::{Value, json};

use crate::harness::{Joined, Server};
use crate::remote::{ask, config, gateway, post, rows};

const TIMEOUTS: &str =
    "timeouts = { connect_ms = 300, first_token_ms = 600, idle_ms = 600 }\nslots = 8";

fn healthy() -> Script {
    Script::words(8).at(Pace::Steady {
        first: Duration::from_millis(10),
        gap: Duration::from_millis(3),
    })
}

async fn three() -> [Upstream; 3] {
    [
        Upstream::start(healthy(), 0).await.unwrap(),
        Upstream::start(healthy(), 0).await.unwrap(),
        Upstream::start(healthy(), 0).await.unwrap(),
    ]
}

fn streaming() -> Value {
    let mut body = ask();
    body["stream"] = json!(true);
    body
}

/// So many requests, a few at once: what each came to, and how long it took.
async fn load(server: &Server, count: usize, body: &Value) -> Vec<(u16, String, Duration)> {
    let mut answers = Vec::new();
    for _ in 0..count / 6 {
        let one = || async {
            let start = Instant::now();
            let (status, text) = post(server, body).await;
            (status, text, start.elapsed())
        };
        let (a, b, c, d, e, f) = tokio::join!(one(), one(), one(), one(), one(), one());
        answers.extend([a, b, c, d, e, f]);
    }
    answers
}

async fn state(server: &Server, worker: &str) -> f64 {
    server
        .metric(&format!("forebay_worker_open{{worker=\"{worker}\"}}"))
        .await
}

async fn wait_for_state(server: &Server, worker: &str, open: f64) {
    let name = format!("forebay_worker_open{{worker=\"{worker}\"}}");
    server
        .wait_for_metric(&name, open, Duration::from_secs(10))
        .await;
}

/// One of three does this for a while: everybody is answered whole, and pays for one attempt.
async fn nobody_notices(fault: Fault, body: &Value) {
    let workers = three().await;
    let all: Vec<_> = workers.iter().collect();
    let server = gateway(&all, TIMEOUTS, "[scheduler]\nslow_start_ms = 100\n").await;
    workers[0].change(|script| script.fault = fault);
    let answers = load(&server, 36, body).await;
    for (status, text, _) in &answers {
        assert_eq!(*status, 200, "{fault:?}: {text}");
        if body["stream"] == true {
            let joined = Joined::read(text);
            assert_eq!(
                (joined.text, joined.done),
                (healthy().text(), true),
                "{fault:?}"
            );
        }
    }
    assert!(workers[0].started() >= 3, "{fault:?}: it was hardly asked");
    server
        .wait_for_metric("forebay_ledger_pending", 0.0, Duration::from_secs(2))
        .await;
    let rows = rows(&server).await;
    let settled = rows.iter().filter(|row| row.2 == "settled").count();
    assert_eq!(settled, 36, "{fault:?}");
    assert!(
        rows.iter().all(|row| row.2 == "settled" || row.1 == "w0"),
        "{fault:?}: {rows:?}"
    );
    // What is refused for want of room breaks nothing; all else opens the breaker, and it closes again.
    if fault == Fault::Refuse(503) {
        return;
    }
    assert!(
        (state(&server, "w0").await - 1.0).abs() < 0.1,
        "{fault:?}: its breaker is closed"
    );
    // The others are as fast as ever: none of the last requests waited for the broken one.
    let late = answers[24..].iter().map(|answer| answer.2).max().unwrap();
    assert!(late < Duration::from_millis(600), "{fault:?}: {late:?}");
    workers[0].play(healthy());
    let before = workers[0].ended();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for _ in 0..10 {
        load(&server, 12, body).await;
        if workers[0].ended() > before + 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    wait_for_state(&server, "w0", 0.0).await;
    assert!(
        workers[0].ended() > before + 1,
        "{fault:?}: it is not used again"
    );
}

#[tokio::test]
async fn a_worker_that_refuses_is_passed_over() {
    nobody_notices(Fault::Refuse(500), &streaming()).await;
    nobody_notices(Fault::Refuse(503), &ask()).await;
}

#[tokio::test]
async fn a_worker_that_closes_the_connection_is_passed_over() {
    nobody_notices(Fault::Reset, &streaming()).await;
    nobody_notices(Fault::Cut(0), &ask()).await;
}

#[tokio::test]
async fn a_worker_that_hangs_is_passed_over() {
    nobody_notices(Fault::Hang(0), &streaming()).await;
}

#[tokio::test]
async fn a_worker_that_trickles_is_passed_over() {
    nobody_notices(Fault::Trickle, &streaming()).await;
}

#[tokio::test]
async fn a_worker_that_talks_garbage_is_passed_over() {
    nobody_notices(Fault::Garbage(0), &streaming()).await;
    nobody_notices(Fault::Error(0), &ask()).await;
}

#[tokio::test]
async fn usage_that_can_not_be_is_booked_by_nobody() {
    let workers = three().await;
    let all: Vec<_> = workers.iter().collect();
    let server = gateway(&all, TIMEOUTS, "").await;
    workers[0].change(|script| script.usage = UsageKind::Wrong);
    let answers = load(&server, 18, &streaming()).await;
    assert!(answers.iter().all(|answer| answer.0 == 200));
    let rows = rows(&server).await;
    assert_eq!(rows.len(), 18);
    assert!(rows.iter().all(|row| row.4 == 8), "{rows:?}");
}

/// In mid-stream nobody else can go on: the client is told so, and pays nothing.
#[tokio::test]
async fn a_worker_that_fails_in_mid_stream_is_an_error_event_and_no_end() {
    for fault in [
        Fault::Cut(3),
        Fault::Hang(3),
        Fault::Garbage(3),
        Fault::Error(3),
    ] {
        let upstream = Upstream::start(healthy().with(fault), 0).await.unwrap();
        let server = gateway(&[&upstream], TIMEOUTS, "").await;
        let (status, text) = post(&server, &streaming()).await;
        assert_eq!(status, 200);
        let joined = Joined::read(&text);
        assert_eq!(joined.text, "w0 w1 w2 ", "{fault:?}");
        assert_eq!(joined.error["code"], "worker_failed", "{fault:?}: {text}");
        assert!(!joined.done && joined.finish.is_null());
        let rows = rows(&server).await;
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].2.as_str(), rows[0].4, rows[0].5),
            ("absorbed", 3, 0)
        );
    }
}

#[tokio::test]
async fn a_model_falls_back_on_another_where_its_workers_fail() {
    let (broken, other) = (
        Upstream::start(healthy().with(Fault::Refuse(500)), 0)
            .await
            .unwrap(),
        Upstream::start(healthy(), 0).await.unwrap(),
    );
    let more = format!(
        "[[worker]]\nname = \"other\"\nengine = \"remote\"\nurl = \"{}\"\nmodels = [\"small\"]\n\
         [[model]]\nname = \"legal\"\nbase = \"big\"\nfallbacks = [\"small\"]\nprice = {{ completion = \"1\" }}\n",
        other.url()
    );
    let server = Server::start_on(config(&[&broken], TIMEOUTS, &more), &[]).await;
    let mut body = ask();
    body["model"] = json!("legal");
    let answer = server
        .post("/v1/chat/completions", &body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-forebay-served-by"], "other");
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["model"], "legal");
    let rows = rows(&server).await;
    let states: Vec<_> = rows
        .iter()
        .map(|row| (row.0, row.1.as_str(), row.2.as_str()))
        .collect();
    assert_eq!(states, [(1, "w0", "absorbed"), (2, "other", "settled")]);
    // At the price of what was asked for.
    assert_eq!(rows[1].5, 8 * 1_000_000);
}

/// Every row of a request but one costs nothing.
fn paid_once(rows: &[crate::remote::Row], requests: usize) {
    let settled: Vec<_> = rows.iter().filter(|row| row.2 == "settled").collect();
    assert_eq!(settled.len(), requests, "{rows:?}");
    assert!(settled.iter().all(|row| row.4 == 8), "{rows:?}");
    assert!(
        rows.iter().all(|row| row.2 == "settled" || row.5 == 0),
        "{rows:?}"
    );
}

#[tokio::test]
async fn a_stream_goes_on_with_another_worker_of_the_same_model() {
    for dialect in ["llama-server", "vllm", "sglang"] {
        let workers = [
            Upstream::start(healthy().with(Fault::Cut(3)), 0)
                .await
                .unwrap(),
            Upstream::start(healthy(), 0).await.unwrap(),
        ];
        let each = format!("{TIMEOUTS}\nresume = true\ndialect = \"{dialect}\"");
        let price = "[[model]]\nname = \"big\"\nprice = { completion = \"1\" }\n";
        let server = gateway(&[&workers[0], &workers[1]], &each, price).await;
        let mut body = streaming();
        body["stream_options"] = json!({"include_usage": true});
        body["max_tokens"] = json!(50);
        for _ in 0..6 {
            let (status, text) = post(&server, &body).await;
            let joined = Joined::read(&text);
            assert_eq!(
                (status, joined.text, joined.done),
                (200, healthy().text(), true),
                "{text}"
            );
            assert_eq!(joined.error, Value::Null);
            let ids: std::collections::BTreeSet<_> = text
                .lines()
                .filter_map(|line| line.split("\"id\":\"").nth(1)?.split('"').next())
                .collect();
            assert_eq!(ids.len(), 1, "{ids:?}");
            assert_eq!(text.matches("\"role\"").count(), 1, "{text}");
        }
        assert!(workers[0].started() > 0);
        let resumed = workers[1]
            .seen()
            .into_iter()
            .find(|seen| seen.body["messages"].as_array().unwrap().len() == 2);
        let resumed = resumed.expect("one was gone on with").body;
        assert_eq!(
            resumed["messages"][1],
            json!({"role": "assistant", "content": "w0 w1 w2 "})
        );
        assert_eq!(resumed["max_tokens"], 47);
        assert_eq!(
            resumed["continue_final_message"],
            if dialect == "llama-server" {
                Value::Null
            } else {
                json!(true)
            }
        );
        let rows = rows(&server).await;
        paid_once(&rows, 6);
        let broken = rows.iter().find(|row| row.2 == "absorbed").unwrap();
        assert_eq!((broken.1.as_str(), broken.4), ("w0", 3));
    }
}

#[tokio::test]
async fn a_slow_first_token_is_hedged_by_another_worker() {
    let slow = Script::words(8).at(Pace::Steady {
        first: Duration::from_secs(3),
        gap: Duration::from_millis(1),
    });
    let workers = [
        Upstream::start(slow, 0).await.unwrap(),
        Upstream::start(healthy(), 0).await.unwrap(),
    ];
    let server = gateway(
        &[&workers[0], &workers[1]],
        "slots = 8",
        "[scheduler]\nhedge_after_ms = 100\n",
    )
    .await;
    let answers = load(&server, 12, &streaming()).await;
    for (status, text, took) in answers {
        assert_eq!((status, Joined::read(&text).text), (200, healthy().text()));
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    assert!(workers[0].started() > 0, "the slow one was never asked");
    server
        .wait_for_metric("forebay_ledger_pending", 0.0, Duration::from_secs(2))
        .await;
    // What lost was cancelled, and costs nothing.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((workers[0].running(), workers[0].ended()), (0, 0));
    let rows = rows(&server).await;
    paid_once(&rows, 12);
    assert!(rows.len() > 12, "nothing was hedged");
}

#[tokio::test]
async fn who_hangs_up_while_two_workers_are_asked_pays_once() {
    let slow = || {
        Script::words(8).at(Pace::Steady {
            first: Duration::from_secs(20),
            gap: Duration::from_millis(1),
        })
    };
    let workers = [
        Upstream::start(slow(), 0).await.unwrap(),
        Upstream::start(slow(), 0).await.unwrap(),
    ];
    let hedging = "[scheduler]\nhedge_after_ms = 100\n";
    let server = gateway(&[&workers[0], &workers[1]], "slots = 8", hedging).await;
    let body = streaming();
    let asks = post(&server, &body);
    assert!(
        tokio::time::timeout(Duration::from_millis(800), asks)
            .await
            .is_err()
    );
    assert_eq!(
        (workers[0].started(), workers[1].started()),
        (1, 1),
        "both were asked"
    );
    server
        .wait_for_metric("forebay_ledger_open", 0.0, Duration::from_secs(2))
        .await;
    server
        .wait_for_metric("forebay_ledger_pending", 0.0, Duration::from_secs(2))
        .await;
    let rows = rows(&server).await;
    let mut states: Vec<_> = rows.iter().map(|row| row.2.as_str()).collect();
    states.sort_unstable();
    assert_eq!(states, ["absorbed", "settled"], "{rows:?}");
}
