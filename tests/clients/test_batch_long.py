"""A batch of 1,000 lines with a kill in the middle, and what an interactive client notices of it. Not part of `make test`."""

import json
import statistics
import time

from asks import CHAT, chat
from conftest import sdk

LINES, BAD = 1000, 50
SAMPLES = 40
BATCH_PRICE = {"prompt_tokens": 10_000, "completion_tokens": 30_000}


def line(number):
    bad = number % (LINES // BAD) == 7
    body = chat(f"Tell me about the number {number} and what it is good for.", max_tokens=32)
    if bad:
        body["temperature"] = 9
    return json.dumps({"custom_id": f"l{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


def first_token(client, number):
    question = f"Question {number}: what is a dam good for? Answer in one sentence."
    start, first = time.perf_counter(), None
    for chunk in client.chat.completions.create(**chat(question, max_tokens=16, stream=True)):
        if first is None and chunk.choices and chunk.choices[0].delta.content:
            first = time.perf_counter() - start
    time.sleep(0.05)
    return first


def p95(client):
    times = sorted(first_token(client, number) for number in range(SAMPLES))
    return statistics.median(times), times[int(len(times) * 0.95)]


def rows(ai, file):
    rows = [json.loads(text) for text in ai.files.content(file).text.splitlines()]
    names = [row["custom_id"] for row in rows]
    assert len(names) == len(set(names)), "a line stands twice"
    return rows


def test_each_line_once_at_the_batch_price_and_nobody_notices(own_server):
    key = own_server.cli("key", "create", "--project", "local", "--class", "interactive")
    own_server.cli("project", "create", "night")
    batch_key = own_server.cli("key", "create", "--project", "night")
    with sdk(own_server, key) as person, sdk(own_server, batch_key) as ai:
        p95(person)
        alone = p95(person)
        lines = "\n".join(map(line, range(LINES))).encode()
        file = ai.files.create(file=("in.jsonl", lines), purpose="batch")
        batch = ai.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        while ai.batches.retrieve(batch.id).request_counts.completed < 100:
            time.sleep(0.2)
        beside = p95(person)
        print(f"first token, p50 and p95: alone {alone}, beside {beside}, ratio of p95 {beside[1] / alone[1]:.2f}")
        while ai.batches.retrieve(batch.id).request_counts.completed < 400:
            time.sleep(0.2)
        own_server.kill_and_restart()
        start = time.monotonic()
        while (batch := ai.batches.retrieve(batch.id)).status != "completed":
            assert batch.status in ("in_progress", "finalizing") and time.monotonic() - start < 1800, batch
            time.sleep(0.5)
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (LINES, LINES - BAD, BAD)
        answered, failed = rows(ai, batch.output_file_id), rows(ai, batch.error_file_id)
    assert len(answered) == LINES - BAD and len(failed) == BAD
    [bill] = [row for row in own_server.usage() if row["project"] == "night" and row["model"] == CHAT]
    assert bill["requests"] == LINES - BAD
    amount = sum(bill[kind] * price for kind, price in BATCH_PRICE.items())
    assert round(float(bill["amount"]) * 1e12) == amount
    usage = [row["response"]["body"]["usage"] for row in answered]
    assert bill["prompt_tokens"] == sum(one["prompt_tokens"] for one in usage)
    # An answer that was charged and lost in the kill is made again, for nothing.
    assert abs(bill["completion_tokens"] - sum(one["completion_tokens"] for one in usage)) <= 64
