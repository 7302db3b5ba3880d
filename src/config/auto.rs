use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::json_lines;

/// `[auto]`: what a request comes to that asks for the model `auto`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoConfig {
    /// The model that answers what no vertical is sure of.
    pub general: String,
    /// The embedding model by whose vectors a question is compared with the verticals' examples.
    pub embedding: String,
    /// A file of questions that are for no vertical, as those of a route: what is nearer to these goes to none.
    pub examples: Option<PathBuf>,
    /// How much nearer a question must be to a vertical's examples than to the next one's, or to those for none, in cosine;
    /// `forebay eval route` fits it.
    pub threshold: f64,
    /// The examples of a vertical that count, the nearest ones.
    #[serde(default = "neighbours")]
    pub neighbours: usize,
}

fn neighbours() -> usize {
    5
}

/// `[model.route]`: what `auto` sends to a vertical.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// What it is for: counts as one more example.
    pub description: Option<String>,
    /// A file of questions that are its own, a line each: `{"input": "..."}`. A relative path is seen from the working
    /// directory.
    pub examples: Option<PathBuf>,
    /// Where the examples decide nothing: it is sent what any of these fits.
    #[serde(default)]
    pub rules: Vec<RouteRule>,
    /// It answers what another vertical is for: of the two `auto` takes the cheaper one that may serve.
    #[serde(rename = "as")]
    pub beside: Option<String>,
}

/// What a request must be like: all that is said must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteRule {
    /// One of these words is in the question, whatever its case.
    pub keywords: Vec<String>,
    /// The question is in one of these languages, by their codes of ISO 639-3: `deu`, `eng`.
    pub languages: Vec<String>,
    /// The question has so many characters at least.
    pub min_chars: Option<usize>,
    /// The question has so many characters at most.
    pub max_chars: Option<usize>,
    /// The request names tools, or names none.
    pub tools: Option<bool>,
    /// The request comes from one of these projects, by id or name.
    pub projects: Vec<String>,
}

/// Questions of a file.
fn questions(path: &Path) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Line {
        input: String,
    }
    let lines: Vec<Line> = json_lines(path)?;
    Ok(lines.into_iter().map(|line| line.input).collect())
}

impl AutoConfig {
    /// Questions that are for no vertical.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn examples(&self) -> Result<Vec<String>, String> {
        let examples = self.examples.as_deref().map(questions).transpose()?;
        Ok(examples.unwrap_or_default())
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if !(-1.0..=1.0).contains(&self.threshold) {
            return Err("[auto] threshold must be between -1 and 1".into());
        }
        if self.neighbours == 0 {
            return Err("[auto] neighbours must be above 0".into());
        }
        self.examples().map_err(|error| format!("[auto] {error}"))?;
        Ok(())
    }
}

impl RouteConfig {
    /// The questions that are its own.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn examples(&self) -> Result<Vec<String>, String> {
        let described = self.description.iter().cloned();
        let own = self.examples.as_deref().map(questions).transpose()?;
        Ok(described.chain(own.unwrap_or_default()).collect())
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let examples = self.examples()?;
        if self.beside.is_some() && (!examples.is_empty() || !self.rules.is_empty()) {
            return Err(
                "route: what it answers is said by the vertical that it stands beside".into(),
            );
        }
        if self.beside.is_none() && examples.is_empty() && self.rules.is_empty() {
            return Err("route: it has neither examples nor rules".into());
        }
        if self.rules.contains(&RouteRule::default()) {
            return Err("route: a rule says nothing".into());
        }
        Ok(())
    }
}
