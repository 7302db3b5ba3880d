//! Batches, with the real model.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::files::{content, upload};
use crate::harness::{CHAT, EMBEDDINGS, KEY, Server};
use crate::tenancy::ask;

const CHATS: &str = "/v1/chat/completions";

/// A line of a batch's file.
fn line(id: &str, url: &str, body: &Value) -> String {
    json!({"custom_id": id, "method": "POST", "url": url, "body": body}).to_string()
}

fn chat_line(id: usize) -> String {
    let body = json!({
        "model": CHAT, "max_tokens": 8, "temperature": 0,
        "messages": [{"role": "user", "content": format!("Say {id}.")}],
    });
    line(&format!("line-{id}"), CHATS, &body)
}

async fn start(server: &Server, endpoint: &str, lines: &str) -> String {
    let file = upload(server, KEY, "batch", "in.jsonl", lines.as_bytes()).await;
    let wish = json!({
        "input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h",
        "metadata": {"night": "1"},
    });
    let made = ask(server, KEY, Method::POST, "/v1/batches", wish).await;
    let made: Value = made.json().await.unwrap();
    assert_eq!(made["status"], "validating", "{made}");
    assert_eq!(made["metadata"], json!({"night": "1"}));
    made["id"].as_str().unwrap().to_owned()
}

async fn look(server: &Server, id: &str) -> Value {
    let path = format!("/v1/batches/{id}");
    let answer = ask(server, KEY, Method::GET, &path, json!(null)).await;
    answer.json().await.unwrap()
}

/// Waits until a batch is as it is wanted.
async fn wait(server: &Server, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let batch = look(server, id).await;
        if wanted(&batch) {
            return batch;
        }
        assert!(Instant::now() < deadline, "{batch}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until(server: &Server, id: &str, status: &str) -> Value {
    wait(server, id, |batch| batch["status"] == status).await
}

/// The rows of one of its files by their names, each of which stands once.
async fn rows(server: &Server, file: &Value) -> HashMap<String, Value> {
    let Some(id) = file.as_str() else {
        return HashMap::new();
    };
    let text = String::from_utf8(content(server, id).await).unwrap();
    let mut rows = HashMap::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let name = row["custom_id"].as_str().unwrap().to_owned();
        assert!(rows.insert(name, row).is_none(), "a line stands twice");
    }
    rows
}

/// What the answers of a batch say that they took.
fn tokens(rows: &HashMap<String, Value>) -> [u64; 2] {
    let sum = |name: &str| {
        let all = rows.values();
        all.map(|row| row["response"]["body"]["usage"][name].as_u64().unwrap())
            .sum()
    };
    [sum("prompt_tokens"), sum("completion_tokens")]
}

#[tokio::test]
async fn a_batch_is_answered_each_line_once_at_the_batch_price() {
    let server = Server::start().await;
    let mut lines = String::new();
    for id in 0..20 {
        writeln!(lines, "{}", chat_line(id)).unwrap();
    }
    let wrong = json!({"model": CHAT, "messages": [], "max_tokens": 1});
    let unknown = json!({"model": "none", "messages": [{"role": "user", "content": "Hi"}]});
    writeln!(lines, "{}\n", line("wrong", CHATS, &wrong)).unwrap();
    writeln!(lines, "{}", line("unknown", CHATS, &unknown)).unwrap();
    write!(lines, "{}", line("elsewhere", "/v1/embeddings", &unknown)).unwrap();
    let id = start(&server, CHATS, &lines).await;
    let done = until(&server, &id, "completed").await;
    assert_eq!(
        done["request_counts"],
        json!({"total": 23, "completed": 20, "failed": 3})
    );
    for time in ["in_progress_at", "finalizing_at", "completed_at"] {
        assert!(done[time].is_i64(), "{time} in {done}");
    }
    let answers = rows(&server, &done["output_file_id"]).await;
    assert_eq!(answers.len(), 20);
    let one = &answers["line-7"];
    assert!(one["id"].as_str().unwrap().starts_with("batch_req_"));
    assert_eq!(
        (&one["response"]["status_code"], &one["error"]),
        (&json!(200), &json!(null))
    );
    assert_eq!(one["response"]["body"]["object"], "chat.completion");
    let errors = rows(&server, &done["error_file_id"]).await;
    let mut told: Vec<_> = errors
        .iter()
        .map(|(name, row)| {
            let response = &row["response"];
            let param = response["body"]["error"]["param"].as_str().unwrap();
            (
                name.as_str(),
                response["status_code"].as_u64().unwrap(),
                param,
            )
        })
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            ("elsewhere", 400, "url"),
            ("unknown", 404, "model"),
            ("wrong", 400, "messages")
        ]
    );
    // The bill: half of the price, and as many tokens as the answers say.
    let [prompt, completion] = tokens(&answers);
    assert_eq!(server.billed(CHAT), [20, prompt, completion]);
    let bill = server.usage();
    let row = bill.iter().find(|row| row["model"] == CHAT).unwrap();
    let pico = (prompt * 20_000 + completion * 60_000) / 2;
    let amount: f64 = row["amount"].as_str().unwrap().parse().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "it is a small number")]
    let expected = pico as f64 / 1e12;
    assert!((amount - expected).abs() < 1e-13, "{amount} {expected}");
}

