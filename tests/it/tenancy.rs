//! Projects, keys and limits, as administrators and tenants meet them.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future};
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::files::upload;
use crate::harness::{CHAT, EMBEDDINGS, Server, chat};

/// An administrator of the default organisation.
pub(crate) struct Admin<'a> {
    server: &'a Server,
    key: String,
}

impl<'a> Admin<'a> {
    pub(crate) fn of(server: &'a Server) -> Self {
        Self {
            server,
            key: server.cli(&["key", "create", "--admin"]).trim().to_owned(),
        }
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, body: Value) -> Response {
        ask(self.server, &self.key, method, path, body).await
    }

    /// What must succeed.
    pub(crate) async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let answer = self.ask(method, path, body).await;
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.done(Method::GET, path, json!(null)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        self.done(Method::POST, path, body).await
    }

    /// A new project with these limits; gives its id and the secret of a key.
    pub(crate) async fn project(&self, name: &str, limits: Value) -> (String, String) {
        let body = json!({"name": name, "limits": limits});
        let project = self
            .done(Method::POST, "/v1/organization/projects", body)
            .await;
        let id = project["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/organization/projects/{id}/api_keys");
        let key = self.done(Method::POST, &path, json!({"name": "app"})).await;
        (id, key["value"].as_str().unwrap().to_owned())
    }
}

pub(crate) async fn ask(
    server: &Server,
    key: &str,
    method: Method,
    path: &str,
    body: Value,
) -> Response {
    let request = server
        .client
        .request(method, format!("{}{path}", server.url))
        .bearer_auth(key);
    request.json(&body).send().await.unwrap()
}

pub(crate) async fn chat_as(server: &Server, key: &str, body: Value) -> Response {
    ask(
        server,
        key,
        Method::POST,
        "/v1/chat/completions",
        chat(body),
    )
    .await
}

/// The status that a short question gets.
async fn asks(server: &Server, key: &str) -> u16 {
    let answer = chat_as(server, key, json!({"ask": "Hi", "max_tokens": 2})).await;
    answer.status().as_u16()
}

async fn error(answer: Response) -> Value {
    answer.json::<Value>().await.unwrap()["error"].clone()
}

fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer.headers()[name].to_str().unwrap()
}

#[tokio::test]
async fn an_administrator_makes_projects_and_keys_and_takes_them_back() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let (id, secret) = admin.project("acme", json!({})).await;
    assert_eq!(asks(&server, &secret).await, 200);

    let path = format!("/v1/organization/projects/{id}");
    let keys = format!("{path}/api_keys");
    let list = admin.get(&keys).await;
    let key = &list["data"][0];
    let redacted = format!("fb-...{}", &secret[secret.len() - 4..]);
    assert_eq!(
        (&key["redacted_value"], &list["has_more"]),
        (&json!(redacted), &json!(false))
    );
    assert!(
        key["value"].is_null() && key["last_used_at"].is_number(),
        "{key}"
    );

    // A name is taken once, a rename shows at once.
    let twice = admin.ask(
        Method::POST,
        "/v1/organization/projects",
        json!({"name": "acme"}),
    );
    assert_eq!(twice.await.status(), 409);
    let renamed = admin.post(&path, json!({"name": "acme2"})).await;
    assert_eq!(renamed["name"], "acme2");

    rotated_and_revoked(&server, &admin, &keys, &secret, key["id"].as_str().unwrap()).await;

    let archived = admin.post(&format!("{path}/archive"), json!(null)).await;
    assert_eq!(archived["status"], "archived");
    let projects = admin.get("/v1/organization/projects?limit=50").await;
    let listed = projects["data"].as_array().unwrap();
    assert!(listed.iter().all(|project| project["id"] != id.as_str()));
    let log = admin.get("/v1/organization/audit_logs").await;
    let lines = log["data"].as_array().unwrap().iter();
    let types: Vec<_> = lines.map(|line| line["type"].as_str().unwrap()).collect();
    let newest_first = [
        "project.archived",
        "api_key.deleted",
        "api_key.rotated",
        "project.updated",
        "api_key.created",
        "project.created",
    ];
    assert_eq!(types[..6], newest_first);
    assert_eq!(log["data"][0]["project.archived"]["id"], id.as_str());
}

