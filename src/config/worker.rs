use std::path::PathBuf;

use serde::Deserialize;

use super::check_name;
use super::remote::RemoteConfig;
use crate::types::{CellType, Kind, Layout, ToolFormat};

/// `[[worker]]`: something that runs a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerConfig {
    /// Its name in logs, metrics and the ledger.
    pub name: String,
    /// What runs the model.
    pub engine: EngineKind,
    /// The model's name: in the catalogue of `forebay model`, and for clients. A remote worker has `models` instead.
    #[serde(default)]
    pub model: String,
    /// A GGUF file, or the folder of an embedding model, that isn't in the catalogue. A relative path
    /// is seen from the working directory.
    pub weights: Option<PathBuf>,
    /// Requests that run at once: 32 by default. What a remote worker takes is learned, if it isn't said.
    pub slots: Option<u32>,
    /// Tokens that one request may have, prompt and answer together.
    #[serde(default = "default_context_tokens")]
    pub context_tokens: u32,
    /// Prompt tokens that one step may compute while answers are being generated: more of them make
    /// long prompts faster, and the others' next token later.
    #[serde(default = "default_step_tokens")]
    pub step_tokens: u32,
    /// What reading a long prompt (512 tokens or more) may add to a step in which answers go on, in percent of what
    /// the step takes without: more of it makes long prompts faster, and the others' next token later.
    #[serde(default = "default_prefill_percent")]
    pub prefill_percent: u32,
    /// Whether tokens are computed ahead where a text goes on as it did before, as long as that is faster.
    #[serde(default = "default_lookup")]
    pub lookup: bool,
    /// How the weights are kept: `auto`, `as-is` or `q8_0`. For llama alone.
    #[serde(default)]
    pub layout: Layout,
    /// The engine runs in a process of its own, which is started again when it dies: what crashes it, or takes
    /// the memory, costs this worker's requests and nothing else.
    #[serde(default)]
    pub isolate: bool,
    /// How the cells of the KV cache are kept: `f16` or `q8_0`. For llama alone.
    #[serde(default)]
    pub kv_type: CellType,
    /// MiB of host memory for states of prompts and answers, from which later prompts of the same tenant
    /// that begin alike go on; 0 keeps none. For llama alone.
    #[serde(default = "default_prefix_cache_mib")]
    pub prefix_cache_mib: u32,
    /// LoRA adapters that are loaded at once. For llama alone.
    #[serde(default = "default_adapters")]
    pub adapters: u32,
    /// Requests that run at once on each adapter.
    #[serde(default = "default_adapter_slots")]
    pub adapter_slots: u32,
    /// How the model spells calls of functions, where its chat template doesn't tell: `hermes`, `llama3` or
    /// `mistral`. For llama alone.
    pub tool_format: Option<ToolFormat>,
    /// Whether the model thinks before it answers, between `<think>` and `</think>`, which is split off then; its chat
    /// template tells where this isn't given.
    pub thinks: Option<bool>,
    /// Threads that compute; as many as there are cores by default.
    pub threads: Option<u32>,
    /// Of a remote worker.
    #[serde(flatten)]
    pub remote: RemoteConfig,
}

/// What runs a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// llama.cpp's kernels under Forebay's own batching.
    Llama,
    /// mistral.rs; needs a binary built with the feature of that name.
    Mistralrs,
    /// Sentence embeddings by a BERT model.
    Bert,
    /// Another server that speaks OpenAI's API: vLLM, SGLang, TGI, llama-server, another Forebay.
    Remote,
}

const DEFAULT_SLOTS: u32 = 32;

fn default_context_tokens() -> u32 {
    2048
}

fn default_step_tokens() -> u32 {
    128
}

fn default_prefill_percent() -> u32 {
    200
}

fn default_lookup() -> bool {
    true
}

fn default_prefix_cache_mib() -> u32 {
    1024
}

fn default_adapters() -> u32 {
    4
}

fn default_adapter_slots() -> u32 {
    4
}

impl WorkerConfig {
    /// What its model can be asked for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.engine {
            EngineKind::Llama | EngineKind::Mistralrs => Kind::Generate,
            EngineKind::Bert => Kind::Embed,
            EngineKind::Remote => self.remote.kind,
        }
    }

    /// Requests that run at once in this process.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots.unwrap_or(DEFAULT_SLOTS)
    }

    /// The names of what it runs.
    #[must_use]
    pub fn models(&self) -> &[String] {
        match self.engine {
            EngineKind::Remote => &self.remote.models,
            _ => std::slice::from_ref(&self.model),
        }
    }

    /// Whether it runs this model.
    #[must_use]
    pub fn runs(&self, model: &str) -> bool {
        self.models().iter().any(|own| own == model)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        check_name("[[worker]]", &self.name)?;
        if self.engine == EngineKind::Remote {
            let wrong = |what| format!("[[worker]] {}: {what}", self.name);
            self.remote.check().map_err(wrong)?;
            if !self.model.is_empty() {
                return Err(wrong("a remote worker has models = [...], no model".into()));
            }
        } else {
            check_name("[[worker]] model", &self.model)?;
            if self.remote.url.is_some() || !self.remote.models.is_empty() {
                return Err(format!(
                    "[[worker]] {}: url and models are for engine = \"remote\"",
                    self.name
                ));
            }
        }
        let ranges = [
            ("slots", self.slots(), 1..=65_536),
            ("context_tokens", self.context_tokens, 16..=1_048_576),
            ("step_tokens", self.step_tokens, 2..=8192),
            ("prefill_percent", self.prefill_percent, 1..=10_000),
            ("prefix_cache_mib", self.prefix_cache_mib, 0..=1_048_576),
            ("adapters", self.adapters, 1..=64),
            ("adapter_slots", self.adapter_slots, 1..=256),
            ("threads", self.threads.unwrap_or(1), 1..=1024),
        ];
        for (key, value, range) in ranges {
            if !range.contains(&value) {
                return Err(format!(
                    "[[worker]] {}: {key} = {value} is out of range: {} to {}",
                    self.name,
                    range.start(),
                    range.end()
                ));
            }
        }
        if self.engine == EngineKind::Mistralrs && !cfg!(feature = "mistralrs") {
            return Err(format!(
                "[[worker]] {}: this binary was built without the feature `mistralrs`",
                self.name
            ));
        }
        Ok(())
    }
}