#[tokio::test]
async fn embeddings_and_text_completions_come_in_batches_too() {
    let server = Server::start().await;
    for (endpoint, body) in [
        (
            "/v1/embeddings",
            json!({"model": EMBEDDINGS, "input": "a text"}),
        ),
        (
            "/v1/completions",
            json!({"model": CHAT, "prompt": "Once", "max_tokens": 4}),
        ),
    ] {
        let id = start(&server, endpoint, &line("a", endpoint, &body)).await;
        let done = until(&server, &id, "completed").await;
        assert_eq!(done["error_file_id"], json!(null));
        let answers = rows(&server, &done["output_file_id"]).await;
        assert_eq!(answers["a"]["response"]["status_code"], 200, "{answers:?}");
    }
}

#[tokio::test]
async fn a_file_that_can_not_be_run_says_why_line_by_line() {
    let server = Server::start().await;
    let twice = format!("{}\n{}\n", chat_line(1), chat_line(1));
    for (lines, code, number) in [
        (twice.as_str(), "duplicate_custom_id", json!(2)),
        (
            "{\"custom_id\": \"a\"}\n{nonsense\n",
            "invalid_json_line",
            json!(2),
        ),
        ("\n", "empty_file", json!(null)),
        ("{}\n", "missing_custom_id", json!(1)),
    ] {
        let id = start(&server, CHATS, lines).await;
        let failed = until(&server, &id, "failed").await;
        let errors = &failed["errors"];
        assert_eq!(errors["object"], "list", "{failed}");
        let fault = &errors["data"][0];
        assert_eq!((&fault["code"], &fault["line"]), (&json!(code), &number));
        assert!(failed["failed_at"].is_i64() && failed["output_file_id"].is_null());
    }
    // All of whose lines fail is completed, with nothing but errors.
    let id = start(&server, CHATS, &line("a", CHATS, &json!({"model": "none"}))).await;
    let done = until(&server, &id, "completed").await;
    assert!(done["output_file_id"].is_null() && done["error_file_id"].is_string());

    let file = upload(&server, KEY, "user_data", "x", b"{}").await;
    for (wish, status, param) in [
        (json!({"input_file_id": file["id"]}), 400, "endpoint"),
        (
            json!({"input_file_id": file["id"], "endpoint": "/v1/models", "completion_window": "24h"}),
            400,
            "endpoint",
        ),
        (
            json!({"input_file_id": file["id"], "endpoint": CHATS, "completion_window": "1h"}),
            400,
            "completion_window",
        ),
        (
            json!({"input_file_id": file["id"], "endpoint": CHATS, "completion_window": "24h"}),
            400,
            "input_file_id",
        ),
        (
            json!({"input_file_id": file["id"], "endpoint": CHATS, "completion_window": "24h", "metadata": {"a": 1}}),
            400,
            "metadata",
        ),
    ] {
        let error = server.refused("/v1/batches", &wish, status).await;
        let named = error["param"].as_str().unwrap_or_default();
        let message = error["message"].as_str().unwrap();
        assert!(named == param || message.contains(param), "{wish}: {error}");
    }
}

