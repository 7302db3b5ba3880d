"""Trains the adapter of the hydropower example: LoRA (arXiv 2106.09685) over SmolLM2-135M-Instruct, on a CPU.

    python train.py --base SmolLM2-135M-Instruct.Q4_1.gguf --out triage.gguf

It needs jax, optax, gguf and httpx, and a running `forebay serve`, which tells the tokens of a prompt as the model's own
template makes them. It reads train.jsonl alone; triage.jsonl is the suite, which nothing here may see.
"""

import argparse
import json
import tomllib
from functools import partial
from pathlib import Path

import httpx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize

HERE = Path(__file__).resolve().parent
MODEL = "smollm2-135m-instruct"
RANK, ALPHA = 8, 16.0
PARTS = ("attn_q", "attn_v", "ffn_up", "ffn_down")
# Layers from this one on are changed. Those before it are only read, which halves the time.
FIRST = 15
# Lines that are looked at after each epoch and not trained on.
VALIDATION = 64


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "triage.gguf")
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", default="fb-local")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


# ---- What is trained on


def examples(url: str, key: str, end: int) -> list[list[tuple[list[int], list[int]]]]:
    """Each line as prompts with their answer, in tokens: as a bare question, and under the vertical's own system message."""
    config = tomllib.loads((HERE / "forebay.toml").read_text())
    system = next(model["system"] for model in config["model"] if model["name"] == "triage")
    with httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=60) as http:

        def tokens(**body) -> list[int]:
            answer = http.post("/v1/tokenize", json={"model": MODEL} | body)
            answer.raise_for_status()
            return answer.json()["tokens"]

        labels: dict[str, list[int]] = {}
        lines = []
        for line in (HERE / "train.jsonl").read_text().splitlines():
            item = json.loads(line)
            label = item["expected"]
            if label not in labels:
                labels[label] = tokens(prompt=label, add_special_tokens=False) + [end]
            user = {"role": "user", "content": item["input"]}
            forms = [[user], [{"role": "system", "content": system}, user]]
            lines.append([(tokens(messages=messages), labels[label]) for messages in forms])
    return lines


