"""OpenAI's own document, cut down to what this server has of it."""

import copy
import re

# Where this server differs on purpose: what stands in OpenAI's document, what would have to stand there, and why.
NULLABLE = {"type": ["string", "null"]}
DIFFERENCES = [
    *(
        (f"components/schemas/{name}/properties/{end}", NULLABLE, "an empty list has no first and no last entry")
        for name in ("ListFilesResponse", "ListBatchesResponse")
        for end in ("first_id", "last_id")
    ),
    *(
        (
            f"components/schemas/Batch/properties/{name}",
            {"type": [kind, "null"]},
            "what a batch has not come to is null, as in OpenAI's own example of the object",
        )
        for name, kind in (
            ("in_progress_at", "integer"),
            ("finalizing_at", "integer"),
            ("completed_at", "integer"),
            ("failed_at", "integer"),
            ("expired_at", "integer"),
            ("cancelling_at", "integer"),
            ("cancelled_at", "integer"),
            ("output_file_id", "string"),
            ("error_file_id", "string"),
            ("errors", "object"),
        )
    ),
    *(
        (
            f"components/schemas/ProjectRateLimit/properties/{name}",
            {"type": [kind, "null"]},
            "a limit that nobody has set is none, and that of all models together is of no model",
        )
        for name, kind in (
            ("model", "string"),
            ("max_requests_per_1_minute", "integer"),
            ("max_tokens_per_1_minute", "integer"),
            ("max_requests_per_1_day", "integer"),
            ("batch_1_day_max_input_tokens", "integer"),
        )
    ),
    (
        "components/schemas/Embedding/properties/embedding",
        {"type": ["array", "string"], "items": {"type": "number"}},
        "OpenAI's document lets clients ask for base64, and then knows no such answer",
    ),
    (
        "components/schemas/OpenAIFile/properties/purpose",
        {"type": "string"},
        "OpenAI's document takes files for `evals`, and then has no such purpose in its answer",
    ),
    (
        "paths/~1files~1{file_id}~1content/get/responses/200/content",
        {"application/octet-stream": {}},
        "bytes are no JSON string, and OpenAI's own SDKs read them as bytes",
    ),
    (
        "components/schemas/AuditLogActor/properties/type",
        {"enum": ["session", "api_key", "cli", "server"]},
        "somebody at the machine has no session and no key, and some things the server does by itself",
    ),
]

METHODS = ("get", "post", "delete", "put", "patch")


def shape(path: str) -> str:
    """A path without the names of what stands in it."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def reach(document: dict, roots: list) -> set[str]:
    """Every component that can be come to."""
    seen: set[str] = set()
    open_ends = list(roots)
    while open_ends:
        value = open_ends.pop()
        if isinstance(value, dict):
            reference = value.get("$ref")
            if isinstance(reference, str) and reference not in seen:
                seen.add(reference)
                target = document
                for part in reference.removeprefix("#/").split("/"):
                    target = target[part.replace("~1", "/").replace("~0", "~")]
                open_ends.append(target)
            open_ends += value.values()
        elif isinstance(value, list):
            open_ends += value
    return seen


def cut(openai: dict, ours: dict) -> dict:
    """OpenAI's operations that are among ours, by path and method, and the components that they need."""
    have = {(shape(path), method) for path, item in ours["paths"].items() for method in item if method in METHODS}
    kept = copy.deepcopy(openai)
    kept["paths"] = {}
    for path, item in openai["paths"].items():
        operations = {
            name: value
            for name, value in item.items()
            if name not in METHODS or (shape(f"/v1{path}"), name) in have
        }
        if any(name in METHODS for name in operations):
            kept["paths"][path] = operations
    needed = reach(openai, list(kept["paths"].values()))
    for kind, components in openai["components"].items():
        if kind != "securitySchemes":
            names = {name for name in components if f"#/components/{kind}/{name}" in needed}
            kept["components"][kind] = {name: components[name] for name in names}
    for other in ("webhooks", "x-oaiMeta", "x-webhooks"):
        kept.pop(other, None)
    return kept


def differing(openai: dict, ours: dict) -> dict:
    """As [`cut`], with the differences put in."""
    document = cut(openai, ours)
    for pointer, value, _why in DIFFERENCES:
        *parents, last = (part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/"))
        place = document
        for part in parents:
            place = place[part]
        assert last in place, f"OpenAI's document has no {pointer} any more"
        place[last] = value
    return document
