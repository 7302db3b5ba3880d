//! The transformer of BERT (Devlin et al., arXiv 1810.04805), on all cores for each batch.
//!
//! Of our own, and not candle's: that one lays all weights out anew for each batch, hands each product to the cores from
//! outside their pool, and computes padding. `auto` waits for it with every question, and has it computed in integers;
//! what was gained stands in ARCHITECTURE.md, "What was measured".

use std::ops::Range;

use safetensors::SafeTensors;
use serde::Deserialize;

use super::attention;
use super::linear::{Activation, Linear};
use super::norm::Norm;
use super::tokens::Row;
use super::weights::Weights;
use crate::types::Precision;

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
    pub(super) type_vocab_size: usize,
    layer_norm_eps: f32,
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
        let weights = match weights.has("bert.embeddings.word_embeddings.weight") {
            true => weights.part("bert"),
            false => weights,
        };
        let (heads, width) = (config.num_attention_heads, config.hidden_size);
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return Err(format!(
                "hidden_size {width} is no multiple of num_attention_heads {heads}"
            ));
        }
        if config.intermediate_size == 0 {
            return Err("intermediate_size is 0".into());
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
    pub(super) fn forward(&self, texts: &[Row], precision: Precision) -> Result<Vec<f32>, String> {
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
            layer.apply(&mut states, self.heads, &places, precision)?;
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
        let thirds = ["query", "key", "value"].map(|name| of_itself.part(name));
        let joined = weights.part("attention").part("output");
        let narrow = weights.part("output");
        let dense = |part: &Weights<'_>, from, to| Linear::load(&[part.part("dense")], from, to);
        let norm = |part| Norm::load(part, hidden, config.layer_norm_eps);
        Ok(Self {
            attention: Linear::load(&thirds, hidden, hidden)?,
            joined: dense(&joined, hidden, hidden)?,
            attention_norm: norm(&joined)?,
            wide: dense(&weights.part("intermediate"), hidden, wide)?.then(config.hidden_act),
            narrow: dense(&narrow, wide, hidden)?,
            norm: norm(&narrow)?,
        })
    }

    /// `states` are token by token, as is all that is made of them.
    fn apply(
        &self,
        states: &mut [f32],
        heads: usize,
        texts: &[Range<usize>],
        precision: Precision,
    ) -> Result<(), String> {
        let forward = |linear: &Linear, states: &[f32]| {
            let out = linear.forward(states, precision);
            out.map_err(|error| error.to_string())
        };
        let three = forward(&self.attention, states)?;
        let seen = attention::look(&three, heads, texts)?;
        let joined = forward(&self.joined, &seen)?;
        self.attention_norm.add(states, &joined);
        let wide = forward(&self.wide, states)?;
        let narrow = forward(&self.narrow, &wide)?;
        self.norm.add(states, &narrow);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    const CONFIG: &str = r#"{"vocab_size": 5, "hidden_size": 4, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 6, "hidden_act": "gelu", "max_position_embeddings": 8, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12}"#;

    fn config(from: &str, to: &str) -> Result<Config, serde_json::Error> {
        assert!(CONFIG.contains(from));
        serde_json::from_str(&CONFIG.replace(from, to))
    }

    /// The tensors of such a model, of numbers that are none's.
    fn tensors() -> Vec<(String, Vec<usize>)> {
        let of = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let mut all = vec![
            of("embeddings.word_embeddings.weight", &[5, 4]),
            of("embeddings.token_type_embeddings.weight", &[2, 4]),
            of("embeddings.position_embeddings.weight", &[8, 4]),
            of("embeddings.LayerNorm.weight", &[4]),
            of("embeddings.LayerNorm.bias", &[4]),
        ];
        for layer in ["encoder.layer.0", "encoder.layer.1"] {
            for (name, to, from) in [
                ("attention.self.query", 4, 4),
                ("attention.self.key", 4, 4),
                ("attention.self.value", 4, 4),
                ("attention.output.dense", 4, 4),
                ("intermediate.dense", 6, 4),
                ("output.dense", 4, 6),
            ] {
                all.push(of(&format!("{layer}.{name}.weight"), &[to, from]));
                all.push(of(&format!("{layer}.{name}.bias"), &[to]));
            }
            for name in ["attention.output.LayerNorm", "output.LayerNorm"] {
                all.push(of(&format!("{layer}.{name}.weight"), &[4]));
                all.push(of(&format!("{layer}.{name}.bias"), &[4]));
            }
        }
        all
    }

    fn load(rename: impl Fn(&str) -> String, config: &Config) -> Result<Transformer, String> {
        let tensors = tensors();
        let bytes = |seed: usize, shape: &[usize]| -> Vec<u8> {
            let numbers = 0..shape.iter().product::<usize>();
            let number = |i: usize| ((i * 7919 + seed * 131) % 97) as f32 / 97.0 - 0.5;
            numbers.flat_map(|i| number(i).to_le_bytes()).collect()
        };
        let data: Vec<_> = (1..)
            .zip(&tensors)
            .map(|(seed, (_, shape))| bytes(seed, shape))
            .collect();
        let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), data).unwrap();
            (rename(name), view)
        });
        let file = safetensors::serialize(views, None).unwrap();
        Transformer::load(&SafeTensors::deserialize(&file).unwrap(), config)
    }

    fn row(ids: &[u32]) -> Row {
        Row {
            ids: ids.to_vec(),
            types: vec![0; ids.len()],
        }
    }

    #[test]
    fn tensors_have_one_of_three_kinds_of_names() {
        let config = config("5", "5").unwrap();
        let whole = load(str::to_owned, &config).unwrap();
        let expected = whole.forward(&[row(&[1, 2, 3])], Precision::Full).unwrap();
        assert_eq!(expected.len(), 3 * 4);
        let part = |name: &str| format!("bert.{name}");
        let old = |name: &str| {
            name.replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta")
        };
        for other in [load(part, &config), load(old, &config)] {
            assert_eq!(
                other.unwrap().forward(&[row(&[1, 2, 3])], Precision::Full),
                Ok(expected.clone())
            );
        }
    }

    #[test]
    fn a_text_has_the_vectors_that_it_has_alone() {
        let model = load(str::to_owned, &config("5", "5").unwrap()).unwrap();
        let texts = [row(&[1, 2, 3]), row(&[4]), row(&[0, 1, 2, 3, 4, 3, 2])];
        for precision in [Precision::Full, Precision::Approximate] {
            let forward = |texts: &[Row]| model.forward(texts, precision).unwrap();
            let together = forward(&texts);
            let alone = texts.each_ref().map(|text| forward(&[row(&text.ids)]));
            let alone = alone.concat();
            assert_eq!(together.len(), alone.len());
            let mut apart = together
                .iter()
                .zip(&alone)
                .map(|(one, other)| (one - other).abs());
            assert!(apart.all(|apart| apart < 1e-5), "{precision:?}");
        }
    }

    #[test]
    fn what_the_model_has_not_is_no_vector() {
        let model = load(str::to_owned, &config("5", "5").unwrap()).unwrap();
        assert!(
            model
                .forward(&[row(&[5])], Precision::Full)
                .unwrap_err()
                .contains("row 5")
        );
        assert!(
            model
                .forward(&[row(&[1; 9])], Precision::Full)
                .unwrap_err()
                .contains("row 8")
        );
        assert_eq!(model.forward(&[], Precision::Full), Ok(Vec::new()));
        let kinds = Row {
            ids: vec![1],
            types: vec![2],
        };
        assert!(
            model
                .forward(&[kinds], Precision::Full)
                .unwrap_err()
                .contains("row 2")
        );
    }

    #[test]
    fn what_would_give_other_vectors_is_refused() {
        let refused = |from: &str, to: &str| {
            let config = config(from, to).map_err(|error| error.to_string());
            config
                .and_then(|config| load(str::to_owned, &config).map(|_| ()))
                .unwrap_err()
        };
        let heads = r#""num_attention_heads": "#;
        assert!(refused(&format!("{heads}2"), &format!("{heads}3")).contains("no multiple"));
        assert!(refused(&format!("{heads}2"), &format!("{heads}0")).contains("no multiple"));
        assert!(refused(r#"_size": 6"#, r#"_size": 0"#).contains("intermediate_size"));
        assert!(refused(r#"_size": 6"#, r#"_size": 7"#).contains("intermediate.dense.weight"));
        assert!(refused("layers\": 2", "layers\": 3").contains("encoder.layer.2."));
        assert!(refused("\"gelu\"", "\"swish\"").contains("swish"));
        let relative = r#""gelu", "position_embedding_type": "relative_key""#;
        assert!(refused("\"gelu\"", relative).contains("relative_key"));
    }

    #[test]
    fn an_activation_has_several_names() {
        for name in [
            "gelu",
            "gelu_python",
            "gelu_new",
            "gelu_fast",
            "gelu_pytorch_tanh",
            "relu",
        ] {
            assert!(config("\"gelu\"", &format!("\"{name}\"")).is_ok(), "{name}");
        }
    }
}
