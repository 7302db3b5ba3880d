//! Forebay as a child process: a config of the test's own on free ports, with a store of its own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hyper::StatusCode;
use loadtest::ports;
use tokio::process::Command;

use crate::{
    client::Client,
    process::{Process, Scratch},
    target::LoopbackUrl,
};

const READY_POLL: Duration = Duration::from_millis(100);

/// What the started server is told.
pub(crate) struct Settings<'a> {
    /// The model id, and the file that is served under it.
    pub(crate) model: &'a str,
    pub(crate) weights: &'a Path,
    pub(crate) slots: usize,
    pub(crate) context_tokens: u32,
    /// 0 is no prefix cache.
    pub(crate) prefix_cache_mib: u32,
    /// A key that needs no project.
    pub(crate) key: &'a str,
}

pub(crate) struct Server {
    pub(crate) url: LoopbackUrl,
    pub(crate) metrics: LoopbackUrl,
    pub(crate) process: Process,
    commands: Commands,
}

/// The binary on one config and one store.
struct Commands {
    binary: PathBuf,
    config: PathBuf,
    settings: [(&'static str, String); 3],
}

impl Server {
    /// Returns once every model is loaded.
    pub(crate) async fn start(
        binary: &Path,
        settings: &Settings<'_>,
        scratch: &Scratch,
    ) -> Result<Self> {
        let listen = format!("127.0.0.1:{}", ports::free()?);
        let metrics = format!("127.0.0.1:{}", ports::free()?);
        let (config, store) = (scratch.file("forebay.toml"), scratch.file("forebay.db"));
        std::fs::write(&config, text(settings))?;
        let commands = Commands {
            binary: binary.to_owned(),
            config,
            // By the environment: what the caller's own environment says must not reach this server.
            settings: [
                ("FOREBAY_SERVER__LISTEN", listen.clone()),
                ("FOREBAY_METRICS__LISTEN", metrics.clone()),
                (
                    "FOREBAY_STORE__URL",
                    format!("sqlite://{}", store.display()),
                ),
            ],
        };
        let mut command = commands.command(&["serve"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut server = Self {
            url: format!("http://{listen}").parse()?,
            metrics: format!("http://{metrics}").parse()?,
            process: Process::start("forebay", &mut command, scratch)?,
            commands,
        };
        let client = Client::new();
        loop {
            server.process.check_alive()?;
            if let Ok(StatusCode::OK) = client.status(&server.url, "/ready").await {
                return Ok(server);
            }
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// What `forebay ARGUMENTS` prints, run on this server's store.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.commands.command(arguments);
        let output = command.kill_on_drop(true).output().await?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("forebay {}: {}", arguments.join(" "), error.trim());
        }
        String::from_utf8(output.stdout).context("forebay printed no UTF-8")
    }
}

impl Commands {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            .envs(self.settings.iter().map(|(name, value)| (name, value)));
        command
    }
}

fn text(settings: &Settings<'_>) -> String {
    // A JSON string is a TOML string as well.
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    format!(
        "[tenancy]\nbootstrap_key = {key}\n\n[[worker]]\nname = \"loadtest\"\nengine = \"llama\"\n\
         model = {model}\nweights = {weights}\nslots = {slots}\ncontext_tokens = {context_tokens}\n\
         prefix_cache_mib = {prefix_cache_mib}\n",
        key = quoted(settings.key),
        model = quoted(settings.model),
        weights = quoted(&settings.weights.to_string_lossy()),
        slots = settings.slots,
        context_tokens = settings.context_tokens,
        prefix_cache_mib = settings.prefix_cache_mib,
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Settings, text};

    #[test]
    fn a_name_can_not_break_out_of_its_quotes() {
        let text = text(&Settings {
            model: "a\"b",
            weights: Path::new("w.gguf"),
            slots: 32,
            context_tokens: 2048,
            prefix_cache_mib: 0,
            key: "fb-local",
        });
        assert!(text.contains("\nmodel = \"a\\\"b\"\n"), "{text}");
    }
}
