"""A worker that does what it is asked to, as a large model would: it calls the tool that it is given, keeps to schemas, and
tells what a tool told it. It stands in where a model of 135 million parameters doesn't understand the task."""

import json
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def text_of(content):
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content)
    return content or ""


def instance(schema, text, root=None):
    """Something that a schema allows, made of what stands in a text."""
    root = root or schema
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    for either in ("anyOf", "oneOf"):
        if either in schema:
            return instance(schema[either][0], text, root)
    if "enum" in schema:
        named = [value for value in schema["enum"] if str(value) in text]
        return (named or schema["enum"])[0]
    kind = schema.get("type", "object")
    if kind == "object":
        return {name: instance(part, text, root) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return [instance(schema.get("items", {"type": "string"}), text, root)]
    if kind in ("integer", "number"):
        numbers = re.findall(r"-?\d+", text)
        return int(numbers[0]) if numbers else 1
    if kind == "boolean":
        return True
    quoted = re.findall(r"['\"“]([^'\"”]+)['\"”]", text)
    return quoted[0] if quoted else text.strip("?.! ").split(" in ")[-1]


def call(function, asked):
    arguments = instance(function.get("parameters", {}), asked)
    called = {"name": function["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": called}


def answer(request):
    """The message to a conversation, and why it ends."""
    *_, last = request["messages"]
    asked = next(text_of(m["content"]) for m in reversed(request["messages"]) if m["role"] == "user")
    form = request.get("response_format") or {}
    if form.get("type") == "json_schema":
        return {"content": json.dumps(instance(form["json_schema"]["schema"], asked))}, "stop"
    tools, choice = request.get("tools") or [], request.get("tool_choice", "auto")
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["function"]["name"] == choice["function"]["name"]]
    if tools and choice != "none" and last["role"] == "user":
        named = [tool for tool in tools if tool["function"]["name"] in asked]
        calls = [call(tool["function"], asked) for tool in named or tools[:1]]
        return {"content": None, "tool_calls": calls}, "stop" if isinstance(choice, dict) else "tool_calls"
    said = text_of(last["content"]) if last["role"] == "tool" else asked
    return {"content": f"Well, here is what I can say: {said}"}, "stop"


def pieces(message):
    """A message as deltas."""
    yield {"role": "assistant", "content": ""}
    for piece in re.findall(r"\S+\s*|\s+", message["content"] or ""):
        yield {"content": piece}
    for index, call in enumerate(message.get("tool_calls", [])):
        opened = {**call, "index": index, "function": {"name": call["function"]["name"], "arguments": ""}}
        yield {"tool_calls": [opened]}
        arguments = call["function"]["arguments"]
        for start in range(0, len(arguments), 5):
            yield {"tool_calls": [{"index": index, "function": {"arguments": arguments[start : start + 5]}}]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def send(self, kind, body):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send("text/plain", b"ok")

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message, reason = answer(request)
        made = {"id": "chatcmpl-x", "created": 1, "model": request["model"]}
        usage = {"prompt_tokens": 9, "completion_tokens": 8, "total_tokens": 17}
        if not request.get("stream"):
            choices = [
                {"index": index, "message": {"role": "assistant", **message}, "finish_reason": reason, "logprobs": None}
                for index in range(request.get("n") or 1)
            ]
            body = {**made, "object": "chat.completion", "choices": choices, "usage": usage}
            return self.send("application/json", json.dumps(body).encode())
        made["object"] = "chat.completion.chunk"
        deltas = [(delta, None) for delta in pieces(message)] + [({}, reason)]
        # The choices side by side.
        frames = [
            {"index": index, "delta": delta, "finish_reason": end}
            for delta, end in deltas for index in range(request.get("n") or 1)
        ]
        frames = [{**made, "choices": [frame]} for frame in frames]
        frames.append({**made, "choices": [], "usage": usage})
        lines = [f"data: {json.dumps(frame, ensure_ascii=False)}\n\n" for frame in frames]
        self.send("text/event-stream", "".join([*lines, "data: [DONE]\n\n"]).encode())


class Clever:
    def __init__(self):
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
