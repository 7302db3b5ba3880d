//! A running server with a store of its own, and its command line beside it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use loadtest::ports;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const KEY: &str = "fb-local";
pub(crate) const CHAT: &str = "smollm2-135m-instruct";
pub(crate) const EMBEDDINGS: &str = "all-minilm-l6-v2";
const READY: Duration = Duration::from_secs(120);

/// Ends with this value: the process is killed and its folder removed.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) metrics_url: String,
    pub(crate) client: Client,
    folder: TempDir,
    settings: Vec<(String, String)>,
    config: PathBuf,
    until: &'static str,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more settings, as `FOREBAY_*` variables.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::start_on(root().join("config/quickstart.toml"), settings).await
    }

    pub(crate) async fn start_on(config: PathBuf, settings: &[(&str, &str)]) -> Self {
        Self::start_until("/ready", config, settings).await
    }

    /// Waits only until this path gives 200: `/health` where some model never gets ready.
    pub(crate) async fn start_until(
        until: &'static str,
        config: PathBuf,
        settings: &[(&str, &str)],
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let mut server = Self {
            child: sleeper(),
            url: String::new(),
            metrics_url: String::new(),
            client: Client::builder()
                .no_proxy()
                .pool_max_idle_per_host(0)
                .build()
                .unwrap(),
            folder,
            settings,
            config,
            until,
        };
        server.run().await;
        server
    }

    /// Starts the process on the store that is there, and waits until it is ready.
    async fn run(&mut self) {
        let (port, metrics_port) = (ports::free().unwrap(), ports::free().unwrap());
        self.url = format!("http://127.0.0.1:{port}");
        self.metrics_url = format!("http://127.0.0.1:{metrics_port}");
        let log = std::fs::File::create(self.folder.path().join("forebay.log")).unwrap();
        self.child = self
            .command(&["serve"])
            .env("FOREBAY_SERVER__LISTEN", format!("127.0.0.1:{port}"))
            .env(
                "FOREBAY_METRICS__LISTEN",
                format!("127.0.0.1:{metrics_port}"),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let deadline = Instant::now() + READY;
        loop {
            let url = format!("{}{}", self.url, self.until);
            let ready = self.client.get(url).send().await;
            if ready.is_ok_and(|answer| answer.status() == 200) {
                return;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("forebay serve ended with {status}:\n{}", self.log());
            }
            assert!(
                Instant::now() < deadline,
                "{} gave no 200:\n{}",
                self.until,
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// `kill -9`, and a new start on what is left.
    pub(crate) async fn kill_and_restart(&mut self) {
        self.kill();
        self.run().await;
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = forebay();
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .env(
                "FOREBAY_STORE__URL",
                format!("sqlite://{}", self.store().display()),
            )
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("t.db")
    }

    /// Where it keeps its books.
    pub(crate) fn store_url(&self) -> String {
        let set = self
            .settings
            .iter()
            .find(|(name, _)| name == "FOREBAY_STORE__URL");
        set.map_or_else(
            || format!("sqlite://{}", self.store().display()),
            |(_, url)| url.clone(),
        )
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("forebay.log")).unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client
            .post(format!("{}{path}", self.url))
            .bearer_auth(KEY)
            .json(body)
    }

    /// A chat completion that must succeed.
    pub(crate) async fn chat(&self, body: Value) -> Value {
        let answer = self
            .post("/v1/chat/completions", &chat(body))
            .send()
            .await
            .unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The error of a request that must be refused with this status.
    pub(crate) async fn refused(&self, path: &str, body: &Value, status: u16) -> Value {
        let answer = self.post(path, body).send().await.unwrap();
        assert_eq!(answer.status(), status, "{body}");
        answer.json::<Value>().await.unwrap()["error"].clone()
    }

    /// A streamed chat completion's response, to be read by the caller.
    pub(crate) async fn stream(&self, body: Value) -> Response {
        let mut body = chat(body);
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let answer = self
            .post("/v1/chat/completions", &body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        answer
    }

    /// What `forebay ARGUMENTS` prints.
    pub(crate) fn cli(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// What `forebay ARGUMENTS` says, and how it ends.
    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// What `forebay ARGUMENTS` says when it fails.
    pub(crate) fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// The bill, a row for each project and model.
    pub(crate) fn usage(&self) -> Vec<Value> {
        serde_json::from_str(&self.cli(&["usage", "--format", "json"])).unwrap()
    }

    /// Requests, prompt tokens and completion tokens that the bill of the project `local` has for a model.
    pub(crate) fn billed(&self, model: &str) -> [u64; 3] {
        let rows = self.usage();
        let row = rows
            .iter()
            .find(|row| row["model"] == model && row["project"] == "local");
        ["requests", "prompt_tokens", "completion_tokens"]
            .map(|name| row.map_or(0, |row| row[name].as_u64().unwrap()))
    }

    pub(crate) async fn metrics(&self) -> String {
        let answer = self
            .client
            .get(format!("{}/metrics", self.metrics_url))
            .send()
            .await
            .unwrap();
        answer.text().await.unwrap()
    }

    /// The value of one metric, by its name with its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name} in:\n{text}"))
            .parse()
            .unwrap()
    }

    /// Looks every 20 ms until the metric has the value.
    pub(crate) async fn wait_for_metric(&self, name: &str, value: f64, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let now = self.metric(name).await;
            #[expect(clippy::float_cmp, reason = "gauges of whole things")]
            if now == value {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{name} is {now}, not {value}, after {limit:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill();
        }
    }
}

/// The binary, without the caller's own settings.
pub(crate) fn forebay() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("FOREBAY_") {
            command.env_remove(name);
        }
    }
    command.current_dir(root());
    command
}

pub(crate) fn run(arguments: &[&str]) -> Output {
    forebay().args(arguments).output().unwrap()
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Stands in the place of a server that isn't started yet.
fn sleeper() -> Child {
    Command::new("true").spawn().unwrap()
}

/// A config made of the quickstart's, with one text in the place of another.
pub(crate) fn quickstart_with(old: &str, new: &str) -> PathBuf {
    let quickstart = std::fs::read_to_string(root().join("config/quickstart.toml")).unwrap();
    assert!(quickstart.contains(old));
    let config = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(config.path(), quickstart.replace(old, new)).unwrap();
    config.keep().unwrap().1
}

/// A request at temperature 0, under the fields of `body`.
pub(crate) fn chat(body: Value) -> Value {
    let mut request = json!({"model": CHAT, "temperature": 0, "max_tokens": 32});
    for (name, value) in body.as_object().unwrap() {
        if name == "ask" {
            request["messages"] = json!([{"role": "user", "content": value}]);
        } else {
            request[name] = value.clone();
        }
    }
    request
}

/// A stream put together again.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Joined {
    pub(crate) text: String,
    pub(crate) finish: Value,
    pub(crate) usage: Value,
    pub(crate) done: bool,
    pub(crate) error: Value,
}

impl Joined {
    pub(crate) fn read(body: &str) -> Self {
        let mut joined = Self::default();
        for frame in body
            .split("\n\n")
            .filter_map(|frame| frame.strip_prefix("data: "))
        {
            joined.frame(frame);
        }
        joined
    }

    fn frame(&mut self, frame: &str) {
        assert!(!self.done, "something after [DONE]");
        if frame == "[DONE]" {
            self.done = true;
            return;
        }
        let chunk: Value = serde_json::from_str(frame).unwrap();
        if !chunk["error"].is_null() {
            self.error = chunk["error"].clone();
        }
        if !chunk["usage"].is_null() {
            self.usage = chunk["usage"].clone();
        }
        let choice = &chunk["choices"][0];
        self.text
            .push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        if !choice["finish_reason"].is_null() {
            assert!(self.finish.is_null(), "two finish reasons");
            self.finish = choice["finish_reason"].clone();
        }
    }
}
