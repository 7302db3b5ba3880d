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
# None where two tokens are as good as tied for the first place, as after "What is the capital of France?": there the weights'
# rounding decides.
ASKS = ["Name a fruit.", "Which animal says moo?", "What colour is the sky?"]
# It may part the two later in their text.
ALIKE = 20


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    folder = tmp_path_factory.mktemp("safetensors")
    hf_folder.write(WEIGHTS, folder / "model")
    text = CONFIG.read_text()
    for old, new in [
        ('engine = "llama"', f'engine = "mistralrs"\nweights = "{folder / "model"}"'),
        ("context_tokens = 2048", "context_tokens = 512"),
    ]:
        assert text.count(old) == 1
        text = text.replace(old, new)
    config = folder / "safetensors.toml"
    config.write_text(text)
    yield from running(folder, config)


def test_a_folder_of_safetensors_answers_and_is_billed(second, client):
    told = []
    with sdk(second) as other:
        for ask in ASKS:
            expected = client.chat.completions.create(**chat(ask, max_tokens=16))
            answer = other.chat.completions.create(**chat(ask, max_tokens=16))
            text = answer.choices[0].message.content
            assert len(text) >= ALIKE, text
            assert expected.choices[0].message.content.startswith(text[:ALIKE]), text
            assert expected.usage.prompt_tokens == answer.usage.prompt_tokens
            told.append(answer.usage)
    [row] = [row for row in second.usage() if row["completion_tokens"]]
    assert row["requests"] == len(ASKS)
    assert row["prompt_tokens"] == sum(usage.prompt_tokens for usage in told)
    assert row["completion_tokens"] == sum(usage.completion_tokens for usage in told)
