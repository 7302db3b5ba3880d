"""LoRA adapters of random matrices, and the same change of the weights made by hand.

As a script it makes an adapter for a llama.cpp model, and the model with it merged in:

    python lora_adapter.py BASE.gguf ADAPTER.gguf MERGED.gguf [SEED]
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

# How long B A is beside the weights that it changes, as matrices' norms go.
STRENGTH = 0.3


@dataclass(frozen=True)
class Recipe:
    """What an adapter is made of; the same recipe gives the same matrices."""

    seed: int
    rank: int
    # Divided by the rank it is what B A is multiplied with, so that it must not equal the rank here.
    alpha: float
    layers: tuple[int, ...]
    parts: tuple[str, ...] = ("attn_q", "attn_v", "attn_output", "ffn_gate", "ffn_down")

    def tensors(self) -> list[str]:
        return [f"blk.{layer}.{part}.weight" for layer in self.layers for part in self.parts]


class Base:
    """A model's GGUF file."""

    def __init__(self, path: Path):
        self.reader = GGUFReader(path)
        self.tensors = {tensor.name: tensor for tensor in self.reader.tensors}
        self.architecture = self.reader.fields["general.architecture"].contents()
        # Once for all files that are written: a vocabulary is long. The writer gives what is left out itself.
        self.fields = [
            (name, field.contents(), field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None)
            for name, field in self.reader.fields.items()
            if not name.startswith("GGUF.") and name != "general.architecture"
        ]

    def weights(self, name: str) -> np.ndarray:
        """Output by input."""
        tensor = self.tensors[name]
        return dequantize(tensor.data, tensor.tensor_type)

    def matrices(self, recipe: Recipe) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """A (rank by input) and B (output by rank) for each tensor of the recipe."""
        random = np.random.default_rng(recipe.seed)
        made = {}
        for name in recipe.tensors():
            weights = self.weights(name)
            a = random.standard_normal((recipe.rank, weights.shape[1]), dtype=np.float32)
            b = random.standard_normal((weights.shape[0], recipe.rank), dtype=np.float32)
            change = np.linalg.norm(b @ a) * recipe.alpha / recipe.rank
            b *= np.float32(STRENGTH * np.linalg.norm(weights) / change)
            made[name] = (a, b)
        return made

    def write_adapter(self, recipe: Recipe, path: Path, share: float = 1.0, broken: bool = False) -> None:
        """The adapter as a file, with that share of its alpha. A broken one has it as a text."""
        writer = GGUFWriter(path, self.architecture)
        writer.add_string("general.type", "adapter")
        writer.add_string("adapter.type", "lora")
        if broken:
            writer.add_string("adapter.lora.alpha", str(recipe.alpha))
        else:
            writer.add_float32("adapter.lora.alpha", recipe.alpha * share)
        for name, (a, b) in self.matrices(recipe).items():
            writer.add_tensor(f"{name}.lora_a", a)
            writer.add_tensor(f"{name}.lora_b", b)
        _write(writer)

    def write_merged(self, recipe: Recipe, path: Path, scale: float = 1.0, unrounded: bool = False) -> None:
        """A whole model, whose weights have scale * alpha / rank * B A added. What the recipe names is in F32,
        all else as it was. Unrounded, every matrix of every layer is in F32."""
        changed = {}
        if unrounded:
            layers = [name for name in self.tensors if name.startswith("blk.")]
            changed |= {name: self.weights(name) for name in layers}
        for name, (a, b) in self.matrices(recipe).items():
            factor = scale * recipe.alpha / recipe.rank
            sum_ = self.weights(name).astype(np.float64) + factor * (b.astype(np.float64) @ a)
            changed[name] = sum_.astype(np.float32)
        writer = GGUFWriter(path, self.architecture)
        for name, value, kind, element in self.fields:
            writer.add_key_value(name, value, kind, sub_type=element)
        for name, tensor in self.tensors.items():
            if name in changed:
                writer.add_tensor(name, changed[name])
            else:
                writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
        _write(writer)


def _write(writer: GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    base, adapter, merged = (Path(argument) for argument in sys.argv[1:4])
    recipe = Recipe(seed=int(sys.argv[4]) if len(sys.argv) > 4 else 1, rank=8, alpha=16.0, layers=(3, 12, 21))
    model = Base(base)
    model.write_adapter(recipe, adapter)
    model.write_merged(recipe, merged)


if __name__ == "__main__":
    main()
