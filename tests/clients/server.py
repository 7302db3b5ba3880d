"""One running Forebay, with a store of its own, and its command line beside it."""

import json
import os
import random
import socket
import ssl
import subprocess
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config" / "quickstart.toml"
KEY = "fb-local"
READY_SECONDS = 120
# Longer than a drain may take.
STOP_SECONDS = 60


def binary() -> str:
    path = os.environ.get("FOREBAY_BIN", "")
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"FOREBAY_BIN={path!r} is no program: run `make test-clients`, which builds it")
    return path


def free_ports(count: int) -> list[int]:
    # None that the system gives to outgoing connections, as `loadtest::ports` has it: one of those could take it before
    # the server does.
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = []
    while len(ports) < count:
        port = random.randrange(10_000, end)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        if port not in ports:
            ports.append(port)
    return ports


class Server:
    def __init__(self, folder: Path, config: Path = CONFIG, until: str = "/ready", ca: Path | None = None):
        self.until = until
        # Whoever speaks TLS is known by this certificate.
        self.verify = ssl.create_default_context(cafile=ca) if ca else True
        self.binary = binary()
        self.config = config
        port, metrics_port = free_ports(2)
        self.url = f"{'https' if ca else 'http'}://127.0.0.1:{port}"
        self.metrics_url = f"http://127.0.0.1:{metrics_port}"
        # None of the caller's own FOREBAY_*: they would be read as settings.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("FOREBAY_")} | {
            "FOREBAY_SERVER__LISTEN": f"127.0.0.1:{port}",
            "FOREBAY_METRICS__LISTEN": f"127.0.0.1:{metrics_port}",
            "FOREBAY_STORE__URL": f"sqlite://{folder}/t.db",
        }
        self.log = folder / "forebay.log"
        self._start()

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, "serve", "--config", self.config],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"forebay serve ended with {self.process.returncode}:\n{self.log_tail()}")
            try:
                if httpx.get(f"{self.url}{self.until}", trust_env=False, timeout=5, verify=self.verify).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise RuntimeError(f"{self.until} gave no 200 within {READY_SECONDS} s:\n{self.log_tail()}")

    def kill_and_restart(self) -> None:
        """kill -9, and a new start on what is left."""
        self.process.kill()
        self.process.wait()
        self._start()

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def stop(self) -> int:
        """SIGTERM, and the exit code of the drain."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"SIGTERM did not end the server in {STOP_SECONDS} s:\n{self.log_tail()}") from None

    def cli(self, *arguments: str) -> str:
        """What `forebay ARGUMENTS` prints on stdout, on this server's store."""
        done = subprocess.run(
            [self.binary, *arguments, "--config", self.config],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"forebay {' '.join(arguments)}: {done.stderr}"
        return done.stdout.strip()

    def usage(self) -> list[dict]:
        return json.loads(self.cli("usage", "--format", "json"))
