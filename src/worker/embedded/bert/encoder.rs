use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokenizers::{Encoding, PaddingParams, Tokenizer};

use crate::types::{Embedded, Failure, Progress};

/// No text that fits is longer by so much: words are cut out of the rest before the tokens are counted.
const BYTES_PER_TOKEN: usize = 1024;
/// Texts that are computed at once; more gain nothing on a CPU and take memory.
const BATCH: usize = 32;

/// A loaded model, with its pooling as its own configuration says.
pub(super) struct Encoder {
    model: BertModel,
    tokenizer: Tokenizer,
    /// Tokens that one text may have.
    max_tokens: usize,
    normalise: bool,
}

#[derive(Deserialize)]
struct Limits {
    max_seq_length: usize,
}

#[derive(Deserialize)]
struct Module {
    r#type: String,
}

#[derive(Deserialize)]
struct Pooling {
    pooling_mode_mean_tokens: bool,
}

impl Encoder {
    /// Reads a folder as sentence-transformers writes it.
    ///
    /// # Errors
    /// One line that says what is missing or can't be done.
    pub(super) fn load(folder: &Path) -> Result<Self, String> {
        let config: Config = read(&folder.join("config.json"))?;
        let limits: Limits = read(&folder.join("sentence_bert_config.json"))?;
        let modules: Vec<Module> = read(&folder.join("modules.json"))?;
        let pooling: Pooling = read(&folder.join("1_Pooling/config.json"))?;
        if !pooling.pooling_mode_mean_tokens {
            return Err(format!("{}: only mean pooling is known", folder.display()));
        }
        let path = folder.join("model.safetensors");
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let bytes = std::fs::read(&path).map_err(|error| failed(&error))?;
        let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)
            .map_err(|error| failed(&error))?;
        let model = BertModel::load(weights, &config).map_err(|error| failed(&error))?;
        Ok(Self {
            model,
            tokenizer: tokenizer(&folder.join("tokenizer.json"))?,
            max_tokens: limits.max_seq_length.min(config.max_position_embeddings),
            normalise: modules
                .iter()
                .any(|module| module.r#type.ends_with(".Normalize")),
        })
    }

    /// One vector for each text, unless nobody waits for them any more.
    pub(super) fn embed(
        &self,
        texts: &[String],
        progress: &Progress,
        is_cancelled: impl Fn() -> bool,
    ) -> Result<Embedded, Failure> {
        let broken = |error: &dyn std::fmt::Display| Failure::Broken(error.to_string());
        let longest = self.max_tokens * BYTES_PER_TOKEN;
        if texts.iter().any(|text| text.len() > longest) {
            return Err(Failure::Invalid {
                param: Some("input".into()),
                message: format!("a text of input is longer than {longest} bytes"),
            });
        }
        let encodings = self
            .tokenizer
            .encode_batch(texts.to_vec(), true)
            .map_err(|error| broken(&error))?;
        let mut prompt_tokens = 0;
        for encoding in &encodings {
            if encoding.len() > self.max_tokens {
                return Err(Failure::ContextLength {
                    context: u32::try_from(self.max_tokens).unwrap_or(u32::MAX),
                    prompt: u32::try_from(encoding.len()).unwrap_or(u32::MAX),
                    param: "input".into(),
                });
            }
            prompt_tokens += u32::try_from(encoding.len()).unwrap_or(u32::MAX);
        }
        // Texts of like length go together: less is computed for padding alone.
        let mut order: Vec<usize> = (0..encodings.len()).collect();
        order.sort_by_key(|index| encodings[*index].len());
        let mut vectors = vec![Vec::new(); texts.len()];
        let gone = || Failure::Broken("nobody waits for it any more".into());
        if !progress.start(prompt_tokens) {
            return Err(gone());
        }
        for group in order.chunks(BATCH) {
            if is_cancelled() {
                return Err(gone());
            }
            let batch: Vec<_> = group.iter().map(|index| &encodings[*index]).collect();
            let computed = self.compute(&batch).map_err(|error| broken(&error))?;
            for (index, vector) in group.iter().zip(computed) {
                vectors[*index] = vector;
            }
        }
        Ok(Embedded {
            vectors,
            prompt_tokens,
        })
    }

    /// Mean of the token vectors, without the padding's.
    fn compute(&self, batch: &[&Encoding]) -> candle_core::Result<Vec<Vec<f32>>> {
        let width = batch
            .iter()
            .map(|encoding| encoding.len())
            .max()
            .unwrap_or(0);
        let padded = |values: &dyn Fn(&Encoding) -> Vec<u32>| -> candle_core::Result<Tensor> {
            let mut rows = Vec::with_capacity(batch.len() * width);
            for encoding in batch {
                let mut row = values(encoding);
                row.resize(width, 0);
                rows.extend(row);
            }
            Tensor::from_vec(rows, (batch.len(), width), &Device::Cpu)
        };
        let ids = padded(&|encoding| encoding.get_ids().to_vec())?;
        let types = padded(&|encoding| encoding.get_type_ids().to_vec())?;
        let mask = padded(&|encoding| encoding.get_attention_mask().to_vec())?;
        let tokens = self.model.forward(&ids, &types, Some(&mask))?;
        let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
        let sum = tokens.broadcast_mul(&mask)?.sum(1)?;
        let mean = sum.broadcast_div(&mask.sum(1)?)?;
        let vectors = if self.normalise {
            mean.broadcast_div(&mean.sqr()?.sum_keepdim(1)?.sqrt()?)?
        } else {
            mean
        };
        vectors.to_vec2()
    }
}

/// What a text is cut to is our decision, and padding is done by the batch.
fn tokenizer(path: &Path) -> Result<Tokenizer, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut tokenizer = Tokenizer::from_file(path).map_err(|error| failed(&error))?;
    tokenizer
        .with_truncation(None)
        .map_err(|error| failed(&error))?;
    tokenizer.with_padding(None::<PaddingParams>);
    Ok(tokenizer)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    serde_json::from_str(&text).map_err(|error| failed(&error))
}
