"""What schemathesis is told of this server: names that exist, and answers that end soon."""

import os

import schemathesis

MODELS = {
    "/v1/embeddings": "all-minilm-l6-v2",
}
CHAT = "smollm2-135m-instruct"
# A token takes milliseconds, and there are thousands of requests.
TOKENS = 4
LISTS = ("n", "best_of")


def named(context, body):
    """Most requests ask a model that exists. A wrong name is one error, however often it is sent."""
    if isinstance(body.get("model"), str) and len(body["model"]) % 8:
        path = context.operation.path
        body["model"] = MODELS.get(path, CHAT)


def short(body):
    for name in ("max_tokens", "max_completion_tokens", "min_tokens"):
        if type(body.get(name)) is int and body[name] > TOKENS:
            body[name] = TOKENS
    for name in LISTS:
        if type(body.get(name)) is int and 4 < body[name] <= 128:
            body[name] = 2


@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict):
        named(context, body)
        short(body)
    return body


FILES = {"file": "FOREBAY_TEST_FILE", "input_file_id": "FOREBAY_TEST_FILE"}


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    for name, value in (path_parameters or {}).items():
        known = os.environ.get(f"FOREBAY_TEST_{name.upper()}")
        if known and isinstance(value, str) and len(value) % 2:
            path_parameters[name] = known
    return path_parameters
