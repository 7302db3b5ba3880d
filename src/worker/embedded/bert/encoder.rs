use rayon::{ThreadPool, ThreadPoolBuilder};
use safetensors::SafeTensors;

use super::folder::{Folder, failed};
use super::pooling::{Pooling, normalise};
use super::tokens::Row;
use super::transformer::Transformer;
use crate::types::Precision;

/// The loaded weights, and what becomes of their output.
pub(super) struct Encoder {
    model: Transformer,
    pooling: Pooling,
    normalise: bool,
    /// Numbers of a token's vector.
    width: usize,
    /// The cores. A batch moves in among them once, and hands out its products from inside.
    cores: ThreadPool,
}

impl Encoder {
    /// # Errors
    /// One line about `model.safetensors`, or the system gives no threads.
    pub(super) fn load(folder: &Folder) -> Result<Self, String> {
        let path = folder.transformer.join("model.safetensors");
        let bytes = std::fs::read(&path).map_err(|error| failed(&path, &error))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| failed(&path, &error))?;
        let model =
            Transformer::load(&file, &folder.config).map_err(|error| failed(&path, &error))?;
        let cores = ThreadPoolBuilder::new().thread_name(|core| format!("encoder-{core}"));
        let encoder = Self {
            model,
            pooling: folder.pooling.clone(),
            normalise: folder.normalise,
            width: folder.config.hidden_size,
            cores: cores.build().map_err(|error| error.to_string())?,
        };
        // What it can't compute is found before anybody asks.
        let row = Row {
            ids: vec![0],
            types: vec![0],
        };
        encoder
            .compute(&[row], Precision::Full)
            .map_err(|error| failed(&path, &error))?;
        Ok(encoder)
    }

    /// Numbers of a whole vector.
    pub(super) fn dimensions(&self) -> usize {
        self.width * self.pooling.width()
    }

    /// A vector for each row, as pooling leaves it: [`Encoder::finish`] makes it what a client sees.
    pub(super) fn compute(
        &self,
        rows: &[Row],
        precision: Precision,
    ) -> Result<Vec<Vec<f32>>, String> {
        let tokens = self.cores.install(|| self.model.forward(rows, precision))?;
        let mut rest = tokens.as_slice();
        let mut pooled = |row: &Row| {
            let tokens = rest.split_off(..row.len() * self.width);
            self.pooling.apply(tokens.unwrap_or_default(), self.width)
        };
        Ok(rows.iter().map(&mut pooled).collect())
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
