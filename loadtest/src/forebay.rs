//! Forebay as a child process: its quick-start config on free ports, with a store of its own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Result;
use hyper::StatusCode;
use tokio::process::Command;

use crate::{
    client::Client,
    process::{Process, Scratch, free_port},
    target::LoopbackUrl,
};

const READY_POLL: Duration = Duration::from_millis(100);

#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    /// The forebay binary, which is started for this test
    #[arg(long, value_name = "PATH", required_unless_present = "forebay_url")]
    forebay_bin: Option<PathBuf>,
    /// The config of the started binary
    #[arg(long, value_name = "FILE", default_value = "config/quickstart.toml")]
    forebay_config: PathBuf,
    /// A server that runs already, instead of a started binary
    #[arg(long, value_name = "URL", conflicts_with = "forebay_bin")]
    forebay_url: Option<LoopbackUrl>,
    /// The bearer key of Forebay's requests
    #[arg(long, value_name = "KEY", default_value = "fb-local")]
    pub(crate) forebay_key: String,
    /// The model id in the requests
    #[arg(long, value_name = "ID", default_value = "smollm2-135m-instruct")]
    pub(crate) model: String,
}

/// Where Forebay listens, with its process where this test started one.
pub(crate) async fn start(
    args: &Args,
    scratch: &Scratch,
) -> Result<(LoopbackUrl, Option<Process>)> {
    if let Some(url) = &args.forebay_url {
        return Ok((url.clone(), None));
    }
    let Some(binary) = &args.forebay_bin else {
        anyhow::bail!("neither --forebay-bin nor --forebay-url");
    };
    let (url, mut process) = spawn(binary, &args.forebay_config, scratch)?;
    let client = Client::new();
    loop {
        process.check_alive()?;
        if let Ok(StatusCode::OK) = client.status(&url, "/ready").await {
            return Ok((url, Some(process)));
        }
        tokio::time::sleep(READY_POLL).await;
    }
}

fn spawn(binary: &Path, config: &Path, scratch: &Scratch) -> Result<(LoopbackUrl, Process)> {
    let listen = format!("127.0.0.1:{}", free_port()?);
    let store = scratch.path().join("bench.db");
    let mut command = Command::new(binary);
    command
        .arg("serve")
        .arg("--config")
        .arg(config)
        .env("FOREBAY_SERVER__LISTEN", &listen)
        .env(
            "FOREBAY_METRICS__LISTEN",
            format!("127.0.0.1:{}", free_port()?),
        )
        .env(
            "FOREBAY_STORE__URL",
            format!("sqlite://{}", store.display()),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let process = Process::start("forebay", &mut command, scratch)?;
    Ok((format!("http://{listen}").parse()?, process))
}
