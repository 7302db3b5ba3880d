"""Requests that several tests make."""

CHAT = "smollm2-135m-instruct"
EMBEDDINGS = "all-minilm-l6-v2"


def user(content):
    return [{"role": "user", "content": content}]


def chat(content, **settings):
    return {"model": CHAT, "messages": user(content), "temperature": 0, "max_tokens": 32} | settings


def joined(chunks):
    """The text of a chat stream's only choice."""
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def of_choice(chunks, index):
    """What a stream says of one of its choices."""
    return [choice for chunk in chunks for choice in chunk.choices if choice.index == index]


def finish(chunks):
    """The finish reason of a stream's only choice, which comes once."""
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    given = [reason for reason in reasons if reason is not None]
    assert len(given) == 1 and reasons[-1] == given[0], reasons
    return given[0]
