import base64
import math
import struct

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