#[tokio::test]
async fn a_batch_that_is_cancelled_keeps_what_was_answered() {
    let server = Server::start_with(&[("FOREBAY_BATCHES__LINES_AT_ONCE", "2")]).await;
    let lines: String = (0..300).map(|id| chat_line(id) + "\n").collect();
    let id = start(&server, CHATS, &lines).await;
    let some = |batch: &Value| batch["request_counts"]["completed"].as_u64().unwrap() >= 3;
    let running = wait(&server, &id, some).await;
    assert_eq!(running["status"], "in_progress");
    // Its file can't be taken from under it.
    let input = format!("/v1/files/{}", running["input_file_id"].as_str().unwrap());
    let kept = ask(&server, KEY, Method::DELETE, &input, json!(null)).await;
    assert_eq!(kept.status(), 409);
    let path = format!("/v1/batches/{id}/cancel");
    let cancelling = ask(&server, KEY, Method::POST, &path, json!(null)).await;
    let cancelling: Value = cancelling.json().await.unwrap();
    assert_eq!(cancelling["status"], "cancelling");
    let done = until(&server, &id, "cancelled").await;
    let answers = rows(&server, &done["output_file_id"]).await;
    let completed = done["request_counts"]["completed"].as_u64().unwrap();
    assert!((3..300).contains(&completed), "{done}");
    assert_eq!(answers.len() as u64, completed);
    let [prompt, completion] = tokens(&answers);
    assert_eq!(server.billed(CHAT), [completed, prompt, completion]);
    let again = ask(&server, KEY, Method::POST, &path, json!(null)).await;
    assert_eq!(again.status(), 409);
    let gone = ask(&server, KEY, Method::DELETE, &input, json!(null)).await;
    assert_eq!(gone.status(), 200);
}

#[tokio::test]
async fn a_batch_whose_time_is_over_says_so_of_each_line_without_an_answer() {
    let server = Server::start_with(&[
        ("FOREBAY_BATCHES__LINES_AT_ONCE", "2"),
        ("FOREBAY_BATCHES__WINDOW_S", "3"),
    ])
    .await;
    let lines: String = (0..2000).map(|id| chat_line(id) + "\n").collect();
    let id = start(&server, CHATS, &lines).await;
    let done = until(&server, &id, "expired").await;
    assert!(done["expired_at"].is_i64(), "{done}");
    let answers = rows(&server, &done["output_file_id"]).await;
    let errors = rows(&server, &done["error_file_id"]).await;
    assert!(!answers.is_empty() && answers.len() + errors.len() == 2000);
    for row in errors.values() {
        assert_eq!(row["error"]["code"], "batch_expired");
        assert_eq!(row["response"], json!(null));
    }
    let [prompt, completion] = tokens(&answers);
    assert_eq!(
        server.billed(CHAT),
        [answers.len() as u64, prompt, completion]
    );
}

#[tokio::test]
async fn a_batch_goes_on_where_it_stood_when_the_process_died() {
    let mut server = Server::start().await;
    let lines: String = (0..200).map(|id| chat_line(id) + "\n").collect();
    let id = start(&server, CHATS, &lines).await;
    for answered in [20, 60, 100] {
        let some =
            |batch: &Value| batch["request_counts"]["completed"].as_u64().unwrap() >= answered;
        wait(&server, &id, some).await;
        server.kill_and_restart().await;
    }
    let done = until(&server, &id, "completed").await;
    assert_eq!(
        done["request_counts"],
        json!({"total": 200, "completed": 200, "failed": 0})
    );
    let answers = rows(&server, &done["output_file_id"]).await;
    assert_eq!(answers.len(), 200);
    let billed = server.billed(CHAT);
    let [prompt, completion] = tokens(&answers);
    // Each line is charged once. An answer that was charged and lost before it was written down is generated again, for
    // nothing, and at temperature 0 from the same prompt.
    assert_eq!(billed[0], 200);
    assert_eq!(billed[1], prompt);
    assert!(
        billed[2].abs_diff(completion) <= 24,
        "{} {completion}",
        billed[2]
    );
}
