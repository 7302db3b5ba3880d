"""lm-eval against the running binary, and the same score by hand. `make test-lm-eval` runs it, since what it
needs is large."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer

import gguf_tokenizer
from asks import CHAT
from server import KEY

DATA = Path(__file__).parent / "data"
TASK = "forebay_questions"
MODELS = Path.home() / ".cache" / "forebay" / "models"
WEIGHTS = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm-eval")
    gguf_tokenizer.write(WEIGHTS, folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))


def lm_eval(url, folder):
    """The results and the samples that lm-eval writes."""
    arguments = {
        "model": CHAT,
        "base_url": f"{url}/v1/completions",
        "tokenizer_backend": "huggingface",
        "tokenizer": str(folder / "tokenizer"),
        "max_retries": "1",
    }
    output = folder / "output"
    done = subprocess.run(
        [sys.executable, "-m", "lm_eval", "--model", "local-completions"]
        + ["--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())]
        + ["--include_path", DATA, "--tasks", TASK, "--batch_size", "1"]
        + ["--output_path", output, "--log_samples"],
        cwd=DATA,
        # Nothing comes from elsewhere: the data set, the task and the tokenizer lie here.
        env=os.environ
        | {
            "OPENAI_API_KEY": KEY,
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HOME": str(folder / "hf"),
            "NO_PROXY": "127.0.0.1",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    [results] = output.rglob("results_*.json")
    [samples] = output.rglob(f"samples_{TASK}_*.jsonl")
    return json.loads(results.read_text()), [json.loads(line) for line in samples.read_text().splitlines()]


def test_lm_eval_gives_the_score_that_the_log_probabilities_give(server, client, folder, tokenizer):
    results, samples = lm_eval(server.url, folder)
    questions = [json.loads(line) for line in (DATA / "questions.jsonl").read_text().splitlines()]
    assert len(samples) == len(questions) == 12
    right = []
    for question, sample in zip(questions, sorted(samples, key=lambda sample: sample["doc_id"]), strict=True):
        context = f"Question: {question['question']}\nAnswer:"
        choices = [by_hand(client, tokenizer, context, f" {choice}") for choice in question["choices"]]
        told = [float(answer[0]) for [answer] in sample["resps"]]
        assert told == pytest.approx(choices, abs=1e-3)
        right.append(choices.index(max(choices)) == question["answer"])
    assert results["results"][TASK]["acc,none"] == pytest.approx(sum(right) / len(right))


def by_hand(client, tokenizer, context, continuation):
    """How likely the continuation is, as the sum over its tokens."""
    before = tokenizer.encode(context).ids
    ids = tokenizer.encode(context + continuation).ids
    assert ids[: len(before)] == before
    answer = client.completions.create(model=CHAT, prompt=ids, echo=True, max_tokens=0, logprobs=1, temperature=0)
    logprobs = answer.choices[0].logprobs
    assert len(logprobs.tokens) == len(ids) == answer.usage.prompt_tokens
    assert answer.choices[0].text == context + continuation
    return sum(logprobs.token_logprobs[len(before) :])


def test_the_tokenizer_made_of_the_weights_is_the_servers_own(client, tokenizer):
    # Or the comparison would be of something else than the text.
    for text in ("Hello world", "In 1987, 23 people: naïve café 🥨!\n\n  def f(x):\n\treturn x", "  two  spaces "):
        answer = client.completions.create(model=CHAT, prompt=text, echo=True, max_tokens=0, logprobs=0)
        own = [piece(tokenizer, id) for id in tokenizer.encode(text).ids]
        assert answer.choices[0].logprobs.tokens == own


def piece(tokenizer, id):
    """A token as the completions endpoint spells it."""
    alphabet = {letter: byte for byte, letter in byte_letters().items()}
    raw = bytes(alphabet[letter] for letter in tokenizer.id_to_token(id))
    try:
        return raw.decode()
    except UnicodeDecodeError:
        # As Python shows bytes: letters as they are, the others by their number.
        return "bytes:" + repr(raw)[2:-1]


def byte_letters():
    """GPT-2's letters for the 256 bytes: printable ones stand for themselves, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(others)}
