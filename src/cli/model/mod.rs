//! `forebay model pull` and `forebay model list`: brings the weights onto this machine.
//!
//! The catalogue says what a model is made of, a source says where that lies, a download brings it
//! here, and only what hashes to its pinned sum is put in place.

mod catalogue;
mod download;
mod pip;
mod place;
mod progress;
mod pull;
mod source;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::DecimalBytes;

use self::catalogue::{Catalogue, Model};
use self::pull::Puller;

/// What `forebay model` is asked to do.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum ModelCommand {
    /// Fetch the weights of models into the models folder, unless they are there
    Pull {
        /// Names as `forebay model list` shows them
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Show the models that can be pulled, and which of them are here
    List,
}

/// Runs one `forebay model` command. It blocks, so it must not be called from inside an async runtime.
///
/// The catalogue is the one built into the binary, unless `catalogue_path` names another. Results go to
/// stdout, progress to stderr.
///
/// # Errors
/// A catalogue that can't be read or breaks its rules, a name it doesn't hold, a source that can't be
/// reached, bytes that don't hash to their pinned sum, and a models folder that can't be written.
pub fn run(command: ModelCommand, catalogue_path: Option<&Path>) -> Result<()> {
    let catalogue = Catalogue::load(catalogue_path)?;
    let models_dir = models_dir()?;
    let mut out = io::stdout().lock();
    match command {
        ModelCommand::Pull { names } => {
            // All names are looked up before the first byte is fetched: a typo in the last one shows at once.
            let models = catalogue.find_all(&names)?;
            let puller = Puller::from_environment(models_dir, catalogue.folder());
            models
                .into_iter()
                .try_for_each(|model| puller.pull(model, &mut out))
        }
        ModelCommand::List => list(&catalogue, &models_dir, &mut out),
    }
}

/// The folder that holds the weights: `$FOREBAY_MODELS__DIR`, else `$HOME/.cache/forebay/models`.
///
/// It need not exist yet.
///
/// # Errors
/// Neither variable is set.
pub fn models_dir() -> Result<PathBuf> {
    models_dir_from(|name| std::env::var_os(name))
}

/// The folder of re-laid copies of weights, beside the models folder. It need not exist yet.
///
/// # Errors
/// As [`models_dir`].
pub fn layouts_dir() -> Result<PathBuf> {
    Ok(models_dir()?.with_file_name("layouts"))
}

/// The folder of marks of the weights that were tried, beside the models folder. It need not exist yet.
///
/// # Errors
/// As [`models_dir`].
pub fn trials_dir() -> Result<PathBuf> {
    Ok(models_dir()?.with_file_name("trials"))
}

fn models_dir_from(variable: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf> {
    let set = |name| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("FOREBAY_MODELS__DIR")
        .or_else(|| set("HOME").map(|home| home.join(".cache/forebay/models")))
        .context("where should the weights go? Neither FOREBAY_MODELS__DIR nor HOME is set")
}

/// Whether the built-in catalogue has a model of this name.
///
/// # Errors
/// It hasn't; the error names those it has.
pub fn check_known(name: &str) -> Result<()> {
    Catalogue::load(None)?
        .find_all(&[name.to_owned()])
        .map(drop)
}

/// Where the weights of a model of the built-in catalogue are: its one file, or the folder of its files.
///
/// # Errors
/// The catalogue has no such model, or it wasn't pulled yet.
pub fn weights_of(name: &str) -> Result<PathBuf> {
    let catalogue = Catalogue::load(None)?;
    let model = *catalogue
        .find_all(&[name.to_owned()])?
        .first()
        .context("a name that was found")?;
    let models_dir = models_dir()?;
    anyhow::ensure!(
        presence(model, &models_dir) == "yes",
        "the weights of {name} are not in {}: run `forebay model pull {name}`",
        models_dir.display()
    );
    Ok(model.location(&models_dir))
}

fn list(catalogue: &Catalogue, models_dir: &Path, out: &mut dyn Write) -> Result<()> {
    let models = catalogue.models();
    let width = models
        .iter()
        .map(|model| model.name.len())
        .max()
        .unwrap_or(0)
        .max("NAME".len());
    writeln!(
        out,
        "{:width$}  {:>10}  {:<7}  {:<12}  SOURCE",
        "NAME", "SIZE", "HERE", "LICENSE"
    )?;
    for model in models {
        let size = DecimalBytes(model.files.iter().map(|file| file.bytes).sum()).to_string();
        let here = presence(model, models_dir);
        writeln!(
            out,
            "{:width$}  {size:>10}  {here:<7}  {:<12}  {}",
            model.name,
            model.license,
            model.sources()
        )?;
    }
    for model in models {
        if let Some(terms) = &model.terms {
            writeln!(out, "\nUsing {} is agreeing to {terms}", model.name)?;
        }
    }
    writeln!(out, "\nModels folder: {}", models_dir.display())?;
    Ok(())
}

/// Goes by lengths alone, so that a listing doesn't read gigabytes; a pull compares the sums.
fn presence(model: &Model, models_dir: &Path) -> &'static str {
    let found = model.files.iter().filter(|file| {
        std::fs::metadata(model.destination(file, models_dir))
            .is_ok_and(|metadata| metadata.len() == file.bytes)
    });
    match found.count() {
        0 => "no",
        count if count == model.files.len() => "yes",
        _ => "partly",
    }
}
