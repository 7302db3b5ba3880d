"""A Hugging Face folder (`config.json`, `model.safetensors`, a tokenizer) made of a GGUF file of Llama's architecture.

The weights are what the file's blocks stand for, as 16-bit floats.
"""

import json
from pathlib import Path

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

import gguf_tokenizer

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "ffn_norm": "post_attention_layernorm",
}


def write(weights: Path, folder: Path) -> None:
    """Puts a model into a folder that isn't there yet."""
    gguf_tokenizer.write(weights, folder)
    reader = GGUFReader(weights)

    def value(name):
        return reader.fields[f"llama.{name}"].contents()

    heads = {"attn_q": value("attention.head_count"), "attn_k": value("attention.head_count_kv")}
    tensors = {}
    for tensor in reader.tensors:
        name = tensor.name.removesuffix(".weight")
        layer, part = "", name
        if name.startswith("blk."):
            _, number, part = name.split(".")
            layer = f"model.layers.{number}."
        matrix = dequantize(tensor.data, tensor.tensor_type)
        if part in heads:
            matrix = halves_together(matrix, heads[part])
        tensors[f"{layer}{NAMES[part]}.weight"] = matrix.astype(np.float16)
    vocabulary, width = tensors["model.embed_tokens.weight"].shape
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": width,
        "intermediate_size": value("feed_forward_length"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads["attn_q"],
        "num_key_value_heads": heads["attn_k"],
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "rope_theta": value("rope.freq_base"),
        "max_position_embeddings": value("context_length"),
        "vocab_size": vocabulary,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    safetensors(folder / "model.safetensors", tensors)


def halves_together(matrix, heads):
    """llama.cpp has the two halves of what is turned together side by side, and others one behind the other."""
    rows, columns = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def safetensors(path: Path, tensors) -> None:
    """https://huggingface.co/docs/safetensors#format"""
    head, end = {}, 0
    for name, matrix in tensors.items():
        head[name] = {"dtype": "F16", "shape": list(matrix.shape), "data_offsets": [end, end + matrix.nbytes]}
        end += matrix.nbytes
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for matrix in tensors.values():
            file.write(np.ascontiguousarray(matrix).tobytes())
