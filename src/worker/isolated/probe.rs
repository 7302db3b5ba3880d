//! Weights are tried in a process of their own before this one loads them.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncReadExt, BufReader};
use tokio::process::ChildStderr;
use tokio::sync::mpsc;

use super::process::{describe, reap, spawn};
use super::wire::{self, Down, Up, WireError};
use crate::worker::{Health, embedded};

/// Where C and C++ say in what file an assertion failed.
const SOURCES: [&str; 5] = [".c:", ".cpp:", ".h:", ".cu:", ".m:"];

/// Loads a GGUF file in a child process, which may die of it.
///
/// # Errors
/// One line that says what is wrong with the file.
pub(in crate::worker) fn probe(weights: &Path) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    match runtime.block_on(ask(weights)) {
        Ok(Said::Loaded) => Ok(()),
        Ok(Said::Failed(reason)) => Err(reason),
        Ok(Said::Died(how)) => Err(format!(
            "{}: llama.cpp can't load it: its process {how}",
            weights.display()
        )),
        Err(error) => {
            // That is no fault of the file's.
            tracing::warn!(%error, "weights can't be tried in a process of their own first");
            Ok(())
        }
    }
}

enum Said {
    Loaded,
    Failed(String),
    Died(String),
}

async fn ask(weights: &Path) -> Result<Said, WireError> {
    let question = wire::encode(&Down::Probe(weights.to_owned()))?;
    let (mut child, socket) = spawn(Stdio::piped())?;
    let stderr = child.stderr.take();
    let (mut source, half) = wire::split(socket);
    let talk = async {
        let (sender, frames) = mpsc::channel(1);
        // The first in an empty queue, which then closes.
        let _sent = sender.try_send(question);
        drop(sender);
        // A process that died before it could read shows when it is read from.
        let _gone = wire::write(frames, half).await;
        source.next::<Up>().await
    };
    let (said, why) = tokio::join!(talk, assertion(stderr));
    let status = reap(&mut child).await;
    Ok(match said {
        Ok(Some(Up::Health(Health::Ready))) => Said::Loaded,
        Ok(Some(Up::Health(Health::Failed(reason)))) => Said::Failed(reason),
        _ => Said::Died(describe(status) + &why),
    })
}

/// What a process said of the assertion that it died of, if it did: the last line of that form, without the
/// folder of the source file.
async fn assertion(stderr: Option<ChildStderr>) -> String {
    let mut said = Vec::new();
    if let Some(stderr) = stderr {
        // It is its own log, and may break off.
        let _broken = BufReader::new(stderr).read_to_end(&mut said).await;
    }
    let said = String::from_utf8_lossy(&said);
    let is_assertion = |line: &&str| SOURCES.iter().any(|end| line.contains(end));
    let Some(line) = said.lines().rev().find(is_assertion) else {
        return String::new();
    };
    let (path, rest) = line.split_once(':').unwrap_or(("", line));
    let file = path.rsplit('/').next().unwrap_or_default();
    format!(": {file}:{rest}")
}

/// In the child: loads the weights.
pub(super) async fn load(weights: PathBuf) -> Health {
    let loaded = tokio::task::spawn_blocking(move || embedded::try_load(&weights)).await;
    match loaded {
        Ok(Ok(())) => Health::Ready,
        Ok(Err(reason)) => Health::Failed(reason),
        Err(_) => Health::Failed("its loading had a fault".into()),
    }
}
