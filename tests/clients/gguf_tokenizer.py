"""A Hugging Face tokenizer made of what a GGUF file says of its vocabulary."""

import json
from pathlib import Path

from gguf import GGUFReader, TokenType
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


def write(weights: Path, folder: Path) -> None:
    """Puts the tokenizer of a SmolLM2 file into a folder, where `AutoTokenizer` finds it."""
    fields = GGUFReader(weights).fields

    def value(name):
        return fields[f"tokenizer.ggml.{name}"].contents()

    assert (value("model"), value("pre")) == ("gpt2", "smollm"), "another vocabulary needs other rules"
    tokens = value("tokens")
    merges = [tuple(merge.split(" ")) for merge in value("merges")]
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    # What llama.cpp does for this name: digits one by one, then GPT-2's own way.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, value("token_type"), strict=True)
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in kinds if kind == TokenType.CONTROL]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[value("bos_token_id")],
        "eos_token": tokens[value("eos_token_id")],
        "chat_template": fields["tokenizer.chat_template"].contents(),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
