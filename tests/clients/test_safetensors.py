"""mistral.rs on a folder of safetensors says what llama.cpp says on the file that the folder was made of. Needs a binary
with the feature `mistralrs`: `make test-mistralrs`.
"""

from pathlib import Path

import pytest

import hf_folder
from asks import chat
from conftest import running, sdk
from server import CONFIG

WEIGHTS = Path.home() / ".cache" / "forebay" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
ASKS = ["What is the capital of France?", "Name a fruit.", "Which animal says moo?"]
# Rounding may part the two later in their text.
ALIKE = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("safetensors") / "model"
    hf_folder.write(WEIGHTS, folder)
    return folder


@pytest.fixture(scope="module")
def second(folder, tmp_path_factory):
    text = CONFIG.read_text()
    for old, new in [
        ('engine = "llama"', f'engine = "mistralrs"\nweights = "{folder}"'),
        ("context_tokens = 2048", "context_tokens = 512"),
    ]:
        assert old in text
        text = text.replace(old, new)
    config = folder.parent / "safetensors.toml"
    config.write_text(text)
    yield from running(tmp_path_factory.mktemp("forebay"), config)


def test_a_folder_of_safetensors_answers_and_is_billed(second, client):
    told = []
    with sdk(second) as other:
        for ask in ASKS:
            answer = other.chat.completions.create(**chat(ask, max_tokens=16))
            told.append(answer.usage)
            text = answer.choices[0].message.content
            expected = client.chat.completions.create(**chat(ask, max_tokens=16))
            assert len(text) >= ALIKE, text
            assert expected.choices[0].message.content.startswith(text[:ALIKE]), text
            assert expected.usage.prompt_tokens == answer.usage.prompt_tokens
    [row] = [row for row in second.usage() if row["completion_tokens"]]
    assert row["requests"] == len(ASKS)
    assert row["prompt_tokens"] == sum(usage.prompt_tokens for usage in told)
    assert row["completion_tokens"] == sum(usage.completion_tokens for usage in told)
