//! `auto`: which vertical a question comes to, and how far questions have drifted from what a vertical was tried on.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::books::count;
use crate::harness::{CHAT, EMBEDDINGS, KEY, Server, chat, quickstart_with};
use crate::tenancy::{Admin, ask, chat_as};

/// Two verticals that say what is their own, one that stands beside the second and costs less, and one by rules.
fn config(folder: &std::path::Path) -> PathBuf {
    let write = |name: &str, lines: &[&str]| {
        let path = folder.join(name);
        let lines = lines
            .iter()
            .map(|line| json!({"input": line}).to_string() + "\n");
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        path.display().to_string()
    };
    let pets = write(
        "pets.jsonl",
        &[
            "My dog limps",
            "The cat sneezes all day",
            "How often do I worm a puppy?",
        ],
    );
    let trains = write(
        "trains.jsonl",
        &[
            "When does the next train leave?",
            "My train was late, I want money back",
            "Can I take a bike on the train?",
        ],
    );
    let others = write(
        "others.jsonl",
        &[
            "What is the capital of Spain?",
            "Please correct this sentence",
            "How do I add two numbers?",
            "What is a poem?",
        ],
    );
    let items = folder.join("items.jsonl");
    let item =
        |text: &str| json!({"id": text, "input": text, "expected": "yes"}).to_string() + "\n";
    std::fs::write(
        &items,
        [
            "My hen lays no eggs",
            "A cow with fever",
            "The dog has fleas",
        ]
        .map(item)
        .concat(),
    )
    .unwrap();
    let suite = folder.join("suite.toml");
    std::fs::write(&suite, "name = \"pets\"\n[[task]]\nname = \"t\"\nitems = \"items.jsonl\"\nmax_tokens = 2\nscore = { by = \"rouge_l\" }\n").unwrap();
    let models = format!(
        "[auto]\ngeneral = \"{CHAT}\"\nembedding = \"{EMBEDDINGS}\"\nexamples = \"{others}\"\nthreshold = 0.1\nneighbours = 2
         [[model]]\nname = \"pets\"\nbase = \"{CHAT}\"\nsystem = \"Vet.\"\nroute = {{ examples = \"{pets}\" }}
         gate = {{ suite = \"{}\", bar = 0 }}
         drift = {{ projects = [\"local\"], embedding = \"{EMBEDDINGS}\", sample_percent = 100 }}
         [[model]]\nname = \"trains\"\nbase = \"{CHAT}\"\nprice = {{ prompt = \"5\" }}\nroute = {{ examples = \"{trains}\" }}
         [[model]]\nname = \"cheap-trains\"\nbase = \"{CHAT}\"\nprice = {{ prompt = \"1\" }}\nroute = {{ as = \"trains\" }}
         [[model]]\nname = \"rules\"\nbase = \"{CHAT}\"\nprojects = [\"local\"]
         route = {{ rules = [{{ keywords = [\"invoice\"], max_chars = 60 }}, {{ languages = [\"deu\"], min_chars = 20 }}, {{ tools = true }}] }}

         [[model]]\nname = \"{CHAT}\"",
        suite.display()
    );
    quickstart_with(&format!("[[model]]\nname = \"{CHAT}\""), &models)
}

async fn server() -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (Server::start_on(config(folder.path()), &[]).await, folder)
}

fn question(text: &str) -> Value {
    chat(json!({"model": "auto", "ask": text, "max_tokens": 1}))
}

/// What a question came to, and what decided it.
async fn went(server: &Server, body: &Value) -> (String, String) {
    let answer = server
        .post("/v1/chat/completions", body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert!(answer.headers().contains_key("x-forebay-route-score"));
    let told = (header("x-forebay-model"), header("x-forebay-route-by"));
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["model"], "auto", "as it was asked for");
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_finds_the_cheapest_that_may_serve_and_says_why() {
    let (server, _folder) = server().await;
    let went = async |text: &str| {
        let (model, by) = went(&server, &question(text)).await;
        format!("{model} by {by}")
    };
    // What is near to it goes to a vertical, but for one whose gate is closed.
    assert_eq!(
        went("My puppy has worms").await,
        format!("{CHAT} by general")
    );
    let url = server.url.clone();
    tokio::task::block_in_place(|| {
        server.cli(&["model", "promote", "pets", "--url", &url, "--key", KEY])
    });
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while went("My puppy has worms").await != "pets by nearest" {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(
        went("Is the train to town late again?").await,
        "cheap-trains by nearest"
    );
    assert_eq!(
        went("Please correct my invoice of May").await,
        "rules by rule"
    );
    let german = "Können Sie mir bitte sagen, wie hoch dieser Berg ist?";
    assert_eq!(went(german).await, "rules by rule");
    assert_eq!(
        went("What is the square root of two?").await,
        format!("{CHAT} by general")
    );
    let mut tools = question("What is the square root of two?");
    tools["tools"] = json!([{"type": "function", "function": {"name": "sqrt", "parameters": {"type": "object"}}}]);
    assert_eq!(self::went(&server, &tools).await.0, "rules");
    // The ledger says what it came to, and why.
    let routed = "SELECT count(*) FROM charge WHERE model = 'cheap-trains' AND route LIKE 'nearest trains 0.%'";
    assert_eq!(count(&server, routed).await, 1);
    assert_eq!(
        server
            .metric("forebay_routed_total{by=\"nearest\",model=\"cheap-trains\"}")
            .await,
        1.0
    );
    what_it_would_come_to_is_told_without_an_answer(&server).await;
    let list = server
        .client
        .get(format!("{}/v1/models", server.url))
        .bearer_auth(KEY)
        .send();
    let list: Value = list.await.unwrap().json().await.unwrap();
    assert!(
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|model| model["id"] == "auto")
    );
}

async fn what_it_would_come_to_is_told_without_an_answer(server: &Server) {
    let charges = count(server, "SELECT count(*) FROM charge").await;
    let routed = async |body: Value| server.post("/v1/route", &body).send().await.unwrap();
    let text = "Is the train to town late again?";
    let told: Value = routed(question(text)).await.json().await.unwrap();
    assert_eq!(
        json!([told["object"], told["model"], told["by"], told["nearest"]]),
        json!(["route", "cheap-trains", "nearest", "trains"])
    );
    assert!(told["score"].as_f64().unwrap() > 0.1 && told["took_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(
        count(server, "SELECT count(*) FROM charge").await,
        charges,
        "nothing was charged"
    );
    for (body, param) in [
        (json!({"model": CHAT, "messages": []}), "model"),
        (json!({"messages": []}), "model"),
        (json!({"model": "auto"}), "messages"),
    ] {
        let answer = routed(body.clone()).await;
        assert_eq!(answer.status(), 400, "{body}");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["error"]["param"], param, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_comes_to_nothing_that_a_key_may_not_ask() {
    let (server, _folder) = server().await;
    let admin = Admin::of(&server);
    let (project, other) = admin.project("other", json!({})).await;
    // The rules' vertical is for another project.
    let answer = chat_as(
        &server,
        &other,
        json!({"model": "auto", "ask": "My invoice", "max_tokens": 1}),
    )
    .await;
    assert_eq!(answer.headers()["x-forebay-model"], CHAT);
    let path = format!("/v1/organization/projects/{project}/api_keys");
    let key = async |models: Value| {
        let made = admin
            .done(Method::POST, &path, json!({"name": "k", "models": models}))
            .await;
        made["value"].as_str().unwrap().to_owned()
    };
    let trains = json!({"model": "auto", "ask": "When does the train leave?", "max_tokens": 1});
    // A key of one model comes to it, or to none.
    let dear = key(json!(["trains"])).await;
    let answer = chat_as(&server, &dear, trains.clone()).await;
    assert_eq!(answer.headers()["x-forebay-model"], "trains");
    let answer = chat_as(
        &server,
        &dear,
        json!({"model": "auto", "ask": "What is love?"}),
    )
    .await;
    assert_eq!(answer.status(), 404);
    let answer = ask(&server, &dear, Method::POST, "/v1/route", question("Love?")).await;
    assert_eq!(answer.status(), 404, "nor is it told what others would");
    let auto = key(json!(["auto"])).await;
    let answer = chat_as(&server, &auto, trains).await;
    assert_eq!(answer.headers()["x-forebay-model"], "cheap-trains");
    let answer = chat_as(&server, &auto, json!({"ask": "What is love?"})).await;
    assert_eq!(answer.status(), 404, "it may ask for auto alone");
    // A revision by its name is for the site's own.
    let stranger = server.cli(&["project", "create", "far", "--organisation", "elsewhere"]);
    let stranger = server.cli(&["key", "create", "--project", stranger.trim()]);
    let models = admin.get("/v1/organization/models/pets").await;
    let body = question("Hi");
    let named = json!(format!("pets@{}", models["configured"].as_str().unwrap()));
    for (key, status) in [(KEY, 200), (stranger.trim(), 404)] {
        let mut body = body.clone();
        body["model"] = named.clone();
        let answer = ask(&server, key, Method::POST, "/v1/chat/completions", body).await;
        assert_eq!(answer.status().as_u16(), status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drift_metric_tells_questions_of_another_kind() {
    let (server, _folder) = server().await;
    let url = server.url.clone();
    tokio::task::block_in_place(|| {
        server.cli(&["model", "promote", "pets", "--url", &url, "--key", KEY])
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let samples = "forebay_drift_samples_total{model=\"pets\"}";
    let mut sampled = 0.0;
    let mut drifted = async |text: &str| {
        for _ in 0..3 {
            server
                .chat(json!({"model": "pets", "ask": text, "max_tokens": 1}))
                .await;
        }
        sampled += 3.0;
        server
            .wait_for_metric(samples, sampled, Duration::from_secs(10))
            .await;
        server.metric("forebay_model_drift{model=\"pets\"}").await
    };
    let before = drifted("My goat has a fever").await;
    let after = drifted("Explain the French revolution").await;
    assert!(after > before + 0.1, "{before} and then {after}");
    // Nobody's question is looked at who did not opt in.
    let (_, other) = Admin::of(&server).project("other", json!({})).await;
    chat_as(
        &server,
        &other,
        json!({"model": "pets", "ask": "Hi", "max_tokens": 1}),
    )
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.metric(samples).await, sampled);
    // Nor is it kept.
    assert!(!server.metrics().await.contains("revolution") && !server.log().contains("revolution"));
}
