//! A folder as sentence-transformers writes it: what its files say about the way from a text to a vector.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::pooling::{Mode, Pooling};
use super::transformer::Config;

/// All but the weights and the vocabulary.
pub(super) struct Folder {
    /// Where the transformer's own files lie.
    pub(super) transformer: PathBuf,
    pub(super) config: Config,
    /// Tokens that one text may have, special ones included.
    pub(super) max_tokens: usize,
    /// Lower case before the tokenizer sees a text, whatever that does itself.
    pub(super) lower_case: bool,
    /// What the tokenizer's own configuration says about normalising, which goes before `tokenizer.json`.
    pub(super) normaliser: Option<Normaliser>,
    pub(super) pooling: Pooling,
    /// Whether vectors are brought to unit length.
    pub(super) normalise: bool,
}

/// Of a BERT tokenizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Normaliser {
    pub(super) lower_case: bool,
    pub(super) strip_accents: Option<bool>,
    pub(super) chinese_chars: bool,
}

/// `modules.json`: the steps, one after another.
#[derive(Deserialize)]
struct Module {
    path: PathBuf,
    r#type: String,
}

/// `sentence_bert_config.json`
#[derive(Deserialize, Default)]
#[serde(default)]
struct Limits {
    max_seq_length: Option<usize>,
    do_lower_case: bool,
}

/// `tokenizer_config.json`
#[derive(Deserialize, Default)]
struct TokenizerConfig {
    tokenizer_class: Option<String>,
    do_lower_case: Option<bool>,
    strip_accents: Option<bool>,
    tokenize_chinese_chars: Option<bool>,
    /// 1e30 stands for none.
    model_max_length: Option<f64>,
}

/// `config_sentence_transformers.json`
#[derive(Deserialize, Default)]
struct Prompts {
    default_prompt_name: Option<String>,
}

/// `1_Pooling/config.json`. Newer files name the mode, older ones have a switch for each.
#[derive(Deserialize, Default)]
#[serde(default)]
struct PoolingConfig {
    pooling_mode: Option<String>,
    pooling_mode_cls_token: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
    pooling_mode_weightedmean_tokens: bool,
    pooling_mode_lasttoken: bool,
}

impl Folder {
    /// Reads the configuration files.
    ///
    /// # Errors
    /// One line that says what is missing, or what a vector of this model needs and isn't there. Nothing
    /// is left out silently: the vectors would be wrong and look right.
    pub(super) fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join("modules.json");
        let modules: Vec<Module> = read(&path)?;
        let kinds: Vec<&str> = modules.iter().map(Module::kind).collect();
        let ["Transformer", "Pooling", rest @ ..] = kinds.as_slice() else {
            return Err(unknown(&path, &kinds));
        };
        let normalise = match rest {
            [] => false,
            ["Normalize"] => true,
            _ => return Err(unknown(&path, &kinds)),
        };
        let prompts: Prompts = read_or_default(&folder.join("config_sentence_transformers.json"))?;
        if let Some(name) = prompts.default_prompt_name {
            return Err(format!(
                "{}: the default prompt `{name}` is not supported",
                folder.display()
            ));
        }
        let transformer = folder.join(&modules[0].path);
        let path = transformer.join("config.json");
        let config: Config = read(&path)?;
        if config.model_type.as_deref().is_some_and(|t| t != "bert") {
            return Err(format!("{}: model_type is not bert", path.display()));
        }
        let limits: Limits = read_or_default(&transformer.join("sentence_bert_config.json"))?;
        let tokenizer: TokenizerConfig =
            read_or_default(&transformer.join("tokenizer_config.json"))?;
        let path = folder.join(&modules[1].path).join("config.json");
        let pooling: PoolingConfig = read(&path)?;
        Ok(Self {
            max_tokens: max_tokens(&config, &limits, &tokenizer),
            lower_case: limits.do_lower_case,
            normaliser: tokenizer.normaliser(),
            pooling: pooling.modes().map_err(|error| failed(&path, &error))?,
            normalise,
            transformer,
            config,
        })
    }
}

impl Module {
    /// The class's name without its package, which has moved between versions.
    fn kind(&self) -> &str {
        self.r#type.rsplit('.').next().unwrap_or_default()
    }
}

impl TokenizerConfig {
    fn normaliser(&self) -> Option<Normaliser> {
        let class = self.tokenizer_class.as_deref()?;
        matches!(class, "BertTokenizer" | "BertTokenizerFast").then(|| Normaliser {
            lower_case: self.do_lower_case.unwrap_or(true),
            strip_accents: self.strip_accents,
            chinese_chars: self.tokenize_chinese_chars.unwrap_or(true),
        })
    }
}

impl PoolingConfig {
    fn modes(&self) -> Result<Pooling, String> {
        let switches = [
            ("cls", self.pooling_mode_cls_token),
            ("max", self.pooling_mode_max_tokens),
            ("mean", self.pooling_mode_mean_tokens),
            (
                "mean_sqrt_len_tokens",
                self.pooling_mode_mean_sqrt_len_tokens,
            ),
            ("weightedmean", self.pooling_mode_weightedmean_tokens),
            ("lasttoken", self.pooling_mode_lasttoken),
        ];
        let names: Vec<&str> = match &self.pooling_mode {
            Some(names) => names.split('+').collect(),
            None => switches
                .iter()
                .filter_map(|(name, on)| on.then_some(*name))
                .collect(),
        };
        let mode = |name: &&str| match *name {
            "cls" => Ok(Mode::Cls),
            "max" => Ok(Mode::Max),
            "mean" => Ok(Mode::Mean),
            "mean_sqrt_len_tokens" => Ok(Mode::MeanSqrtLen),
            other => Err(format!(
                "the pooling `{other}` is not supported; cls, max, mean and mean_sqrt_len_tokens are"
            )),
        };
        let modes = names.iter().map(mode).collect::<Result<Vec<_>, _>>()?;
        if modes.is_empty() {
            return Err("no pooling is chosen".into());
        }
        Ok(Pooling::new(modes))
    }
}

