//! What `auto` may send where.

use regex::Regex;
use sha2::{Digest, Sha256};

use crate::config::{Config, RouteRule};

/// How a request for `auto` is decided.
pub struct Auto {
    /// The model that answers what no vertical is sure of.
    pub general: String,
    /// The embedding model that questions are compared by.
    pub embedding: String,
    /// How much nearer than the next one a vertical must be, in cosine.
    pub threshold: f64,
    /// The examples of a vertical that count.
    pub neighbours: usize,
    /// Questions that are for no vertical.
    pub others: Vec<String>,
    /// In the order of the config.
    pub routes: Vec<Route>,
    /// A name for all examples.
    pub version: String,
}

/// What comes to one vertical, or to another that stands beside it.
pub struct Route {
    /// The vertical that says what is its own.
    pub model: String,
    /// All that answer it.
    pub members: Vec<String>,
    /// Questions that are its own.
    pub examples: Vec<String>,
    rules: Vec<Rule>,
}

struct Rule {
    keywords: Option<Regex>,
    is: RouteRule,
}

/// What is looked at of a request.
pub struct Question<'a> {
    /// What the user said last.
    pub text: &'a str,
    /// Whether tools are named.
    pub tools: bool,
    /// The project, by its id and by the name that the config may call it.
    pub project: (&'a str, Option<&'a str>),
}

impl Auto {
    /// `None` where the config has none.
    ///
    /// # Errors
    /// A file of examples that can't be read; a checked config has none.
    pub fn new(config: &Config) -> Result<Option<Self>, String> {
        let Some(auto) = &config.auto else {
            return Ok(None);
        };
        let (mut routes, mut hash) = (Vec::new(), Sha256::new());
        for model in &config.models_named {
            let Some(route) = model.route.as_ref().filter(|route| route.beside.is_none()) else {
                continue;
            };
            let stands_beside = |other: &&crate::config::ModelConfig| {
                let route = other.route.as_ref();
                route.and_then(|route| route.beside.as_ref()) == Some(&model.name)
            };
            let others = config.models_named.iter().filter(stands_beside);
            let members = std::iter::once(&model.name).chain(others.map(|other| &other.name));
            let examples = route.examples()?;
            for example in &examples {
                hash.update((example.len() as u64).to_le_bytes());
                hash.update(example);
            }
            hash.update(&model.name);
            let rules = route.rules.iter().map(Rule::new);
            routes.push(Route {
                model: model.name.clone(),
                members: members.cloned().collect(),
                examples,
                rules: rules.collect::<Result<_, _>>()?,
            });
        }
        let others = auto.examples()?;
        for example in &others {
            hash.update((example.len() as u64).to_le_bytes());
            hash.update(example);
        }
        hash.update(&auto.embedding);
        Ok(Some(Self {
            general: auto.general.clone(),
            embedding: auto.embedding.clone(),
            threshold: auto.threshold,
            neighbours: auto.neighbours,
            others,
            routes,
            version: hex::encode(hash.finalize()),
        }))
    }
}

impl Route {
    /// Whether one of its rules fits.
    #[must_use]
    pub fn fits(&self, question: &Question<'_>) -> bool {
        self.rules.iter().any(|rule| rule.fits(question))
    }
}

impl Rule {
    fn new(rule: &RouteRule) -> Result<Self, String> {
        let words: Vec<_> = rule
            .keywords
            .iter()
            .map(|word| regex::escape(word))
            .collect();
        let any =
            (!words.is_empty()).then(|| format!(r"(?i)(?:\b|^)(?:{})(?:\b|$)", words.join("|")));
        let keywords = any.map(|any| Regex::new(&any)).transpose();
        Ok(Self {
            keywords: keywords.map_err(|error| error.to_string())?,
            is: rule.clone(),
        })
    }

    fn fits(&self, question: &Question<'_>) -> bool {
        let RouteRule {
            keywords: _,
            languages,
            min_chars,
            max_chars,
            tools,
            projects,
        } = &self.is;
        let chars = question.text.chars().count();
        let (id, name) = question.project;
        let is_it = |known: &String| known == id || name == Some(known.as_str());
        let speaks = || {
            let told = whatlang::detect(question.text);
            told.is_some_and(|told| languages.iter().any(|code| code == told.lang().code()))
        };
        self.keywords
            .as_ref()
            .is_none_or(|words| words.is_match(question.text))
            && min_chars.is_none_or(|least| chars >= least)
            && max_chars.is_none_or(|most| chars <= most)
            && tools.is_none_or(|tools| tools == question.tools)
            && (projects.is_empty() || projects.iter().any(is_it))
            && (languages.is_empty() || speaks())
    }
}
