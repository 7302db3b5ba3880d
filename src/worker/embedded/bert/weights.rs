//! `model.safetensors`: a transformer's numbers by their names.

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

/// A part of the file: names are looked up below its own.
pub(super) struct Weights<'a> {
    file: &'a SafeTensors<'a>,
    prefix: String,
}

impl<'a> Weights<'a> {
    pub(super) fn new(file: &'a SafeTensors<'a>) -> Self {
        let prefix = String::new();
        Self { file, prefix }
    }

    /// What stands under `name`.
    pub(super) fn part(&self, name: &str) -> Self {
        Self {
            file: self.file,
            prefix: format!("{}{name}.", self.prefix),
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.file.tensor(&self.full(name)).is_ok()
    }

    /// The numbers of a tensor, row by row.
    ///
    /// # Errors
    /// It is missing, has another shape, or numbers that are not floats of 32 or 16 bits.
    pub(super) fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, String> {
        let name = self.full(name);
        let tensor = self
            .file
            .tensor(&name)
            .map_err(|error| format!("{name}: {error}"))?;
        if tensor.shape() != shape {
            let found = tensor.shape();
            return Err(format!("{name} has the shape {found:?} and not {shape:?}"));
        }
        let bytes = tensor.data();
        let (two, four) = (bytes.as_chunks().0.iter(), bytes.as_chunks().0.iter());
        match tensor.dtype() {
            Dtype::F32 => Ok(four.map(|bytes| f32::from_le_bytes(*bytes)).collect()),
            Dtype::F16 => Ok(two.map(|x| f16::from_le_bytes(*x).to_f32()).collect()),
            Dtype::BF16 => Ok(two.map(|x| bf16::from_le_bytes(*x).to_f32()).collect()),
            other => Err(format!(
                "{name} holds {other:?}; F32, F16 and BF16 are supported"
            )),
        }
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::TensorView;

    use super::*;

    fn file(dtype: Dtype, bytes: &[u8]) -> Vec<u8> {
        let tensor = TensorView::new(dtype, vec![1, 2], bytes).unwrap();
        safetensors::serialize([("layer.0.weight", tensor)], None).unwrap()
    }

    #[test]
    fn numbers_are_read_whatever_floats_they_are() {
        let numbers = [1.5_f32, -0.25];
        let bytes = |to: fn(&f32) -> Vec<u8>| numbers.iter().flat_map(to).collect::<Vec<u8>>();
        for (dtype, bytes) in [
            (Dtype::F32, bytes(|x| x.to_le_bytes().into())),
            (
                Dtype::F16,
                bytes(|x| f16::from_f32(*x).to_le_bytes().into()),
            ),
            (
                Dtype::BF16,
                bytes(|x| bf16::from_f32(*x).to_le_bytes().into()),
            ),
        ] {
            let file = file(dtype, &bytes);
            let file = SafeTensors::deserialize(&file).unwrap();
            let layer = Weights::new(&file).part("layer").part("0");
            assert!(layer.has("weight") && !layer.has("bias"));
            assert_eq!(layer.get("weight", &[1, 2]).unwrap(), numbers);
        }
    }

    #[test]
    fn what_is_not_as_the_configuration_says_is_named() {
        let file = file(Dtype::I16, &[1, 0, 2, 0]);
        let file = SafeTensors::deserialize(&file).unwrap();
        let weights = Weights::new(&file);
        let refused = |name: &str, shape: &[usize]| weights.get(name, shape).unwrap_err();
        assert!(refused("layer.0.bias", &[2]).starts_with("layer.0.bias"));
        assert!(refused("layer.0.weight", &[2]).contains("[1, 2] and not [2]"));
        assert!(refused("layer.0.weight", &[1, 2]).contains("I16"));
    }
}
