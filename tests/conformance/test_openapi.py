"""schemathesis against the running binary: by its own document, and by OpenAI's of the same operations.

FOREBAY_FUZZ_S is how long each looks (a minute by default; `make test-openapi` takes 20). FOREBAY_OPENAI_SPEC names a copy of OpenAI's
openapi.json, which is not in this repository: https://github.com/openai/openai-openapi
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from openai_spec import differing
from server import KEY

HERE = Path(__file__).resolve().parent
SECONDS = int(os.environ.get("FOREBAY_FUZZ_S", "60"))
SPEC = os.environ.get("FOREBAY_OPENAI_SPEC")

# What a document can't say is no fault: that a part must be one of the upload's, or a batch's file one that is there. So a
# request that fits its schema may be refused, with a status that the document has.
UNCHECKED = ["positive_data_acceptance"]
# The short form is one of the checks that every change passes: the same requests each time, and what was promised of them. The
# long form takes others each time, and sees whether wrong ones are refused as well.
IS_LONG = SECONDS >= 600
if not IS_LONG:
    UNCHECKED.append("negative_data_rejection")
# OpenAI's document knows hardly any status but 200, and leaves open what is refused.
OF_OPENAI = "not_a_server_error,content_type_conformance,response_schema_conformance"

CONFIG = """
headers = {{ Authorization = "Bearer {key}" }}
request-timeout = 60
hooks = "{hooks}"

# An empty list is nothing at all in a form.
[[operations]]
include-path-regex = "/(files|parts)$"
checks.negative_data_rejection.enabled = false

[[operations]]
include-path-regex = "/organization/"
headers = {{ Authorization = "Bearer {admin}" }}
"""


@pytest.fixture(scope="module")
def site(own_server):
    """A server, an administrator's key, and ids that exist."""
    admin = own_server.cli("key", "create", "--admin", "--name", "schemathesis").splitlines()[-1]
    with httpx.Client(base_url=own_server.url, trust_env=False, timeout=60) as http:
        line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings"}
        line["body"] = {"model": "all-minilm-l6-v2", "input": "a"}
        form = {"files": {"file": ("a.jsonl", json.dumps(line))}, "data": {"purpose": "batch"}}
        file = http.post("/v1/files", headers={"authorization": f"Bearer {KEY}"}, **form).json()
        headers = {"authorization": f"Bearer {admin}"}
        project = http.post("/v1/organization/projects", headers=headers, json={"name": "one of many"}).json()
    return own_server, admin, {"FILE": file["id"], "PROJECT": project["id"]}


def fuzz(site, folder, schema, *options):
    """Nothing is found, and much was tried."""
    server, admin, ids = site
    config, report = folder / "schemathesis.toml", folder / "report.json"
    config.write_text(CONFIG.format(key=KEY, admin=admin, hooks=HERE / "openapi" / "hooks.py"))
    command = [Path(sys.executable).parent / "st", "--config-file", config, "--no-color", "run", schema]
    command += ["--max-time", str(SECONDS), "--continue-on-failure", "--report-json-path", report, *options]
    if not IS_LONG:
        command += ["--seed", "1"]
    environment = os.environ | {f"FOREBAY_TEST_{name}": value for name, value in ids.items()} | {"NO_PROXY": "*"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS * 2 + 300
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5000:]
    report = json.loads(report.read_text())
    operations, cases = report["operations"], report["test_cases"]
    assert operations["tested"] == operations["total"] > 30 and cases["generated"] > 2 * SECONDS, report
    # Answers were among them, not refusals alone.
    asked = ("/embeddings", "/files")
    if IS_LONG:
        asked += ("/chat/completions", "/completions")
    for path in asked:
        rates = next(rates for name, rates in report["valid_rates"].items() if name in (f"POST {path}", f"POST /v1{path}"))
        accepted = sum(rate["accepted"] for rate in rates.values())
        print(f"POST {path}: {accepted} accepted")
        assert accepted, report["valid_rates"]
    print(f"{cases['generated']} requests in {report['running_time']:.0f} s")


def test_the_server_does_what_its_document_says(site, tmp_path):
    fuzz(site, tmp_path, f"{site[0].url}/openapi.json", "--exclude-checks", ",".join(UNCHECKED))


if SPEC:

    def test_the_server_does_what_openais_document_says(site, tmp_path):
        ours = httpx.get(f"{site[0].url}/openapi.json", trust_env=False).json()
        document = tmp_path / "openai.json"
        document.write_text(json.dumps(differing(json.loads(Path(SPEC).read_text()), ours)))
        fuzz(site, tmp_path, document, "--url", f"{site[0].url}/v1", "--checks", OF_OPENAI)
