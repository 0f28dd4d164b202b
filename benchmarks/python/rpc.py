"""Echo over this package's QUIC transport, client and server in one process.

Runs under the published package as well as under ours, and does not know which. Only with
`--asyncio` does it need ours.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

from btlightning import Lightning, LightningServer

import closed_loop

# Hotkeys of these seeds: the published package does not tell them.
MINER_SEED = bytes([1]) * 32
MINER = "5CcyqxXnJucaCnQQvvUg5EPzj1uoNAxACZvzArHw5aVDvgNH"
VALIDATOR_SEED = bytes([2]) * 32
VALIDATOR = "5CfCr47V5Dte6bwxNBE8K9oNnQd9fiay6aDEEkgYtFv7w4Fq"


def serve() -> dict[str, Any]:
    """Starts a server that echoes, on a thread, and returns its address."""
    # The published package does not say which port it got.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = LightningServer(MINER, "127.0.0.1", port)
    server.set_miner_keypair(MINER_SEED)
    server.register_synapse_handler("echo", lambda data: data)
    server.start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return {"hotkey": MINER, "ip": "127.0.0.1", "port": port, "protocol": 4}


def check(data: Any, payload: bytes) -> None:
    """Fails when an answer is not the request."""
    # Comparing a MiB would take a good part of the time that is measured.
    if len(data["payload"]) != len(payload):
        raise RuntimeError("the answer is not the request")


def check_all(data: Any, payload: bytes) -> None:
    """The same for every byte."""
    if bytes(data["payload"]) != payload:
        raise RuntimeError("the answer is not the request")


def run_threads(size: int, threads: int, seconds: float) -> None:
    """Measures callers on threads."""
    axon = serve()
    client = Lightning(VALIDATOR)
    client.set_validator_keypair(VALIDATOR_SEED)
    client.initialize_connections([axon])
    payload = bytes(index % 251 for index in range(size))
    request = {"synapse_type": "echo", "data": {"payload": payload}}

    def call() -> None:
        answer = client.query_axon(axon, request)
        check(answer["data"], payload)

    check_all(client.query_axon(axon, request)["data"], payload)
    closed_loop.on_threads(call, threads, seconds)
    client.close()


async def run_tasks(size: int, in_flight: int, seconds: float) -> None:
    """Measures callers in tasks of one event loop."""
    from btlightning import AsyncLightning

    axon = serve()
    payload = bytes(index % 251 for index in range(size))
    async with AsyncLightning(seed=VALIDATOR_SEED) as client:
        await client.connect([axon])

        async def call() -> None:
            answer = await client.query(axon, "echo", {"payload": payload})
            check(answer.data, payload)

        check_all((await client.query(axon, "echo", {"payload": payload})).data, payload)
        await closed_loop.on_tasks(call, in_flight, seconds)


def main() -> None:
    """Reads the options and measures."""
    parser = closed_loop.arguments("Measures echo requests over Lightning.")
    parser.add_argument("--threads", type=int, default=32, help="callers, each on a thread")
    parser.add_argument("--asyncio", action="store_true", help="calls from tasks, not from threads")
    parser.add_argument("--in-flight", type=int, default=256, help="callers, each in a task")
    options = parser.parse_args()
    if options.asyncio:
        asyncio.run(run_tasks(options.size, options.in_flight, options.seconds))
    else:
        run_threads(options.size, options.threads, options.seconds)


if __name__ == "__main__":
    main()