/// Both keys are good for a while; one that is taken back is good no longer than 2 seconds.
async fn rotated_and_revoked(
    server: &Server,
    admin: &Admin<'_>,
    keys: &str,
    secret: &str,
    id: &str,
) {
    let path = format!("{keys}/{id}");
    let overlap = json!({"overlap_seconds": 60});
    let new = admin.post(&format!("{path}/rotate"), overlap).await;
    for secret in [secret, new["value"].as_str().unwrap()] {
        assert_eq!(asks(server, secret).await, 200);
    }
    let deleted = admin.done(Method::DELETE, &path, json!(null)).await;
    assert_eq!(deleted["deleted"], true);
    let gone = admin.ask(Method::GET, &path, json!(null)).await;
    assert_eq!(gone.status(), 404);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = chat_as(server, secret, json!({"ask": "Hi"})).await;
    assert_eq!(refused.status(), 401);
    let message = error(refused).await["message"].clone();
    assert!(
        message.as_str().unwrap().contains("taken back"),
        "{message}"
    );
}

#[tokio::test]
async fn a_key_for_one_model_knows_of_no_other() {
    let server = Server::start().await;
    let key = server.cli(&["key", "create", "--project", "local", "--model", EMBEDDINGS]);
    let key = key.trim();
    let list = ask(&server, key, Method::GET, "/v1/models", json!(null)).await;
    let list: Value = list.json().await.unwrap();
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    let refused = chat_as(&server, key, json!({"ask": "Hi"})).await;
    assert_eq!(refused.status(), 404);
    let unknown = chat_as(&server, key, json!({"ask": "Hi", "model": "nothing"})).await;
    let words = |error: &Value| error["message"].as_str().unwrap().replace(CHAT, "nothing");
    assert_eq!(words(&error(refused).await), words(&error(unknown).await));
    let path = format!("/v1/models/{CHAT}");
    assert_eq!(
        ask(&server, key, Method::GET, &path, json!(null))
            .await
            .status(),
        404
    );
}

#[tokio::test]
async fn sixty_four_clients_race_for_ten_requests_a_minute_and_ten_get_an_answer() {
    let server = Server::start().await;
    let key = server.cli(&[
        "key",
        "create",
        "--project",
        "local",
        "--requests-per-minute",
        "10",
    ]);
    let key = key.trim();
    let race = (0..64).map(|_| chat_as(&server, key, json!({"ask": "Hi", "max_tokens": 2})));
    let answers = future::join_all(race).await;
    let served: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status() == 200)
        .collect();
    assert_eq!(served.len(), 10);
    let mut left: Vec<_> = served
        .iter()
        .map(|answer| header(answer, "x-ratelimit-remaining-requests"))
        .collect();
    left.sort_unstable();
    assert_eq!(left, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert!(
        served
            .iter()
            .all(|answer| header(answer, "x-ratelimit-limit-requests") == "10")
    );
    let refused = answers
        .into_iter()
        .find(|answer| answer.status() == 429)
        .unwrap();
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=61).contains(&wait), "{wait}");
    assert_eq!(header(&refused, "x-ratelimit-remaining-requests"), "0");
    let error = error(refused).await;
    assert_eq!(
        (&error["code"], &error["type"]),
        (&json!("rate_limit_exceeded"), &json!("requests"))
    );
    assert_eq!(server.billed(CHAT)[0], 10, "what was refused costs nothing");
}

