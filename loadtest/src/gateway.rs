//! Forebay before an upstream, as a child process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use loadtest::ports;
use tokio::process::Command;

use crate::client::Client;
use crate::process::{Process, Scratch};
use crate::target::LoopbackUrl;

/// How long it may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Gateway {
    pub(crate) process: Process,
    pub(crate) port: u16,
    binary: PathBuf,
    config: PathBuf,
}

impl Gateway {
    /// Serves the rest of a config on free ports with a store of its own. Returns once it is ready.
    pub(crate) async fn start(
        binary: &Path,
        name: &'static str,
        rest: &str,
        scratch: &Scratch,
    ) -> Result<Self> {
        let (port, metrics) = (ports::free()?, ports::free()?);
        let config = scratch.file(&format!("{name}.toml"));
        let store = scratch.file(&format!("{name}.db"));
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{port}\"\n[metrics]\nlisten = \"127.0.0.1:{metrics}\"\n\
             [store]\nurl = \"sqlite://{}\"\n{rest}",
            store.display()
        );
        std::fs::write(&config, text)?;
        let mut command = command(binary, &config, &["serve"]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut gateway = Self {
            process: Process::start(name, &mut command, scratch)?,
            port,
            binary: binary.to_owned(),
            config,
        };
        let url = gateway.url()?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            gateway.process.check_alive()?;
            let ready = Client::new().status(&url, "/ready").await;
            if ready.is_ok_and(|status| status == 200) {
                return Ok(gateway);
            }
            if Instant::now() > deadline {
                bail!("{name} does not get ready:\n{}", gateway.process.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn url(&self) -> Result<LoopbackUrl> {
        format!("http://127.0.0.1:{}", self.port).parse()
    }

    /// What `forebay ARGUMENTS` prints, without its line's end.
    pub(crate) async fn cli(&self, arguments: &[&str]) -> Result<String> {
        let mut command = command(&self.binary, &self.config, arguments);
        let output = command.kill_on_drop(true).output().await?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("forebay {}: {}", arguments.join(" "), error.trim());
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// The key of a new project with these options.
    pub(crate) async fn project(&self, name: &str, options: &[&str]) -> Result<String> {
        let arguments = [&["project", "create", name], options].concat();
        self.cli(&arguments).await?;
        self.cli(&["key", "create", "--project", name]).await
    }
}

fn command(binary: &Path, config: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        // What the caller's own environment says must not reach this server.
        if name.to_string_lossy().starts_with("FOREBAY_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).arg("--config").arg(config);
    command
}
