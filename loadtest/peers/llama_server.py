"""llama.cpp's own HTTP server, out of the xllamacpp wheel, as the peer of `loadtest engine`.

It prints one line `READY http://host:port` once the weights are loaded, and ends when its
standard input does: a load test that was killed leaves no server behind.
"""

import argparse
import os
import sys

import xllamacpp


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-file", required=True, help="a GGUF file")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--slots", type=int, default=32, help="requests that run together")
    parser.add_argument("--slot-tokens", type=int, default=2048, help="context of one slot")
    parser.add_argument("--prompt-cache", action="store_true", help="reuse what prompts share")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def parameters(args):
    params = xllamacpp.CommonParams()
    params.model.path = args.model_file
    params.hostnames = ["127.0.0.1"]
    params.port = args.port
    params.n_parallel = args.slots
    params.n_ctx = args.slots * args.slot_tokens
    params.cpuparams.n_threads = args.threads
    params.cpuparams_batch.n_threads = args.threads
    if not args.prompt_cache:
        # Most tests measure computing, not remembering: no prompt may be cheaper for an earlier one.
        params.cache_prompt = False
        params.cache_ram_mib = 0
        params.cache_idle_slots = False
        params.slot_prompt_similarity = 0.0
        params.n_ctx_checkpoints = 0
    # Only errors: a line per request on stderr is time that isn't the engine's.
    params.verbosity = 1
    return params


def main():
    server = xllamacpp.Server(parameters(arguments()))
    print("READY", server.listening_address, flush=True)
    sys.stdin.read()
    # The server's destructor waits for its own threads; nothing here is worth that wait.
    os._exit(0)


if __name__ == "__main__":
    main()
