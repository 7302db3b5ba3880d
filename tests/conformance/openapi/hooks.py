"""What schemathesis is told of this server: names that exist, and answers that end soon."""

import os

import schemathesis

CHAT, EMBEDDING = "smollm2-135m-instruct", "all-minilm-l6-v2"
# A token takes milliseconds, and there are thousands of requests.
TOKENS = 4
LISTS = ("n", "best_of")


def named(context, body):
    """Most requests ask a model that exists. A wrong name is one error, however often it is sent."""
    if isinstance(body.get("model"), str) and len(body["model"]) % 8 != 7:
        body["model"] = EMBEDDING if context.operation.path.endswith("/embeddings") else CHAT


def short(body):
    limits = ("max_tokens", "max_completion_tokens")
    if ("messages" in body or "prompt" in body) and not any(name in body for name in limits):
        body["max_tokens"] = TOKENS
    for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
        if type(body.get(name)) is int and body[name] > TOKENS:
            body[name] = TOKENS
    for name in LISTS:
        if type(body.get(name)) is int and 4 < body[name] <= 128:
            body[name] = 2


def understood(body):
    """Turns that make a conversation, which by chance they hardly do."""
    if isinstance(body.get("messages"), list):
        said = [turn.get("content") for turn in body["messages"] if isinstance(turn, dict)]
        text = next((text for text in said if isinstance(text, str)), "Hi")
        body["messages"] = [{"role": "user", "content": text[:100]}]
        # What would have to fit the functions that there are.
        for name in ("functions", "function_call", "tools", "tool_choice", "continue_final_message", "response_format"):
            body.pop(name, None)
        body.pop("top_logprobs", None)


def is_positive(case):
    return case.meta is not None and case.meta.generation.mode.is_positive


@schemathesis.hook
def map_case(context, case):
    body = case.body
    if isinstance(body, dict):
        named(context, body)
        short(body)
        if isinstance(body.get("input_file_id"), str):
            body["input_file_id"] = os.environ["FOREBAY_TEST_FILE"]
        if is_positive(case) and len(str(body)) % 2:
            understood(body)
            body.pop("min_tokens", None)
    return case


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    for name, value in (path_parameters or {}).items():
        known = os.environ.get(f"FOREBAY_TEST_{name.removesuffix('_id').upper()}")
        if known and isinstance(value, str) and len(value) % 2:
            path_parameters[name] = known
    return path_parameters
