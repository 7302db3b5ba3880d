import httpx
import openai
import pytest

from server import CONFIG, KEY, Server

# The SDK reads these: they must not lead a test to another server.
AMBIENT = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID")


@pytest.fixture(scope="session", autouse=True)
def no_ambient_settings():
    with pytest.MonkeyPatch.context() as patch:
        for name in AMBIENT:
            patch.delenv(name, raising=False)
        yield


def running(folder, config=CONFIG, until="/ready", ca=None):
    try:
        server = Server(folder, config, until, ca)
    except RuntimeError as error:
        # One clear message, not the traceback of a fixture; and a failure, never a skip.
        pytest.fail(str(error), pytrace=False)
    yield server
    code = server.stop()
    assert code == 0, f"a drained server ends with 0, not {code}:\n{server.log_tail()}"


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    yield from running(tmp_path_factory.mktemp("forebay"))


@pytest.fixture(scope="session")
def exact_server(tmp_path_factory):
    """A server that computes equal requests in equal batches: what is cached or drafted would make batches of other
    sizes, which sum in another order, so that a token as good as tied may fall the other way."""
    folder = tmp_path_factory.mktemp("forebay")
    config = folder / "exact.toml"
    slots = "slots = 32\n"
    text = CONFIG.read_text()
    assert slots in text
    config.write_text(text.replace(slots, slots + "lookup = false\nprefix_cache_mib = 0\n"))
    yield from running(folder, config)


@pytest.fixture(scope="module")
def own_server(tmp_path_factory):
    """A server whose ledger holds nothing but what the module's own tests asked for."""
    yield from running(tmp_path_factory.mktemp("forebay"))


def sdk(server, key=KEY):
    # Without retries: they would hide an error that comes once. Without trust_env: the environment's
    # proxy is not for loopback.
    http = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=120, http_client=http)


@pytest.fixture(scope="session")
def client(server):
    with sdk(server) as client:
        yield client


@pytest.fixture(scope="session")
def exact_client(exact_server):
    """For tests that compare two answers word for word."""
    with sdk(exact_server) as client:
        yield client


@pytest.fixture(scope="session")
def raw(server):
    """Plain HTTP, for what the SDK hides."""
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=120) as client:
        yield client
