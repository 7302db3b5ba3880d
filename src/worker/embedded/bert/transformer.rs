//! The transformer of BERT (Devlin et al., arXiv 1810.04805), on all cores for each batch.
//!
//! Of our own, and not candle's: that one lays all weights out anew for each batch, gives each product to cores that
//! sleep in between, and computes padding. A question of some 20 tokens takes half its time here (ARCHITECTURE.md, "What
//! was measured"), and `auto` decides after every one.

use std::ops::Range;

use safetensors::SafeTensors;
use serde::Deserialize;

use super::attention;
use super::linear::{Activation, Linear};
use super::norm::Norm;
use super::product::Matrix;
use super::tokens::Row;
use super::weights::Weights;

/// `config.json`, as far as vectors depend on it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Config {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: Activation,
    pub(super) max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    #[serde(default, rename = "position_embedding_type")]
    _positions: Positions,
    pub(super) model_type: Option<String>,
}

/// A file that names others is refused.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Positions {
    #[default]
    Absolute,
}

/// The weights.
pub(super) struct Transformer {
    /// Each a row for each of its kind: word pieces, kinds of text, places in it.
    words: Vec<f32>,
    types: Vec<f32>,
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
    heads: usize,
    width: usize,
}

struct Layer {
    /// Queries, keys and values in one product.
    attention: Linear,
    joined: Linear,
    attention_norm: Norm,
    wide: Linear,
    narrow: Linear,
    norm: Norm,
}

impl Transformer {
    /// # Errors
    /// A tensor is missing, or has another shape than the configuration gives it.
    pub(super) fn load(file: &SafeTensors<'_>, config: &Config) -> Result<Self, String> {
        let weights = Weights::new(file);
        // Some files hold it as a part of a model with a head.
        let weights = match weights.has("embeddings.word_embeddings.weight") {
            true => weights,
            false => weights.part("bert"),
        };
        let (heads, width) = (config.num_attention_heads, config.hidden_size);
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return Err(format!(
                "hidden_size {width} is no multiple of num_attention_heads {heads}"
            ));
        }
        let embeddings = weights.part("embeddings");
        let table = |name: &str, rows| embeddings.part(name).get("weight", &[rows, width]);
        let layer = |index: usize| weights.part(&format!("encoder.layer.{index}"));
        Ok(Self {
            words: table("word_embeddings", config.vocab_size)?,
            types: table("token_type_embeddings", config.type_vocab_size)?,
            positions: table("position_embeddings", config.max_position_embeddings)?,
            norm: Norm::load(&embeddings, width, config.layer_norm_eps)?,
            layers: (0..config.num_hidden_layers)
                .map(|index| Layer::load(&layer(index), config))
                .collect::<Result<_, _>>()?,
            heads,
            width,
        })
    }

    /// The tokens' vectors, of one text after another.
    ///
    /// # Errors
    /// A token, its kind or its place is none of the model's.
    pub(super) fn forward(&self, texts: &[Row]) -> Result<Vec<f32>, String> {
        let mut states = Vec::with_capacity(texts.iter().map(Row::len).sum::<usize>() * self.width);
        let mut places: Vec<Range<usize>> = Vec::with_capacity(texts.len());
        for text in texts {
            let start = places.last().map_or(0, |last| last.end);
            places.push(start..start + text.len());
            for (position, (id, kind)) in text.ids.iter().zip(&text.types).enumerate() {
                let word = self.row(&self.words, *id as usize)?;
                let kind = self.row(&self.types, *kind as usize)?;
                let position = self.row(&self.positions, position)?;
                let sums = word.iter().zip(kind).zip(position);
                states.extend(sums.map(|((word, kind), position)| word + kind + position));
            }
        }
        self.norm.apply(&mut states);
        for layer in &self.layers {
            layer.apply(&mut states, self.heads, &places);
        }
        Ok(states)
    }

    fn row<'a>(&self, table: &'a [f32], index: usize) -> Result<&'a [f32], String> {
        let start = index * self.width;
        let row = table.get(start..start + self.width);
        row.ok_or_else(|| format!("the model has no row {index}"))
    }
}

impl Layer {
    fn load(weights: &Weights<'_>, config: &Config) -> Result<Self, String> {
        let (hidden, wide) = (config.hidden_size, config.intermediate_size);
        let of_itself = weights.part("attention").part("self");
        let third = |name| Linear::load(&of_itself.part(name), hidden, hidden);
        let joined = weights.part("attention").part("output");
        let narrow = weights.part("output");
        let dense = |part: &Weights<'_>, from, to| Linear::load(&part.part("dense"), from, to);
        let norm = |part| Norm::load(part, hidden, config.layer_norm_eps);
        Ok(Self {
            attention: third("query")?.over(third("key")?).over(third("value")?),
            joined: dense(&joined, hidden, hidden)?,
            attention_norm: norm(&joined)?,
            wide: dense(&weights.part("intermediate"), hidden, wide)?.then(config.hidden_act),
            narrow: dense(&narrow, wide, hidden)?,
            norm: norm(&narrow)?,
        })
    }

    /// `states` are token by token; what the products give is a column for each.
    fn apply(&self, states: &mut [f32], heads: usize, texts: &[Range<usize>]) {
        let tokens = texts.last().map_or(0, |last| last.end);
        let three = self.attention.forward(of_states(states, tokens));
        let seen = attention::look(of_columns(&three, tokens), heads, texts);
        let joined = self.joined.forward(of_columns(&seen, tokens));
        self.attention_norm.add(states, &joined);
        let wide = self.wide.forward(of_states(states, tokens));
        let narrow = self.narrow.forward(of_columns(&wide, tokens));
        self.norm.add(states, &narrow);
    }
}

fn of_states(states: &[f32], tokens: usize) -> Matrix<'_> {
    Matrix::new(states, tokens, states.len() / tokens.max(1)).turned()
}

fn of_columns(numbers: &[f32], tokens: usize) -> Matrix<'_> {
    Matrix::new(numbers, numbers.len() / tokens.max(1), tokens)
}
