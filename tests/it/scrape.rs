//! The metrics: accepted by promtool, scraped by a real Prometheus while requests run.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future;
use serde_json::{Value, json};

use crate::harness::{CHAT, Server};

const MISSING: &str = "not on PATH: run `make test`, which unpacks Debian's prometheus";

#[tokio::test]
async fn promtool_accepts_the_metrics() {
    let server = Server::start().await;
    server.chat(json!({"ask": "Hello"})).await;
    let text = server.metrics().await;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("promtool {MISSING} ({error})"));
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// Killed when the test ends.
struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn a_real_prometheus_scrapes_while_requests_run() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("prometheus.yml");
    let target = server.metrics_url.trim_start_matches("http://");
    let scrape = format!(
        "global: {{scrape_interval: 200ms}}\nscrape_configs:\n  - job_name: forebay\n    static_configs: [{{targets: [\"{target}\"]}}]\n"
    );
    std::fs::write(&config, scrape).unwrap();
    let port = loadtest::ports::free().unwrap();
    let _prometheus = Prometheus(
        Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus {MISSING} ({error})")),
    );
    let load = async {
        let asks = (0..8).map(|index| {
            server.chat(
                json!({"ask": format!("Count to {index}."), "max_tokens": 120, "ignore_eos": true}),
            )
        });
        future::join_all(asks).await
    };
    let query = "max_over_time(forebay_sequences_running{worker=\"smollm2\"}[1m])";
    let (answers, running) = future::join(load, at_least(&server, port, query, 8.0)).await;
    assert!(running >= 8.0);

    let completion: u64 = answers
        .iter()
        .map(|answer| answer["usage"]["completion_tokens"].as_u64().unwrap())
        .sum();
    #[expect(clippy::cast_precision_loss, reason = "a few hundred tokens")]
    let completion = completion as f64;
    let query = format!("forebay_tokens_total{{model=\"{CHAT}\",kind=\"completion\"}}");
    let scraped = at_least(&server, port, &query, completion).await;
    assert_eq!(scraped.to_bits(), completion.to_bits());
    assert_eq!(
        at_least(&server, port, "up", 1.0).await.to_bits(),
        1.0_f64.to_bits()
    );
}

/// The value of a query, once it is at least this.
async fn at_least(server: &Server, port: u16, query: &str, value: f64) -> f64 {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let url = format!("http://127.0.0.1:{port}/api/v1/query");
        let answer = server
            .client
            .get(url)
            .query(&[("query", query)])
            .send()
            .await;
        let result: Value = match answer {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        };
        let found = result["data"]["result"][0]["value"][1]
            .as_str()
            .and_then(|text| text.parse::<f64>().ok());
        if let Some(found) = found.filter(|found| *found >= value) {
            return found;
        }
        assert!(Instant::now() < deadline, "{query}: {result}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
