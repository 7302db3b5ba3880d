"""Programs that know OpenAI's API alone, against the running binary."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "clients"))

from clever import Clever  # noqa: E402
from server import Server  # noqa: E402


def running(folder, config=None, until="/ready"):
    try:
        server = Server(folder, config, until) if config else Server(folder)
    except RuntimeError as error:
        pytest.fail(str(error), pytrace=False)
    yield server
    assert server.stop() == 0, server.log_tail()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    yield from running(tmp_path_factory.mktemp("forebay"))


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    """A server whose store holds nothing but what the module's own tests leave there."""
    yield from running(tmp_path_factory.mktemp("forebay"))


CLEVER = """
[tenancy]
bootstrap_key = "fb-local"

[[worker]]
name = "clever"
engine = "remote"
url = "{url}"
models = ["clever"]
dialect = "openai"
"""


@pytest.fixture(scope="session")
def clever(tmp_path_factory):
    """A gateway before a worker that understands what it is asked."""
    worker = Clever()
    folder = tmp_path_factory.mktemp("clever")
    config = folder / "clever.toml"
    config.write_text(CLEVER.format(url=worker.url))
    yield from running(folder, config)
    worker.stop()
