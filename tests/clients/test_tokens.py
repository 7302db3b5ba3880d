import pytest

from asks import CHAT, user


def post(raw, path, body, status=200):
    answer = raw.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize("path", ["/v1/tokenize", "/tokenize"])
def test_a_text_is_taken_apart_and_put_together_again(raw, client, path):
    text = "A forebay holds water. 水 🦀 <|im_end|>"
    told = post(raw, path, {"model": CHAT, "prompt": text, "return_token_strs": True})
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"]) and told["max_model_len"] == 2048
    back = post(raw, path.replace("tokenize", "detokenize"), {"model": CHAT, "tokens": told["tokens"]})
    assert back == {"prompt": text}
    usage = client.completions.create(model=CHAT, prompt=told["tokens"], max_tokens=1).usage
    assert usage.prompt_tokens == told["count"]
    assert post(raw, path, {"model": CHAT, "prompt": text})["token_strs"] is None


def test_a_conversation_is_as_many_tokens_as_its_answer_says(raw, client):
    messages = [{"role": "system", "content": "Be short."}, *user("What is a weir?")]
    told = post(raw, "/v1/tokenize", {"model": CHAT, "messages": messages})
    usage = client.chat.completions.create(model=CHAT, messages=messages, max_tokens=1).usage
    assert usage.prompt_tokens == told["count"]


def test_what_cannot_be_taken_apart_is_named(raw):
    for path, body, status, param in (
        ("/v1/tokenize", {"prompt": "a"}, 400, "model"),
        ("/v1/tokenize", {"model": CHAT}, 400, "prompt"),
        ("/v1/tokenize", {"model": "none", "prompt": "a"}, 404, "model"),
        ("/v1/tokenize", {"model": CHAT, "messages": []}, 400, "messages"),
        ("/v1/tokenize", {"model": CHAT, "prompt": "a" * 1_000_000}, 400, "prompt"),
        ("/v1/detokenize", {"model": CHAT, "tokens": [-1]}, 400, "tokens[0]"),
        ("/v1/detokenize", {"model": CHAT, "tokens": [2_000_000_000]}, 400, "tokens"),
    ):
        assert post(raw, path, body, status)["error"]["param"] == param, body
