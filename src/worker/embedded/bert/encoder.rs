use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::BertModel;

use super::folder::{Folder, failed};
use super::pooling::{Pooling, normalise};
use super::tokens::Row;

/// The loaded weights, and what becomes of their output.
pub(super) struct Encoder {
    model: BertModel,
    pooling: Pooling,
    normalise: bool,
    dimensions: usize,
}

impl Encoder {
    /// # Errors
    /// One line about `model.safetensors`.
    pub(super) fn load(folder: &Folder) -> std::result::Result<Self, String> {
        let path = folder.transformer.join("model.safetensors");
        let bytes = std::fs::read(&path).map_err(|error| failed(&path, &error))?;
        let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu)
            .map_err(|error| failed(&path, &error))?;
        let model =
            BertModel::load(weights, &folder.config).map_err(|error| failed(&path, &error))?;
        Ok(Self {
            model,
            pooling: folder.pooling.clone(),
            normalise: folder.normalise,
            dimensions: folder.config.hidden_size * folder.pooling.width(),
        })
    }

    /// Numbers of a whole vector.
    pub(super) fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// A vector for each row, as pooling leaves it: [`Encoder::finish`] makes it what a client sees.
    pub(super) fn compute(&self, rows: &[Row]) -> Result<Vec<Vec<f32>>> {
        let width = rows.iter().map(Row::len).max().unwrap_or(0);
        let ids = padded(rows, width, |row| row.ids.clone())?;
        let types = padded(rows, width, |row| row.types.clone())?;
        let mask = padded(rows, width, |row| vec![1; row.len()])?;
        let tokens = self.model.forward(&ids, &types, Some(&mask))?;
        self.pooling.apply(&tokens, &mask)?.to_vec2()
    }

    /// Keeps the first numbers, where fewer are asked for, and brings the vector to unit length: always after
    /// a cut, else where the model's configuration says so.
    ///
    /// The first numbers mean something on their own in a model that was trained for it (Matryoshka
    /// representation learning, arXiv 2205.13147). Of any other, a cut vector is a worse one than its
    /// length alone would make it.
    pub(super) fn finish(&self, mut vector: Vec<f32>, dimensions: Option<u32>) -> Vec<f32> {
        if let Some(dimensions) = dimensions {
            vector.truncate(dimensions as usize);
            vector.shrink_to_fit();
        }
        if self.normalise || dimensions.is_some() {
            normalise(&mut vector);
        }
        vector
    }
}

/// Zeros stand where a row is shorter than the widest.
fn padded(rows: &[Row], width: usize, values: impl Fn(&Row) -> Vec<u32>) -> Result<Tensor> {
    let mut places = Vec::with_capacity(rows.len() * width);
    for row in rows {
        places.extend(values(row));
        places.resize(places.len() + width - row.len(), 0);
    }
    Tensor::from_vec(places, (rows.len(), width), &Device::Cpu)
}
