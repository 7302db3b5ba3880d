//! A server that the test starts, and that ends with it.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A folder for logs and databases, gone when it is dropped.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("forebay-loadtest-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("can't create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing depends on the folder any more, and there is nobody left to tell.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// How long a child that is told to end may take, in looks of 10 ms.
const LOOKS: usize = 100;

/// Its drop ends the child, by its own id: by SIGTERM, so that it ends its own children, and what stays is killed.
pub(crate) struct Process {
    pub(crate) child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its standard error in a log file. What becomes of the other streams
    /// is the caller's choice.
    pub(crate) fn start(
        name: &'static str,
        command: &mut Command,
        scratch: &Scratch,
    ) -> Result<Self> {
        let log = scratch.file(&format!("{name}.log"));
        let child = command
            .stderr(Stdio::from(File::create(&log)?))
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("can't start {name}: {:?}", command.as_std().get_program()))?;
        Ok(Self { child, name, log })
    }

    /// An error with the end of the log, once the child is gone.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(());
        };
        bail!("{} ended ({status}):\n{}", self.name, self.log_tail());
    }

    /// What stands behind `READY ` in the first such line that the child prints.
    pub(crate) async fn ready(&mut self) -> Result<String> {
        let stdout = self.child.stdout.take();
        let stdout = stdout.with_context(|| format!("{} has no output", self.name))?;
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some(rest) = line.strip_prefix("READY ") {
                return Ok(rest.trim().to_owned());
            }
        }
        bail!(
            "{} ended before it was ready:\n{}",
            self.name,
            self.log_tail()
        );
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().rev().take(15).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// None once the child is gone.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends the child and waits until it is gone.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("can't end {}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let Some(id) = id.and_then(Pid::from_raw) else {
            return;
        };
        if kill_process(id, Signal::TERM).is_err() {
            return;
        }
        for _ in 0..LOOKS {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "a drop can't wait otherwise")]
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
