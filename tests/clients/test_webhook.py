"""A soft budget: it stops nobody, and tells whoever asks and whoever runs the place."""

import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest

from asks import chat
from conftest import running, sdk
from server import CONFIG

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
SECONDS = 60


class Receiver(BaseHTTPRequestHandler):
    """Refuses the first notice, and keeps what came."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.came.put((dict(self.headers), body))
        self.server.count += 1
        self.send_response(503 if self.server.count == 1 else 204)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def receiver():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.came, server.count = queue.Queue(), 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def told(tmp_path_factory, receiver):
    """A server that tells the receiver."""
    folder = tmp_path_factory.mktemp("forebay")
    config = folder / "told.toml"
    hook = f'[webhook]\nurl = "http://127.0.0.1:{receiver.server_port}/hook"\nsecret = "{SECRET}"\n\n'
    config.write_text(hook + CONFIG.read_text())
    yield from running(folder, config)


def test_a_soft_budget_warns_by_header_metric_and_a_signed_webhook_that_is_sent_again(told, receiver):
    told.cli("project", "create", "soft", "--warn-day", "0.000001", "--budget-day", "5")
    key = told.cli("key", "create", "--project", "soft")
    with sdk(told, key) as client:
        for _ in range(2):
            answer = client.chat.completions.with_raw_response.create(**chat("Hello", max_tokens=24))
    assert answer.headers["x-forebay-budget-warning"] == "budget_per_day"

    refused, taken = (receiver.came.get(timeout=SECONDS) for _ in range(2))
    # The same notice, signed anew.
    assert refused[1] == taken[1]
    assert refused[0]["webhook-id"] == taken[0]["webhook-id"]
    assert int(taken[0]["webhook-timestamp"]) > int(refused[0]["webhook-timestamp"])
    webhooks = openai.OpenAI(api_key="none", webhook_secret=SECRET).webhooks
    for headers, body in refused, taken:
        webhooks.verify_signature(body, headers)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            webhooks.verify_signature(body + " ", headers)

    event = json.loads(taken[1])
    [used] = [row for row in told.usage() if row["project"] == "soft"]
    assert event["type"] == "budget.warning" and event["object"] == "event"
    assert event["id"] == taken[0]["webhook-id"]
    data = event["data"]
    assert (data["scope"], data["limit"], data["model"]) == ("project", "budget_per_day", None)
    assert (data["warn_at"], data["budget"]) == ("0.000001", "5")
    assert 0.000001 <= float(data["spent"]) <= float(used["amount"])

    metrics = httpx.get(f"{told.metrics_url}/metrics", trust_env=False).text
    assert 'forebay_budget_warnings_total{limit="budget_per_day",scope="project"} 1' in metrics
    assert 'forebay_webhooks_total{outcome="failed"} 1' in metrics


def test_a_budget_is_warned_of_once_a_day(told, receiver):
    with sdk(told, told.cli("key", "create", "--project", "soft")) as client:
        client.chat.completions.create(**chat("Hello again", max_tokens=4))
    # The budgets are looked at every 2 seconds.
    with pytest.raises(queue.Empty):
        receiver.came.get(timeout=7)
    assert "0.000001" not in told.log.read_text(), "no amounts in the log"
