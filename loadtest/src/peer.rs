//! llama.cpp's own server as a child process: see peers/llama_server.py.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{
    process::{Process, Scratch},
    target::LoopbackUrl,
};

/// It travels in this binary, so that the test runs from any folder.
const SCRIPT: &str = include_str!("../peers/llama_server.py");

#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    /// The Python of a virtual environment that has xllamacpp
    #[arg(long, value_name = "PATH")]
    python: PathBuf,
    /// The weights of the peer: the file that Forebay serves under the model id
    /// [default: ~/.cache/forebay/models/SmolLM2-135M-Instruct.Q4_1.gguf]
    #[arg(long, value_name = "GGUF")]
    model_file: Option<PathBuf>,
}

impl Args {
    pub(crate) fn model_file(&self) -> Result<PathBuf> {
        let path = match &self.model_file {
            Some(path) => path.clone(),
            None => std::env::home_dir()
                .context("no home folder: give --model-file")?
                .join(".cache/forebay/models/SmolLM2-135M-Instruct.Q4_1.gguf"),
        };
        if !path.is_file() {
            bail!("no weights at {}", path.display());
        }
        Ok(path)
    }
}

pub(crate) async fn start(
    args: &Args,
    weights: &Path,
    slots: usize,
    scratch: &Scratch,
) -> Result<(LoopbackUrl, Process)> {
    let mut command = Command::new(&args.python);
    command
        .args(["-c", SCRIPT, "--model-file"])
        .arg(weights)
        .args(["--slots", &slots.to_string()])
        // An end of input is the script's sign to leave, also where this process was killed.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = Process::start("peer", &mut command, scratch)?;
    let stdout = process
        .child
        .stdout
        .take()
        .context("the peer has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(url) = line.strip_prefix("READY ") {
            return Ok((url.trim().parse()?, process));
        }
    }
    bail!(
        "the peer ended before it was ready:\n{}",
        process.log_tail()
    );
}
