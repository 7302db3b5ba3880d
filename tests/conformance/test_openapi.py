"""schemathesis against the running binary: what the document says, and what OpenAI's own says of the same paths.

FOREBAY_FUZZ_S is how long it looks (a minute by default; `make test-openapi` takes 20), FOREBAY_OPENAI_SPEC a copy of OpenAI's
openapi.json, which is not in this repository: https://github.com/openai/openai-openapi
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from server import KEY

HERE = Path(__file__).resolve().parent
SECONDS = int(os.environ.get("FOREBAY_FUZZ_S", "60"))
SPEC = os.environ.get("FOREBAY_OPENAI_SPEC")

CONFIG = """
headers = {{ Authorization = "Bearer {key}" }}
request-timeout = 60
hooks = "{hooks}"

[output.truncation]
enabled = false

[[operations]]
include-path-regex = "/organization/"
headers = {{ Authorization = "Bearer {admin}" }}
"""


@pytest.fixture(scope="module")
def site(own_server):
    """A server, an administrator's key, and ids that exist."""
    admin = own_server.cli("key", "create", "--admin", "--name", "schemathesis")
    with httpx.Client(base_url=own_server.url, trust_env=False, timeout=60) as http:
        tenant = {"authorization": f"Bearer {KEY}"}
        line = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings"}
        line["body"] = {"model": "all-minilm-l6-v2", "input": "a"}
        form = {"files": {"file": ("a.jsonl", json.dumps(line))}, "data": {"purpose": "batch"}}
        file = http.post("/v1/files", headers=tenant, **form).json()
        headers = {"authorization": f"Bearer {admin}"}
        project = http.post("/v1/organization/projects", headers=headers, json={"name": "one of many"}).json()
    return own_server, admin, {"FILE": file["id"], "PROJECT": project["id"]}


def fuzz(site, folder, schema, *options):
    server, admin, ids = site
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG.format(key=KEY, admin=admin, hooks=HERE / "openapi" / "hooks.py"))
    command = [Path(sys.executable).parent / "st", "--config-file", config, "--no-color", "run", schema]
    command += ["--max-time", str(SECONDS), "--continue-on-failure", *options]
    environment = os.environ | {f"FOREBAY_TEST_{name}": value for name, value in ids.items()} | {"NO_PROXY": "*"}
    log = folder / "schemathesis.log"
    with log.open("wb") as out:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT, timeout=SECONDS * 3 + 600
        )
    text = log.read_text(errors="replace")
    assert done.returncode == 0, text[-20_000:]
    # It says how many it tried; nothing tried would be nothing found.
    assert "generated" in text, text
    print(text[-2000:])


def test_the_server_does_what_its_document_says(site, tmp_path):
    fuzz(site, tmp_path, f"{site[0].url}/openapi.json")