#[tokio::test]
async fn retry_after_is_true_to_the_second() {
    let server = Server::start().await;
    let key = server.cli(&[
        "key",
        "create",
        "--project",
        "local",
        "--requests-per-minute",
        "1",
    ]);
    let key = key.trim();
    let ask = || chat_as(&server, key, json!({"ask": "Hi", "max_tokens": 1}));
    assert_eq!(ask().await.status(), 200);
    tokio::time::sleep(Duration::from_secs(55)).await;
    let start = Instant::now();
    let refused = ask().await;
    let told = Instant::now();
    let wait: u64 = header(&refused, "retry-after").parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
    // It is rounded up to a second, and an answer takes a while.
    tokio::time::sleep_until((start + Duration::from_secs(wait.saturating_sub(2))).into()).await;
    assert_eq!(ask().await.status(), 429, "sooner is too soon");
    tokio::time::sleep_until((told + Duration::from_secs(wait)).into()).await;
    assert_eq!(ask().await.status(), 200);
}

#[tokio::test]
async fn a_budget_that_ends_cuts_the_answer_and_says_so() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    // Prompt 0.02 and completion 0.06 a million tokens: 40 tokens of an answer cost 0.0000024.
    let limits =
        json!({"max_amount_per_1_month": "0.000004", "warn_amount_per_1_month": "0.000001"});
    let (id, key) = admin.project("thrifty", limits).await;
    let body = json!({"ask": "Tell me a long story.", "max_tokens": 1000, "ignore_eos": true});
    let answer = chat_as(&server, &key, body.clone()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "x-forebay-cut-by"), "budget_per_month");
    assert_eq!(
        header(&answer, "x-forebay-budget-warning"),
        "budget_per_month"
    );
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let usage = &answer["usage"];
    let tokens = |kind: &str| usage[kind].as_u64().unwrap();
    let pico = tokens("prompt_tokens") * 20_000 + tokens("completion_tokens") * 60_000;
    assert!(
        pico <= 4_000_000 && pico + 60_000 > 4_000_000,
        "{usage}: all of the budget, and no token more"
    );

    let refused = chat_as(&server, &key, body).await;
    assert_eq!(
        (
            refused.status().as_u16(),
            header(&refused, "x-should-retry")
        ),
        (429, "false")
    );
    assert_eq!(error(refused).await["code"], "insufficient_quota");

    // More budget counts within 2 seconds.
    let path = format!("/v1/organization/projects/{id}/rate_limits/rl-all");
    admin
        .done(Method::POST, &path, json!({"max_amount_per_1_month": "1"}))
        .await;
    let limits = admin
        .done(Method::GET, &path.replace("/rl-all", ""), json!(null))
        .await;
    assert_eq!(limits["data"][0]["max_amount_per_1_month"], "1");
    assert_eq!(
        limits["data"][0]["warn_amount_per_1_month"], "0.000001",
        "what isn't named stays"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let again = chat_as(&server, &key, json!({"ask": "Hi", "max_tokens": 3})).await;
    assert_eq!(again.status(), 200);
}

#[tokio::test]
async fn limits_count_on_after_a_restart() {
    let mut server = Server::start().await;
    let key = server.cli(&[
        "key",
        "create",
        "--project",
        "local",
        "--requests-per-day",
        "3",
    ]);
    let key = key.trim().to_owned();
    for left in ["2", "1"] {
        let answer = chat_as(&server, &key, json!({"ask": "Hi", "max_tokens": 2})).await;
        assert_eq!(header(&answer, "x-ratelimit-remaining-requests"), left);
    }
    let tokens = server
        .metric(&format!(
            "forebay_tokens_total{{kind=\"completion\",model=\"{CHAT}\"}}"
        ))
        .await;
    server.kill_and_restart().await;
    let again = server
        .metric(&format!(
            "forebay_tokens_total{{kind=\"completion\",model=\"{CHAT}\"}}"
        ))
        .await;
    assert!(
        (again - tokens).abs() < 0.5,
        "counters are those of the ledger: {again}, {tokens}"
    );
    let answer = chat_as(&server, &key, json!({"ask": "Hi", "max_tokens": 2})).await;
    assert_eq!(header(&answer, "x-ratelimit-remaining-requests"), "0");
    assert_eq!(
        chat_as(&server, &key, json!({"ask": "Hi"})).await.status(),
        429
    );
}

