from asks import CHAT, finish


def request(**settings):
    return {"model": CHAT, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 24} | settings


def test_a_text_is_continued(client):
    answer = client.completions.create(**request())
    assert answer.object == "text_completion"
    [choice] = answer.choices
    assert choice.text
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_gives_what_the_whole_text_gives(client):
    whole = client.completions.create(**request())
    chunks = list(client.completions.create(**request(stream=True, stream_options={"include_usage": True})))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert finish(chunks) == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens


def test_a_prompt_has_no_chat_template_around_it(client):
    bare = client.completions.create(**request(max_tokens=1)).usage.prompt_tokens
    chat = client.chat.completions.create(
        model=CHAT, messages=[{"role": "user", "content": "Once upon a time"}], max_tokens=1
    )
    assert bare < chat.usage.prompt_tokens
