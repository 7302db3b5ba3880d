//! The weights that every server of a test runs.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    /// The weights [default: ~/.cache/forebay/models/SmolLM2-135M-Instruct.Q4_1.gguf]
    #[arg(long, value_name = "GGUF")]
    model_file: Option<PathBuf>,
    /// The model id in the requests
    #[arg(long, value_name = "ID", default_value = "smollm2-135m-instruct")]
    pub(crate) model: String,
}

impl Args {
    pub(crate) fn file(&self) -> Result<PathBuf> {
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
