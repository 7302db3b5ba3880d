"""tensorzero's HTTP gateway, out of its wheel, as a peer of `loadtest proxy`.

It prints one line `READY http://host:port/path` once the gateway listens, on a port of the gateway's own choice, and
ends when its standard input does: a load test that was killed leaves no server behind.
"""

import asyncio
import os
import sys
import threading

from tensorzero.tensorzero import _start_http_gateway


def own_output():
    """Standard output for this script alone: what the gateway prints there goes where its errors go."""
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return output


def end_with_input():
    sys.stdin.read()
    os._exit(0)


async def main(config):
    output = own_output()
    threading.Thread(target=end_with_input, daemon=True).start()
    gateway = await _start_http_gateway(
        config_file=config, clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=True
    )
    print("READY", gateway.base_url, file=output, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