#[tokio::test]
async fn streams_that_are_dropped_leave_no_reservation_and_pay_for_what_they_got() {
    let streams: u64 = std::env::var("FOREBAY_DROPS").map_or(100, |text| text.parse().unwrap());
    let server = Server::start().await;
    let key = server.cli(&[
        "key",
        "create",
        "--project",
        "local",
        "--concurrent",
        "64",
        "--tokens-per-day",
        "100000000",
    ]);
    let key = key.trim();
    let dropped = |index: u64| {
        let server = &server;
        async move {
            let body = json!({"ask": format!("Count to {index}."), "max_tokens": 500, "ignore_eos": true, "stream": true});
            let answer = chat_as(server, key, body).await;
            assert_eq!(answer.status(), 200);
            let mut frames = answer.bytes_stream();
            for _ in 0..index % 5 {
                frames.next().await.unwrap().unwrap();
            }
        }
    };
    futures_util::stream::iter(0..streams)
        .map(dropped)
        .buffer_unordered(16)
        .collect::<Vec<_>>()
        .await;
    server
        .wait_for_metric("forebay_ledger_open", 0.0, Duration::from_secs(10))
        .await;
    server
        .wait_for_metric("forebay_ledger_pending", 0.0, Duration::from_secs(10))
        .await;
    let last = chat_as(&server, key, json!({"ask": "Hi", "max_tokens": 1})).await;
    let left: u64 = header(&last, "x-ratelimit-remaining-tokens")
        .parse()
        .unwrap();
    let last: Value = last.json().await.unwrap();
    // Nothing is reserved: what is gone is what is on the bill, but for the token that the last one held in reserve.
    let [requests, prompt, completion] = server.billed(CHAT);
    assert!(last["usage"]["total_tokens"].is_number());
    assert_eq!(left, 100_000_000 - prompt - completion);
    assert!(requests > streams / 2, "{requests}");
}

/// What another tenant has, and what there is none of: both are to look the same.
struct Other {
    real: [String; 7],
}

const IN_BRACES: [&str; 7] = [
    "{project}",
    "{key}",
    "{limit}",
    "{file}",
    "{upload}",
    "{batch}",
    "{model}",
];
const MADE_UP: [&str; 7] = [
    "proj_none",
    "key_none",
    "rl-none",
    "file-none",
    "upload_none",
    "batch_none",
    "model-none",
];

impl Other {
    fn put<'a>(mut text: String, places: impl Iterator<Item = (&'a str, &'a str)>) -> String {
        for (place, value) in places {
            text = text.replace(place, value);
        }
        text
    }

    fn real(&self) -> impl Iterator<Item = &str> {
        self.real.iter().map(String::as_str)
    }

    fn path(&self, route: &str) -> String {
        let path = Self::put(route.to_owned(), IN_BRACES.into_iter().zip(self.real()));
        assert!(
            !path.contains('{'),
            "{route}: this test has to know what stands in its braces"
        );
        path
    }

    fn made_up_path(route: &str) -> String {
        Self::put(route.to_owned(), IN_BRACES.into_iter().zip(MADE_UP))
    }

    /// An answer about what there is none of, in the words of one about what there is.
    fn as_real(&self, text: String) -> String {
        Self::put(text, MADE_UP.into_iter().zip(self.real()))
    }
}

async fn a_file(server: &Server, key: &str) -> String {
    let file = upload(server, key, "batch", "b.jsonl", b"{}\n").await;
    file["id"].as_str().unwrap().to_owned()
}

async fn an_upload(server: &Server, key: &str) -> String {
    let wish = json!({"filename": "x", "purpose": "batch", "bytes": 1, "mime_type": "text/plain"});
    let made = ask(server, key, Method::POST, "/v1/uploads", wish).await;
    let made: Value = made.json().await.unwrap();
    made["id"].as_str().unwrap().to_owned()
}

