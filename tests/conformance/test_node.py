"""Clients for Node, each a file of node's own tests."""

import os
import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(path.name for path in HERE.glob("*.test.mjs"))


@pytest.mark.parametrize("file", FILES)
def test_a_client_for_node(server, clever, file):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")}
    environment |= {"FOREBAY_URL": server.url, "CLEVER_URL": clever.url, "NO_PROXY": "*"}
    command = ["node", "--test", "--test-reporter=tap", file]
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, timeout=300)
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert passed and int(passed[1]) >= 5, done.stdout
