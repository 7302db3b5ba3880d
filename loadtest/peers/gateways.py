"""Another gateway, out of its wheel, as a peer of `loadtest proxy`: tensorzero, smg or vllm-router before one upstream.

It prints one line `READY host:port path model` once the gateway answers, and ends when its standard input does, the
gateway with it: a load test that was killed leaves no server behind.
"""

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

# What the upstream is asked for.
MODEL = "big"
PATIENCE_S = 60
OUTPUT = None

TENSORZERO = """
[gateway]
observability.enabled = false
[models.{model}]
routing = ["upstream"]
[models.{model}.providers.upstream]
type = "openai"
model_name = "{model}"
api_base = "http://127.0.0.1:{upstream}/v1/"
api_key_location = "none"
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def own_output():
    """Standard output for this script alone: what gateways print there goes where their errors go."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return output


def ready(address, path, model):
    print("READY", address, path, model, file=OUTPUT, flush=True)


async def tensorzero(upstream):
    """Its HTTP gateway on a port of its own choice, without a database."""
    from tensorzero.tensorzero import _start_http_gateway

    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "tensorzero.toml")
        with open(config, "w") as file:
            file.write(TENSORZERO.format(model=MODEL, upstream=upstream))
        gateway = await _start_http_gateway(
            config_file=config, clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=True
        )
    address, path = gateway.base_url.removeprefix("http://").split("/", 1)
    ready(address, f"/{path}/chat/completions", f"tensorzero::model_name::{MODEL}")
    await asyncio.Event().wait()


def router(program, upstream):
    """One of the two that are programs: no policy looks at prompts, for there is one worker."""
    port = free_port()
    command = [os.path.join(os.path.dirname(sys.executable), program[0]), *program[1:]]
    command += ["--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", "--log-level", "error"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    command += ["--worker-urls", f"http://127.0.0.1:{upstream}"]
    # A group of its own, since a program may start others.
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    end_with_input(lambda: os.killpg(child.pid, signal.SIGKILL))
    deadline = time.monotonic() + PATIENCE_S
    while child.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    ready(f"127.0.0.1:{port}", "/v1/chat/completions", MODEL)
    sys.exit(child.wait())


def end_with_input(end):
    def wait():
        sys.stdin.read()
        end()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gateway", choices=["tensorzero", "smg", "vllm-router"])
    parser.add_argument("--upstream", type=int, required=True, help="its port on 127.0.0.1")
    args = parser.parse_args()
    global OUTPUT
    OUTPUT = own_output()
    if args.gateway == "tensorzero":
        end_with_input(lambda: None)
        asyncio.run(tensorzero(args.upstream))
    else:
        programs = {"smg": ["smg", "launch"], "vllm-router": ["vllm-router"]}
        router(programs[args.gateway], args.upstream)


if __name__ == "__main__":
    main()
