//! The catalogue: which models can be pulled, and the length and sum of each of their files.
//!
//! The format is described at the top of `config/catalogue.toml`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use figment::Figment;
use figment::providers::{Format, Toml};
use serde::Deserialize;

use super::source::Source;

const BUILT_IN: &str = include_str!("../../../config/catalogue.toml");

#[derive(Debug)]
pub(super) struct Catalogue {
    models: Vec<Model>,
    folder: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "model")]
    models: Vec<Model>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) license: String,
    /// Where the terms are that its user agrees to.
    pub(super) terms: Option<String>,
    /// Of the files that don't come in parts.
    source: Option<Source>,
    dir: Option<RelativePath>,
    pub(super) files: Vec<ModelFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ModelFile {
    pub(super) name: RelativePath,
    pub(super) sha256: Sum,
    pub(super) bytes: u64,
    member: Option<RelativePath>,
    /// What it is joined from, in this order.
    #[serde(default)]
    pub(super) parts: Vec<Part>,
}

/// A piece of a file that is too large for one source.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub(super) source: Source,
    member: RelativePath,
    sha256: Sum,
    bytes: u64,
}

/// What is fetched in one piece, and what it must be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pinned<'a> {
    /// Where it goes, or, for a part, what it is called.
    pub(super) name: &'a str,
    /// Its path inside the source.
    pub(super) member: &'a str,
    pub(super) sha256: &'a Sum,
    pub(super) bytes: u64,
}

/// A path that can't leave the folder it is joined to, nor name anything hidden there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct RelativePath(String);

/// A SHA-256 in lower-case hex.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Sum(String);

impl Catalogue {
    pub(super) fn load(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Self::parse(BUILT_IN, Path::new("")).context("the built-in catalogue");
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("can't read catalogue {}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse(&text, folder).with_context(|| format!("catalogue {}", path.display()))
    }

    /// Reads a catalogue; `folder` is what its relative `file:` sources are seen from.
    pub(super) fn parse(text: &str, folder: &Path) -> Result<Self> {
        let Document { models } = Figment::from(Toml::string(text)).extract()?;
        let mut names = HashSet::new();
        let mut places = HashSet::new();
        for model in &models {
            model.check()?;
            ensure!(
                names.insert(&model.name),
                "model {} is there twice",
                model.name
            );
            for file in &model.files {
                let place = model.destination(file, Path::new(""));
                ensure!(
                    places.insert(place.clone()),
                    "two files would both be put at {}",
                    place.display()
                );
            }
        }
        Ok(Self {
            models,
            folder: folder.to_owned(),
        })
    }

    pub(super) fn models(&self) -> &[Model] {
        &self.models
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn find_all(&self, names: &[String]) -> Result<Vec<&Model>> {
        names.iter().map(|name| self.find(name)).collect()
    }

    fn find(&self, name: &str) -> Result<&Model> {
        if let Some(model) = self.models.iter().find(|model| model.name == name) {
            return Ok(model);
        }
        let known: Vec<_> = self
            .models
            .iter()
            .map(|model| model.name.as_str())
            .collect();
        bail!(
            "no model named {name} in the catalogue; it has: {}",
            known.join(", ")
        );
    }
}

impl Model {
    fn check(&self) -> Result<()> {
        let name = &self.name;
        let path = RelativePath::try_from(name.clone()).map_err(anyhow::Error::msg)?;
        ensure!(
            !path.0.contains('/'),
            "model name {name:?} must not hold a slash"
        );
        ensure!(!self.files.is_empty(), "model {name} has no files");
        for file in &self.files {
            file.check()
                .with_context(|| format!("model {name}, file {}", file.name.0))?;
        }
        let needed = self.files.iter().any(|file| file.parts.is_empty());
        ensure!(
            needed == self.source.is_some(),
            "model {name} needs a source of its own if, and only if, a file of it comes in one piece"
        );
        Ok(())
    }

    /// Where its files come from, but for those in parts.
    pub(super) fn source(&self) -> Result<&Source> {
        self.source.as_ref().context("the model has no source")
    }

    /// Every source, as a listing shows them.
    pub(super) fn sources(&self) -> String {
        let parts = self.files.iter().flat_map(|file| &file.parts);
        let all = self.source.iter().chain(parts.map(|part| &part.source));
        let all: Vec<_> = all.map(Source::to_string).collect();
        match all.as_slice() {
            [first, _, ..] => format!("{first} and {} more", all.len() - 1),
            _ => all.concat(),
        }
    }

    /// Where a file of this model stands once it was pulled.
    pub(super) fn destination(&self, file: &ModelFile, models_dir: &Path) -> PathBuf {
        self.folder_in(models_dir).join(&file.name.0)
    }

    fn folder_in(&self, models_dir: &Path) -> PathBuf {
        match &self.dir {
            Some(dir) => models_dir.join(&dir.0),
            None if self.files.len() > 1 => models_dir.join(&self.name),
            None => models_dir.to_owned(),
        }
    }

    /// What a config names to load the model: its one file, or the folder of its files.
    pub(super) fn location(&self, models_dir: &Path) -> PathBuf {
        match self.files.as_slice() {
            [file] => self.destination(file, models_dir),
            _ => self.folder_in(models_dir),
        }
    }
}

impl ModelFile {
    fn check(&self) -> Result<()> {
        if self.parts.is_empty() {
            return Ok(());
        }
        ensure!(
            self.member.is_none(),
            "what is joined from parts is no member of a source"
        );
        let bytes = self
            .parts
            .iter()
            .try_fold(0_u64, |sum, part| sum.checked_add(part.bytes));
        ensure!(
            bytes == Some(self.bytes),
            "the parts are not as long as the whole"
        );
        Ok(())
    }

    pub(super) fn pinned(&self) -> Pinned<'_> {
        Pinned {
            name: self.name.as_str(),
            member: self.member.as_ref().unwrap_or(&self.name).as_str(),
            sha256: &self.sha256,
            bytes: self.bytes,
        }
    }
}

impl Part {
    pub(super) fn pinned(&self) -> Pinned<'_> {
        Pinned {
            name: self.member.as_str(),
            member: self.member.as_str(),
            sha256: &self.sha256,
            bytes: self.bytes,
        }
    }
}

impl RelativePath {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RelativePath {
    type Error = String;

    fn try_from(path: String) -> Result<Self, String> {
        let odd = path.contains(|c: char| c == '\\' || c == ':' || c.is_control());
        // A part with a leading dot is `..`, or could be the folder where pulls keep their unfinished files.
        if odd
            || path
                .split('/')
                .any(|part| part.is_empty() || part.starts_with('.'))
        {
            return Err(format!(
                "{path:?} must be a relative path of plain names, none with a leading dot"
            ));
        }
        Ok(Self(path))
    }
}

impl Sum {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Sum {
    type Error = String;

    fn try_from(sum: String) -> Result<Self, String> {
        match hex::decode(&sum) {
            Ok(bytes) if bytes.len() == 32 => Ok(Self(sum.to_ascii_lowercase())),
            _ => Err(format!("{sum:?} is no SHA-256: 64 hex digits are needed")),
        }
    }
}
