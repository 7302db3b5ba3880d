//! Which revision of a vertical serves: gates, promotion and rollback, canaries and shadows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use loadtest::upstream::{Script, Upstream};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::books::count;
use crate::harness::{CHAT, KEY, Server, root};
use crate::remote::MODEL;
use crate::tenancy::Admin;

/// A decision takes effect in a running server within this time.
const FOLLOWS: Duration = Duration::from_secs(10);

/// The quickstart's models and one vertical, in a file that the test changes.
struct Site {
    config: PathBuf,
    head: String,
    folder: tempfile::TempDir,
}

impl Site {
    fn new(head: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            config: folder.path().join("forebay.toml"),
            head: head.to_owned(),
            folder,
        }
    }

    /// Of the quickstart.
    fn real() -> Self {
        Self::new(&std::fs::read_to_string(root().join("config/quickstart.toml")).unwrap())
    }

    fn write(&self, vertical: &str) {
        std::fs::write(&self.config, format!("{}\n{vertical}\n", self.head)).unwrap();
    }

    /// Changes the vertical of a running server.
    fn change(&self, server: &Server, vertical: &str) {
        self.write(vertical);
        let done = std::process::Command::new("kill")
            .args(["-HUP", &server.id().to_string()])
            .status();
        assert!(done.unwrap().success());
    }
}