/// What the model's makers set, or what its positions and its tokenizer allow.
fn max_tokens(config: &Config, limits: &Limits, tokenizer: &TokenizerConfig) -> usize {
    let positions = config.max_position_embeddings;
    let of_tokenizer = tokenizer.model_max_length.map_or(positions, whole);
    limits.max_seq_length.unwrap_or(of_tokenizer).min(positions)
}

/// A length that is written as a float, and may be beyond every integer.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "such a cast ends at the type's bounds, which is what is wanted"
)]
fn whole(length: f64) -> usize {
    length as usize
}

fn unknown(path: &Path, kinds: &[&str]) -> String {
    format!(
        "{}: Transformer, Pooling and Normalize are supported in this order, not {}",
        path.display(),
        kinds.join(", ")
    )
}

pub(super) fn failed(path: &Path, error: &dyn Display) -> String {
    format!("{}: {error}", path.display())
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(path).map_err(|error| failed(path, &error))?;
    serde_json::from_str(&text).map_err(|error| failed(path, &error))
}

/// Of a file that a folder need not have.
fn read_or_default<T: DeserializeOwned + Default>(path: &Path) -> Result<T, String> {
    if path.exists() {
        read(path)
    } else {
        Ok(T::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODULES: &str = r#"[{"path": "", "type": "sentence_transformers.models.Transformer"},
        {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]"#;
    const CONFIG: &str = r#"{"vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1,
        "num_attention_heads": 1, "intermediate_size": 4, "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1, "max_position_embeddings": 512, "type_vocab_size": 2,
        "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0, "model_type": "bert"}"#;
    const MEAN: &str = r#"{"pooling_mode_mean_tokens": true}"#;

    /// A folder with these files beside or in the place of the least that is needed.
    fn read_with(files: &[(&str, &str)]) -> Result<Folder, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("1_Pooling")).unwrap();
        let least = [
            ("modules.json", MODULES),
            ("config.json", CONFIG),
            ("1_Pooling/config.json", MEAN),
        ];
        for (name, text) in least.iter().chain(files) {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        Folder::read(folder.path())
    }

    fn refused(files: &[(&str, &str)]) -> String {
        read_with(files).err().unwrap()
    }

    #[test]
    fn what_the_folder_does_not_say_is_as_in_sentence_transformers() {
        let folder = read_with(&[]).unwrap();
        assert_eq!(folder.max_tokens, 512);
        assert_eq!(folder.normaliser, None);
        assert!(!folder.normalise && !folder.lower_case);
        assert_eq!(folder.pooling, Pooling::new(vec![Mode::Mean]));
    }

    #[test]
    fn every_file_is_heeded() {
        let modules = MODULES.replace(
            "}]",
            r#"}, {"path": "2_Normalize", "type": "elsewhere.Normalize"}]"#,
        );
        let folder = read_with(&[
            ("modules.json", &modules),
            (
                "sentence_bert_config.json",
                r#"{"max_seq_length": 128, "do_lower_case": true}"#,
            ),
            (
                "tokenizer_config.json",
                r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": false, "model_max_length": 64}"#,
            ),
            (
                "1_Pooling/config.json",
                r#"{"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true}"#,
            ),
        ])
        .unwrap();
        assert!(folder.normalise && folder.lower_case);
        assert_eq!(folder.max_tokens, 128);
        let normaliser = Normaliser {
            lower_case: false,
            strip_accents: None,
            chinese_chars: true,
        };
        assert_eq!(folder.normaliser, Some(normaliser));
        assert_eq!(folder.pooling, Pooling::new(vec![Mode::Cls, Mode::Mean]));
    }

    #[test]
    fn a_tokenizers_limit_counts_where_the_model_has_none() {
        let with = |length: &str| {
            let text = format!(r#"{{"model_max_length": {length}}}"#);
            read_with(&[("tokenizer_config.json", &text)])
                .unwrap()
                .max_tokens
        };
        assert_eq!(with("64"), 64);
        assert_eq!(with("1000000000000000019884624838656"), 512);
    }

    #[test]
    fn what_would_give_other_vectors_is_refused_at_load() {
        for mode in ["weightedmean_tokens", "lasttoken"] {
            let text =
                format!(r#"{{"pooling_mode_{mode}": true, "pooling_mode_mean_tokens": true}}"#);
            let reason = refused(&[("1_Pooling/config.json", &text)]);
            assert!(
                reason.contains("the pooling `") && !reason.contains('\n'),
                "{reason}"
            );
        }
        assert!(refused(&[("1_Pooling/config.json", "{}")]).contains("no pooling"));
        let dense = MODULES.replace("}]", r#"}, {"path": "2_Dense", "type": "m.Dense"}]"#);
        assert!(refused(&[("modules.json", &dense)]).contains("not Transformer, Pooling, Dense"));
        let roberta = CONFIG.replace("\"bert\"", "\"roberta\"");
        assert!(refused(&[("config.json", &roberta)]).contains("model_type"));
        let prompt = r#"{"prompts": {"query": "query: "}, "default_prompt_name": "query"}"#;
        let prompt = refused(&[("config_sentence_transformers.json", prompt)]);
        assert!(prompt.contains("default prompt `query`"));
    }

    #[test]
    fn a_pooling_may_be_named() {
        let folder = read_with(&[("1_Pooling/config.json", r#"{"pooling_mode": "max"}"#)]);
        assert_eq!(folder.unwrap().pooling, Pooling::new(vec![Mode::Max]));
    }
}