def batches(pairs, size: int, random: np.random.Generator):
    """Prompts of like length together, padded; the answer's own tokens are what is to be foretold."""
    order = sorted(random.permutation(len(pairs)), key=lambda index: len(pairs[index][0]) // 8)
    starts = list(range(0, len(order), size))
    random.shuffle(starts)
    for start in starts:
        chosen = [pairs[index] for index in order[start : start + size]]
        longest = max(len(prompt) + len(answer) for prompt, answer in chosen) - 1
        # Of few lengths: each is compiled once.
        width = -(-longest // 16) * 16
        tokens, targets, mask = (np.zeros((size, width), dtype) for dtype in (np.int32, np.int32, np.float32))
        for row, (prompt, answer) in enumerate(chosen):
            whole = prompt + answer
            tokens[row, : len(whole) - 1] = whole[:-1]
            targets[row, : len(whole) - 1] = whole[1:]
            mask[row, len(prompt) - 1 : len(whole) - 1] = 1
        yield jnp.asarray(tokens), jnp.asarray(targets), jnp.asarray(mask)


# ---- The model, as llama.cpp computes it


class Base:
    def __init__(self, path: Path):
        reader = GGUFReader(path)
        field = lambda name: reader.fields[name].contents()  # noqa: E731
        self.architecture = field("general.architecture")
        of = lambda name: field(f"{self.architecture}.{name}")  # noqa: E731
        self.layers, self.heads, self.kv_heads = of("block_count"), of("attention.head_count"), of("attention.head_count_kv")
        self.epsilon, self.theta = of("attention.layer_norm_rms_epsilon"), of("rope.freq_base")
        self.end = field("tokenizer.ggml.eos_token_id")
        tensors = {tensor.name: tensor for tensor in reader.tensors}

        def weights(name: str) -> np.ndarray:
            return np.asarray(dequantize(tensors[name].data, tensors[name].tensor_type), np.float32)

        names = [name.removeprefix("blk.0.").removesuffix(".weight") for name in tensors if name.startswith("blk.0.")]
        self.blocks = {
            name: jnp.stack([weights(f"blk.{layer}.{name}.weight") for layer in range(self.layers)]) for name in names
        }
        self.embedding, self.norm = jnp.asarray(weights("token_embd.weight")), jnp.asarray(weights("output_norm.weight"))

    def adapter(self, random: np.random.Generator):
        """A at random, B nothing: at first it changes nothing."""
        made = {}
        for part in PARTS:
            layers, outputs, inputs = self.blocks[part].shape
            layers -= FIRST
            a = random.standard_normal((layers, RANK, inputs)).astype(np.float32) / np.sqrt(inputs)
            made[part] = (jnp.asarray(a), jnp.zeros((layers, outputs, RANK)))
        return made


def rms(x, weight, epsilon):
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * weight


def rope(x, theta):
    """Neighbours are turned together: the order in which llama.cpp keeps the rows of these weights."""
    width, half = x.shape[1], x.shape[-1] // 2
    angles = jnp.arange(width)[:, None] * theta ** (-jnp.arange(half) / half)
    cos, sin = jnp.cos(angles)[None, :, None, :], jnp.sin(angles)[None, :, None, :]
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1).reshape(x.shape)


def hidden(adapter, blocks, embedding, tokens, base):
    """What stands before the last norm, for each token."""
    batch, width = tokens.shape
    causal = jnp.tril(jnp.ones((width, width), bool))

    def block(x, layer):
        weights, lora = layer

        def linear(x, part):
            y = x @ weights[part].T
            if part in lora:
                a, b = lora[part]
                y = y + (x @ a.T) @ b.T * (ALPHA / RANK)
            return y

        def heads(x, count):
            return x.reshape(batch, width, count, -1)

        h = rms(x, weights["attn_norm"], base.epsilon)
        q = rope(heads(linear(h, "attn_q"), base.heads), base.theta)
        k = rope(heads(linear(h, "attn_k"), base.kv_heads), base.theta)
        v = heads(linear(h, "attn_v"), base.kv_heads)
        share = base.heads // base.kv_heads
        k, v = (jnp.repeat(each, share, axis=2) for each in (k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
        scores = jax.nn.softmax(jnp.where(causal, scores, -1e30), axis=-1)
        x = x + linear(jnp.einsum("bhqk,bkhd->bqhd", scores, v).reshape(batch, width, -1), "attn_output")
        h = rms(x, weights["ffn_norm"], base.epsilon)
        return x + linear(jax.nn.silu(linear(h, "ffn_gate")) * linear(h, "ffn_up"), "ffn_down"), None

    below, above = ({name: each[part] for name, each in blocks.items()} for part in (slice(FIRST), slice(FIRST, None)))
    x, _ = jax.lax.scan(block, embedding[tokens], (below, {}))
    x, _ = jax.lax.scan(block, x, (above, adapter))
    return x


# Of an answer no more tokens than these are looked at: logits over the whole vocabulary are what costs memory.
ANSWER = 8


def foretold(adapter, weights, batch, base):
    """The log-probabilities of the answers' tokens, and whether each is the likeliest."""
    blocks, embedding, norm = weights
    tokens, targets, mask = batch
    x = hidden(adapter, blocks, embedding, tokens, base)
    places = jnp.argsort(-mask, axis=1, stable=True)[:, :ANSWER]
    at = lambda values: jnp.take_along_axis(values, places, axis=1)  # noqa: E731
    x = jnp.take_along_axis(x, places[..., None], axis=1)
    logits = rms(x, norm, base.epsilon) @ embedding.T
    targets, mask = at(targets), at(mask)
    logprobs = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
    return logprobs, jnp.argmax(logits, axis=-1) == targets, mask


def loss(adapter, weights, batch, base):
    logprobs, _, mask = foretold(adapter, weights, batch, base)
    return -(logprobs * mask).sum() / mask.sum()


def accuracy(adapter, weights, batch, base):
    """Answers that are right to the last token, and all answers."""
    _, right, mask = foretold(adapter, weights, batch, base)
    is_row = mask.sum(axis=1) > 0
    return ((right | (mask == 0)).all(axis=1) & is_row).sum(), is_row.sum()


def write(adapter, base: Base, path: Path) -> None:
    writer = GGUFWriter(path, base.architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for part, (a, b) in adapter.items():
        for layer in range(FIRST, base.layers):
            place = layer - FIRST
            writer.add_tensor(f"blk.{layer}.{part}.weight.lora_a", np.asarray(a[place], np.float16))
            writer.add_tensor(f"blk.{layer}.{part}.weight.lora_b", np.asarray(b[place], np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    chosen = arguments()
    random = np.random.default_rng(chosen.seed)
    base = Base(chosen.base)
    lines = examples(chosen.url, chosen.key, base.end)
    order = random.permutation(len(lines))
    pairs = lambda indices: [form for index in indices for form in lines[index]]  # noqa: E731
    held_out, trained = pairs(order[:VALIDATION]), pairs(order[VALIDATION:])
    weights = (base.blocks, base.embedding, base.norm)
    adapter = base.adapter(random)
    steps = chosen.epochs * -(-len(trained) // chosen.batch)
    optimiser = optax.adamw(optax.cosine_decay_schedule(chosen.rate, steps), weight_decay=0.01)
    state = optimiser.init(adapter)

    @jax.jit
    def step(adapter, state, weights, batch):
        value, slope = jax.value_and_grad(loss)(adapter, weights, batch, base)
        change, state = optimiser.update(slope, state, adapter)
        return optax.apply_updates(adapter, change), state, value

    judge = jax.jit(partial(accuracy, base=base))
    for epoch in range(chosen.epochs + 1):
        judged = [judge(adapter, weights, batch) for batch in batches(held_out, chosen.batch, random)]
        right, count = (sum(int(each[index]) for each in judged) for index in (0, 1))
        print(f"epoch {epoch}: {right} of {count} held out are right", flush=True)
        if epoch == chosen.epochs:
            break
        losses = []
        for batch in batches(trained, chosen.batch, random):
            adapter, state, value = step(adapter, state, weights, batch)
            losses.append(float(value))
            if len(losses) % 4 == 0:
                print(f"  step {len(losses)}: loss {np.mean(losses[-4:]):.3f}", flush=True)
    write(adapter, base, chosen.out)


if __name__ == "__main__":
    main()
