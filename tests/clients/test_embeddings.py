import base64
import math
import struct

import openai
import pytest

from asks import EMBEDDINGS

TEXTS = ["A cat sits on the mat.", "A kitten rests on a rug.", "Interest rates rose again in spring."]


def embed(client, texts, **settings):
    # The SDK itself asks for base64 and decodes it, unless a format is given.
    return client.embeddings.create(model=EMBEDDINGS, input=texts, **settings)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def test_floats_and_base64_are_the_same_numbers(client):
    decoded = embed(client, TEXTS[0]).data[0].embedding
    floats = embed(client, TEXTS[0], encoding_format="float").data[0].embedding
    assert len(floats) == 384
    assert decoded == pytest.approx(floats, abs=1e-6)


def test_base64_is_little_endian_f32(raw):
    request = {"model": EMBEDDINGS, "input": TEXTS[0]}
    [packed] = raw.post("/v1/embeddings", json=request | {"encoding_format": "base64"}).json()["data"]
    # Without a format the wire has plain numbers.
    [plain] = raw.post("/v1/embeddings", json=request).json()["data"]
    numbers = struct.unpack("<384f", base64.b64decode(packed["embedding"], validate=True))
    assert list(numbers) == pytest.approx(plain["embedding"], abs=1e-6)


def test_a_list_comes_back_in_its_order(client):
    together = embed(client, TEXTS)
    assert [item.index for item in together.data] == [0, 1, 2]
    for text, item in zip(TEXTS, together.data, strict=True):
        # Padding beside longer neighbours moves the last bits, never the meaning.
        assert cosine(item.embedding, embed(client, text).data[0].embedding) > 0.9999


def test_near_in_meaning_is_near_in_space(client):
    cat, kitten, rates = (item.embedding for item in embed(client, TEXTS).data)
    assert math.hypot(*cat) == pytest.approx(1, abs=1e-3)
    assert cosine(cat, kitten) > 0.5 > 0.3 > cosine(cat, rates)


def test_usage_counts_every_text(client):
    together = embed(client, TEXTS).usage
    alone = [embed(client, text).usage.prompt_tokens for text in TEXTS]
    assert together.prompt_tokens == together.total_tokens == sum(alone)


def test_token_ids_give_the_vector_of_their_text(client):
    # "a cat" and "water" by the vocabulary of BERT, without special tokens.
    ids, texts = [[1037, 4937], [2300]], ["a cat", "water"]
    by_text = embed(client, texts)
    by_ids = embed(client, ids)
    assert by_ids.usage.prompt_tokens == by_text.usage.prompt_tokens == 4 + 3
    for a, b in zip(by_ids.data, by_text.data, strict=True):
        assert a.embedding == pytest.approx(b.embedding, abs=1e-5)
    # A flat list is one text.
    [one] = embed(client, ids[0]).data
    assert one.embedding == pytest.approx(by_text.data[0].embedding, abs=1e-5)


@pytest.mark.parametrize("dimensions", [1, 64, 384])
def test_dimensions_cut_a_vector_and_keep_its_direction(client, dimensions):
    whole = embed(client, TEXTS[0]).data[0].embedding
    cut = embed(client, TEXTS[0], dimensions=dimensions).data[0].embedding
    assert len(cut) == dimensions
    assert math.hypot(*cut) == pytest.approx(1, abs=1e-5)
    assert cosine(cut, whole[:dimensions]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"texts": TEXTS, "dimensions": 385}, "dimensions"),
        ({"texts": TEXTS, "dimensions": 0}, "dimensions"),
        ({"texts": []}, "input"),
        ({"texts": [TEXTS[0], ""]}, "input[1]"),
        ({"texts": [TEXTS[0], "word " * 300]}, "input[1]"),
        ({"texts": [[1037], [30522]]}, "input[1]"),
    ],
)
def test_what_is_wrong_is_named(client, settings, param):
    with pytest.raises(openai.BadRequestError) as refused:
        embed(client, **settings)
    assert refused.value.param == param


def test_a_long_list_is_one_request(client):
    texts = [f"{index} bottles" for index in range(2048)]
    together = embed(client, texts)
    assert [item.index for item in together.data] == list(range(2048))
    assert cosine(together.data[1999].embedding, embed(client, texts[1999]).data[0].embedding) > 0.9999