async fn a_batch(server: &Server, key: &str) -> String {
    let wish = json!({
        "input_file_id": a_file(server, key).await, "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    });
    let made = ask(server, key, Method::POST, "/v1/batches", wish).await;
    let made: Value = made.json().await.unwrap();
    made["id"].as_str().unwrap().to_owned()
}

/// Every route with an id in it is tried with another tenant's key, so that routes that come later are tried too.
#[tokio::test]
async fn a_tenant_finds_nothing_of_anothers() {
    let server = Server::start().await;
    let admin = Admin::of(&server);
    let (id, key) = admin.project("other", json!({})).await;
    assert_eq!(asks(&server, &key).await, 200);
    let keys = admin
        .get(&format!("/v1/organization/projects/{id}/api_keys"))
        .await;
    let key_id = keys["data"][0]["id"].as_str().unwrap().to_owned();
    let other = Other {
        real: [
            id.clone(),
            key_id,
            "rl-all".into(),
            a_file(&server, &key).await,
            an_upload(&server, &key).await,
            a_batch(&server, &key).await,
            CHAT.into(),
        ],
    };
    let (_, mine) = admin.project("mine", json!({})).await;
    let mut tried = 0;
    for route in &forebay::api::paths() {
        // What models there are is no tenant's own.
        if !route.contains('{') || route == "/v1/models/{*model}" {
            continue;
        }
        for method in [
            Method::GET,
            Method::POST,
            Method::DELETE,
            Method::PUT,
            Method::PATCH,
        ] {
            let mut words = Vec::new();
            for path in [other.path(route), Other::made_up_path(route)] {
                let answer = ask(&server, &mine, method.clone(), &path, json!({"name": "x"})).await;
                let status = answer.status().as_u16();
                assert!([404, 405].contains(&status), "{method} {path}: {status}");
                words.push(other.as_real(answer.text().await.unwrap()));
            }
            assert_eq!(
                words[0], words[1],
                "{method} {route} tells whether there is such a thing"
            );
            tried += 1;
        }
    }
    assert!(tried >= 30);
    reports_show_ones_own(&server, &mine, &id).await;
    lists_show_ones_own(&server, &mine, &other).await;
    // An administrator's key asks no models, a tenant's administers nothing.
    assert_eq!(asks(&server, &admin.key).await, 403);
    let projects = ask(
        &server,
        &mine,
        Method::GET,
        "/v1/organization/projects",
        json!(null),
    );
    assert_eq!(projects.await.status(), 403);
}

/// Lists, and a batch over another's file.
async fn lists_show_ones_own(server: &Server, mine: &str, other: &Other) {
    for list in ["/v1/files", "/v1/batches"] {
        let rows = ask(server, mine, Method::GET, list, json!(null)).await;
        let rows: Value = rows.json().await.unwrap();
        assert_eq!(rows["data"], json!([]), "{list}");
    }
    for file in [&other.real[3], MADE_UP[3]] {
        let wish = json!({
            "input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h",
        });
        let refused = ask(server, mine, Method::POST, "/v1/batches", wish).await;
        assert_eq!(refused.status(), 404);
    }
}

/// Reports take ids in their query.
async fn reports_show_ones_own(server: &Server, mine: &str, other: &str) {
    let get = async |path: String| ask(server, mine, Method::GET, &path, json!(null)).await;
    for report in ["usage/completions", "usage/embeddings", "costs"] {
        for project in [other, "proj_none"] {
            let query = format!("start_time=0&limit=1&project_ids={project}");
            let answer = get(format!("/v1/organization/{report}?{query}")).await;
            assert_eq!(answer.status(), 404, "{report}");
        }
    }
    let start = jiff::Timestamp::now().as_second() - 60;
    let own = get(format!(
        "/v1/organization/usage/completions?start_time={start}"
    ))
    .await;
    let own: Value = own.json().await.unwrap();
    let mut buckets = own["data"].as_array().unwrap().iter();
    assert!(
        buckets.all(|bucket| bucket["results"] == json!([])),
        "{own}"
    );
}
