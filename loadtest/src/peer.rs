//! llama.cpp's own server as a child process: see peers/llama_server.py.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::Result;
use tokio::process::Command;

use crate::{
    engine::Setup,
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
}

pub(crate) async fn start(
    args: &Args,
    weights: &Path,
    setup: Setup,
    scratch: &Scratch,
) -> Result<(LoopbackUrl, Process)> {
    let mut command = Command::new(&args.python);
    command
        .args(["-c", SCRIPT, "--model-file"])
        .arg(weights)
        .args(["--slots", &setup.slots.to_string()])
        .args(["--slot-tokens", &setup.context_tokens.to_string()])
        .args(setup.prompt_cache.then_some("--prompt-cache"))
        // An end of input is the script's sign to leave, also where this process was killed.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = Process::start("peer", &mut command, scratch)?;
    Ok((process.ready().await?.parse()?, process))
}