/// Some of the worked vertical's items, asked by the likeliest label alone.
fn suite(folder: &Path) -> String {
    let items = root().join("config/examples/hydropower/triage.jsonl");
    let items = std::fs::read_to_string(items).unwrap();
    let some: Vec<_> = items.lines().step_by(8).collect();
    std::fs::write(folder.join("items.jsonl"), some.join("\n")).unwrap();
    let path = folder.join("suite.toml");
    let text = "name = \"some\"\n[[task]]\nname = \"likeliest\"\nitems = \"items.jsonl\"\n
        score = { by = \"choice\", choices = [\"intake\", \"penstock\", \"turbine\", \"generator\", \"grid\", \"control\", \"river\", \"safety\"] }";
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

async fn answer(client: &Client, url: &str, model: &str, user: &str) -> reqwest::Response {
    let body = json!({
        "model": model, "user": user, "max_tokens": 2, "messages": [{"role": "user", "content": "Trash rack blocked"}],
    });
    let request = client.post(format!("{url}/v1/chat/completions"));
    let request = request.bearer_auth(KEY).json(&body);
    request.send().await.unwrap()
}

/// What served a request, by its name in the ledger; its status and its error's code where nothing did.
async fn served(server: &Server, model: &str, user: &str) -> String {
    let answer = answer(&server.client, &server.url, model, user).await;
    if answer.status() != 200 {
        let status = answer.status();
        let error: Value = answer.json().await.unwrap();
        return format!(
            "{} {}",
            status.as_u16(),
            error["error"]["code"].as_str().unwrap()
        );
    }
    let revision = answer.headers()["x-forebay-revision"].to_str().unwrap();
    revision.to_owned()
}

async fn until(server: &Server, model: &str, is_it: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + FOLLOWS;
    loop {
        let revision = served(server, model, "ann").await;
        if is_it(&revision) {
            return revision;
        }
        assert!(Instant::now() < deadline, "{revision}:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a server's log says within this time.
async fn logged(server: &Server, word: &str) {
    let deadline = Instant::now() + FOLLOWS;
    while !server.log().contains(word) {
        assert!(Instant::now() < deadline, "{word}:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A vertical with a gate, on the real model, and what it is made of beside that.
fn gated(suite: &str, more: &str) -> String {
    format!(
        "[[model]]\nname = \"triage\"\nbase = \"{CHAT}\"\ngate = {{ suite = \"{suite}\", bar = 0.35 }}\n{more}"
    )
}

fn adapter() -> String {
    let path = root().join("config/examples/hydropower/triage.gguf");
    format!("adapter = \"{}\"\n", path.display())
}

/// `forebay model`, beside what else runs.
fn model(server: &Server, words: &[&str]) -> String {
    let all: Vec<_> = ["model"].iter().chain(words).copied().collect();
    tokio::task::block_in_place(|| server.cli(&all))
}

fn promote(server: &Server) -> String {
    model(
        server,
        &["promote", "triage", "--url", &server.url, "--key", KEY],
    )
}

/// Asks until it is told to stop, four at a time; gives how often each revision answered. None may fail.
async fn load(url: String, stop: Arc<AtomicBool>) -> BTreeMap<String, u32> {
    let client = Client::builder().no_proxy().build().unwrap();
    let (mut seen, mut user) = (BTreeMap::<String, u32>::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        user += 1;
        let answers = (0..4).map(|one| {
            let (client, url) = (client.clone(), url.clone());
            async move { answer(&client, &url, "triage", &format!("{user}.{one}")).await }
        });
        for answer in futures_util::future::join_all(answers).await {
            assert_eq!(answer.status(), 200);
            let revision = answer.headers()["x-forebay-revision"].to_str().unwrap();
            *seen.entry(revision.to_owned()).or_default() += 1;
            answer.text().await.unwrap();
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_decides_what_serves_and_no_request_fails_for_it() {
    let site = Site::real();
    let suite = suite(site.folder.path());
    site.write(&gated(&suite, &adapter()));
    let mut server = Server::start_on(site.config.clone(), &[]).await;
    // Nothing serves before something has passed.
    assert_eq!(
        served(&server, "triage", "ann").await,
        "503 model_not_ready"
    );
    promote(&server);
    let first = until(&server, "triage", |revision| {
        revision.contains("+triage*1#")
    })
    .await;

    // What fails its gate serves nobody, by the config or by a command.
    site.change(
        &server,
        &gated(&suite, "system = \"Answer with a colour.\"\n"),
    );
    logged(&server, "its gate keeps it from serving").await;
    let command = [
        "model",
        "promote",
        "triage",
        "--url",
        &server.url,
        "--key",
        KEY,
    ];
    let refusal = server.refusal(&command);
    assert!(
        refusal.contains("its gate asks for 0.35") && refusal.contains("goes on serving"),
        "{refusal}"
    );
    assert_eq!(served(&server, "triage", "ann").await, first);

    // What passes is put in its place under load, and taken back.
    let stop = Arc::new(AtomicBool::new(false));
    // A task of its own: this one stands still while a command runs.
    let loaded = tokio::spawn(load(server.url.clone(), Arc::clone(&stop)));
    let both = adapter() + "system = \"You file log lines under one label.\"\n";
    site.change(&server, &gated(&suite, &both));
    logged(&server, "the models of the config were read again").await;
    promote(&server);
    let second = until(&server, "triage", |revision| revision != first).await;
    model(&server, &["rollback", "triage"]);
    until(&server, "triage", |revision| revision == first).await;
    stop.store(true, Ordering::Relaxed);
    let seen = loaded.await.unwrap();
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[&first] > 0 && seen[&second] > 0);

    // So it stays over a restart, though the config says another thing.
    server.kill_and_restart().await;
    assert_eq!(served(&server, "triage", "ann").await, first);
    assert_kept(&server).await;
}

/// What was decided stands in the audit log, and how each revision did in the history.
async fn assert_kept(server: &Server) {
    let audit = Admin::of(server).get("/v1/organization/audit_logs").await;
    let lines = audit["data"].as_array().unwrap().iter();
    let events: Vec<_> = lines
        .filter_map(|line| line["type"].as_str())
        .filter(|event| event.starts_with("model."))
        .take(2)
        .collect();
    assert_eq!(events, ["model.rolled_back", "model.promoted"], "{audit}");
    let list = model(server, &["revisions", "triage"]);
    assert_eq!(list.lines().count(), 3, "{list}");
    assert_eq!(list.matches("serves").count(), 1, "{list}");
    let history = server.cli(&["eval", "history"]);
    let ids: Vec<_> = history.lines().skip(1).map(|line| &line[..8]).collect();
    assert_eq!(ids.len(), 3, "{history}");
    let compared = server.cli(&["eval", "compare", ids[0], ids[1]]);
    assert!(compared.contains("better at"), "{compared}");
}

/// A remote worker, and two revisions of one vertical over it; gives the one that the config had first.
async fn two_revisions() -> (Upstream, Site, Server, String) {
    let upstream = Upstream::start(Script::words(3), 0).await.unwrap();
    let site = Site::new(&format!(
        "[tenancy]\nbootstrap_key = \"{KEY}\"\n[[worker]]\nname = \"w\"\nengine = \"remote\"\nurl = \"{}\"\nmodels = [\"{MODEL}\"]\n",
        upstream.url()
    ));
    let vertical = |system: &str| {
        format!("[[model]]\nname = \"v\"\nbase = \"{MODEL}\"\nsystem = \"{system}\"\n")
    };
    site.write(&vertical("one"));
    let server = Server::start_on(site.config.clone(), &[]).await;
    let first = served(&server, "v", "ann").await;
    let first = first.rsplit_once('#').unwrap().1.to_owned();
    site.change(&server, &vertical("two"));
    until(&server, "v", |revision| !revision.ends_with(&first)).await;
    (upstream, site, server, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_gets_its_share_of_users_and_always_the_same() {
    let (_upstream, _site, server, first) = two_revisions().await;
    server.cli(&[
        "model",
        "canary",
        "v",
        "--percent",
        "10",
        "--revision",
        &first,
    ]);
    let client = Client::builder().no_proxy().build().unwrap();
    let gets = async |user: String| {
        let answer = answer(&client, &server.url, "v", &user).await;
        assert_eq!(answer.status(), 200);
        let revision = answer.headers()["x-forebay-revision"].to_str().unwrap();
        let canary = revision.ends_with(&first);
        answer.bytes().await.unwrap();
        (user, canary)
    };
    let deadline = Instant::now() + FOLLOWS;
    while !gets(format!("user {}", rand::random::<u64>())).await.1 {
        assert!(Instant::now() < deadline, "{}", server.log());
    }
    let everybody =
        || futures_util::stream::iter((0..5000).map(|user| gets(format!("user {user}"))));
    let seen: BTreeMap<_, _> = everybody().buffer_unordered(32).collect().await;
    let canaries = seen.values().filter(|canary| **canary).count();
    assert!((400..=600).contains(&canaries), "{canaries} of 5,000");
    let again: BTreeMap<_, _> = everybody().buffer_unordered(32).collect().await;
    assert!(again == seen, "a user changed sides");
    server.cli(&["model", "canary", "v", "--percent", "0"]);
    let (someone, _) = seen.iter().find(|(_, canary)| **canary).unwrap();
    let deadline = Instant::now() + FOLLOWS;
    while gets(someone.clone()).await.1 {
        assert!(Instant::now() < deadline, "the canary goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shadow_answers_nobody_and_costs_nothing() {
    let (upstream, _site, server, first) = two_revisions().await;
    server.cli(&[
        "model",
        "shadow",
        "v",
        "--percent",
        "100",
        "--revision",
        &first,
    ]);
    let shadows = "forebay_shadow_requests_total{model=\"v\",outcome=\"answered\"}";
    let deadline = Instant::now() + FOLLOWS;
    while !server.metrics().await.contains(shadows) {
        assert!(Instant::now() < deadline, "{}", server.log());
        served(&server, "v", "ann").await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = (
        server.metric(shadows).await,
        count(&server, "SELECT count(*) FROM charge").await,
    );
    let asked = upstream.started();
    for user in 0..20 {
        let revision = served(&server, "v", &user.to_string()).await;
        assert!(!revision.ends_with(&first), "a shadow answered");
    }
    server
        .wait_for_metric(shadows, before.0 + 20.0, FOLLOWS)
        .await;
    assert_eq!(upstream.started() - asked, 40);
    let systems: Vec<_> = upstream
        .seen()
        .iter()
        .rev()
        .take(40)
        .map(|seen| seen.body["messages"][0]["content"].clone())
        .collect();
    assert_eq!(
        systems
            .iter()
            .filter(|system| **system == json!("one"))
            .count(),
        20
    );
    let rows = count(&server, "SELECT count(*) FROM charge").await;
    assert_eq!(rows - before.1, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_see_and_decide_what_serves() {
    let (_upstream, _site, server, first) = two_revisions().await;
    let admin = Admin::of(&server);
    let models = admin.get("/v1/organization/models").await;
    let model = &models["data"][0];
    assert_eq!(
        (&model["id"], &model["serving"]["previous"]),
        (&json!("v"), &json!(first))
    );
    let second = model["serving"]["revision"].as_str().unwrap().to_owned();
    let serve = async |path: &str, body: Value| {
        admin
            .post(&format!("/v1/organization/models/v/{path}"), body)
            .await
    };
    let promoted = serve("promote", json!({"revision": first})).await;
    assert_eq!(promoted["serving"]["revision"], first.as_str());
    until(&server, "v", |revision| revision.ends_with(&first)).await;
    let back = serve("rollback", json!({})).await;
    assert_eq!(back["serving"]["revision"], second.as_str());
    let shared = serve(
        "shares",
        json!({"canary": {"revision": first, "percent": 5}}),
    )
    .await;
    assert_eq!(shared["serving"]["canary"]["percent"], 5.0);
    for (path, body, status) in [
        ("promote", json!({"revision": "nothing"}), 404),
        (
            "shares",
            json!({"canary": {"revision": first, "percent": 101}}),
            400,
        ),
        (
            "shares",
            json!({"shadow": {"revision": second, "percent": 1}}),
            409,
        ),
    ] {
        let path = format!("/v1/organization/models/v/{path}");
        let refused = admin.ask(Method::POST, &path, body).await;
        assert_eq!(refused.status().as_u16(), status, "{path}");
    }
    let refused = admin
        .ask(Method::GET, "/v1/organization/models/none", json!(null))
        .await;
    assert_eq!(refused.status(), 404);
}
