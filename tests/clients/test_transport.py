"""How clients come in: by Azure's paths, by TLS, and by other names of a model."""

import shutil
import socket
import ssl
import subprocess
import time

import httpx
import openai
import pytest

from asks import CHAT, EMBEDDINGS, chat, joined
from conftest import running, sdk
from server import CONFIG, KEY

RELOAD_SECONDS = 30


def test_azures_sdk_finds_its_deployments(server):
    http = openai.DefaultHttpxClient(trust_env=False)
    azure = openai.AzureOpenAI(
        azure_endpoint=server.url, api_key=KEY, api_version="2024-10-21", max_retries=0, http_client=http,
    )
    with azure:
        assert azure.chat.completions.create(**chat("Hello")).choices[0].message.content
        assert joined(list(azure.chat.completions.create(**chat("Hello", stream=True))))
        assert len(azure.embeddings.create(model=EMBEDDINGS, input="a dam").data[0].embedding) == 384
        with pytest.raises(openai.NotFoundError) as caught:
            azure.chat.completions.create(**chat("Hello", model="none"))
        assert caught.value.code == "model_not_found"


def test_the_path_names_the_model_whatever_the_body_says(server):
    headers = {"api-key": KEY}
    with httpx.Client(base_url=server.url, headers=headers, trust_env=False, timeout=60) as http:
        body = chat("Hello")
        del body["model"]
        path = f"/openai/deployments/{CHAT}/chat/completions?api-version=2024-10-21"
        for more in ({}, {"model": "something else"}):
            answer = http.post(path, json=body | more)
            assert answer.status_code == 200 and answer.json()["model"] == CHAT, answer.text
        assert http.post("/openai/v1/chat/completions", json=chat("Hello")).status_code == 200
        assert http.get("/openai/deployments/x/nothing").status_code == 404
        # A key that is sent again for another deployment is another request.
        again = {"idempotency-key": f"azure-{time.time()}"}
        assert http.post(path, json=body, headers=again).status_code == 200
        other = http.post(path.replace(CHAT, "none"), json=body, headers=again)
        assert other.status_code == 422


def certificate(folder, name):
    """A new one that stands on itself, for the loopback address; gives its files."""
    openssl = shutil.which("openssl")
    assert openssl, "this test needs openssl: please install it"
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=forebay", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", cert],
        check=True, capture_output=True,
    )
    return cert, key


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    cert, key = certificate(folder, "served")
    text = CONFIG.read_text()
    config = folder / "tls.toml"
    listen = 'listen = "127.0.0.1:8080"'
    assert listen in text
    config.write_text(text.replace(listen, f'{listen}\ntls = {{ cert = "{cert}", key = "{key}" }}'))
    yield from running(folder, config, ca=cert)


def test_https_with_the_sdk(secured):
    http = openai.DefaultHttpxClient(trust_env=False, verify=secured.verify)
    with openai.OpenAI(base_url=f"{secured.url}/v1", api_key=KEY, max_retries=0, http_client=http) as ai:
        assert ai.chat.completions.create(**chat("Hello")).choices
        assert joined(list(ai.chat.completions.create(**chat("Hello", stream=True))))
    with pytest.raises(httpx.TransportError):
        httpx.get(secured.url.replace("https", "http") + "/health", trust_env=False)


def hello(server, *protocols):
    """What a client learns in its greeting: the protocol, and the certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    port = int(server.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as plain, context.wrap_socket(plain) as secure:
        return secure.selected_alpn_protocol(), secure.getpeercert(binary_form=True)


def test_http_2_is_spoken_where_the_client_knows_it(secured):
    assert hello(secured, "h2", "http/1.1")[0] == "h2"
    assert hello(secured, "http/1.1")[0] == "http/1.1"
    curl = shutil.which("curl")
    assert curl, "this test needs curl: please install it"
    asked = [curl, "-sk", "--noproxy", "*", "--http2", "-o", "/dev/null", "-w", "%{http_version}", f"{secured.url}/health"]
    assert subprocess.run(asked, check=True, capture_output=True, text=True).stdout == "2"


def test_a_certificate_is_read_again_when_it_changes(secured, tmp_path):
    folder = secured.log.parent
    before = hello(secured, "http/1.1")[1]
    # Halfway through a change the old one is served on.
    (folder / "served.key").write_text("nonsense")
    time.sleep(6)
    assert hello(secured, "http/1.1")[1] == before
    cert, key = certificate(tmp_path, "next")
    shutil.copy(cert, folder / "served.pem")
    shutil.copy(key, folder / "served.key")
    start = time.monotonic()
    while hello(secured, "http/1.1")[1] == before:
        assert time.monotonic() - start < RELOAD_SECONDS
        time.sleep(0.2)


@pytest.fixture(scope="module")
def renamed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("renamed")
    config = folder / "renamed.toml"
    config.write_text(CONFIG.read_text().replace(
        f'name = "{CHAT}"\nprice', f'name = "{CHAT}"\naliases = ["gpt-4o-mini", "gpt-4o"]\nprice'
    ))
    yield from running(folder, config)


def test_a_model_answers_to_its_other_names_and_is_billed_by_its_own(renamed):
    with sdk(renamed) as ai:
        assert {"gpt-4o-mini", "gpt-4o", CHAT} <= {model.id for model in ai.models.list()}
        answer = ai.chat.completions.create(**chat("Hello", model="gpt-4o-mini"))
        assert answer.model == "gpt-4o-mini"
    [row] = [row for row in renamed.usage() if row["requests"]]
    assert row["model"] == CHAT
    allowed = renamed.cli("key", "create", "--project", "local", "--model", CHAT)
    with sdk(renamed, allowed) as ai:
        assert ai.chat.completions.create(**chat("Hello", model="gpt-4o", max_tokens=2)).choices


def test_the_batch_class_pays_its_part_by_service_tier_too(own_server):
    with sdk(own_server) as ai:
        usage = ai.chat.completions.create(**chat("Hello", service_tier="flex")).usage
    [row] = [row for row in own_server.usage() if row["model"] == CHAT]
    pico = usage.prompt_tokens * 10_000 + usage.completion_tokens * 30_000
    assert round(float(row["amount"]) * 1e12) == pico
