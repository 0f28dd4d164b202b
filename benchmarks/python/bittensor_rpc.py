"""Echo over an axon and a dendrite of bittensor 10.5, in one process."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import closed_loop


async def run(bt: Any, folder: str, size: int, in_flight: int, seconds: float) -> None:
    """Measures callers in tasks of one event loop."""

    class Echo(bt.Synapse):  # type: ignore[misc]
        payload: str

    # An annotation is looked at when the axon attaches the handler, and has to be the class itself.
    def forward(synapse):  # type: ignore[no-untyped-def]
        return synapse

    forward.__annotations__ = {"synapse": Echo, "return": Echo}

    miner, validator = (wallet(bt, folder, name) for name in ("miner", "validator"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    axon = bt.Axon(wallet=miner, ip="127.0.0.1", port=port, external_ip="127.0.0.1")
    axon.attach(forward_fn=forward)
    axon.start()
    await listening(port)
    info = axon.info()
    payload = "x" * size

    # One for each caller: an axon refuses requests of one dendrite that overtake each other.
    dendrites = [bt.Dendrite(wallet=validator) for _ in range(in_flight)]

    async def call() -> None:
        dendrite = dendrites.pop()
        answer = await dendrite.call(info, Echo(payload=payload), timeout=30, deserialize=False)
        dendrites.append(dendrite)
        if not answer.is_success or answer.payload != payload:
            raise RuntimeError(f"not answered: {answer.dendrite.status_message}")

    await closed_loop.on_tasks(call, in_flight, seconds)
    for dendrite in dendrites:
        await dendrite.aclose_session()
    axon.stop()


async def listening(port: int) -> None:
    """Returns when the port accepts connections: starting an axon does not wait for it."""
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return


def wallet(bt: Any, folder: str, name: str) -> Any:
    """A wallet with known keys."""
    made = bt.Wallet(name=name, hotkey="default", path=folder)
    keypair = bt.Keypair.create_from_uri(f"//{name}")
    made.set_hotkey(keypair, encrypt=False, overwrite=True)
    made.set_coldkeypub(keypair, overwrite=True)
    return made


def main() -> None:
    """Reads the options and measures."""
    parser = closed_loop.arguments("Measures echo requests between an axon and dendrites.")
    parser.add_argument("--in-flight", type=int, default=32, help="callers, each in a task")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # It writes into the home directory and reads the arguments when it is imported.
        os.environ["HOME"] = folder
        sys.argv = sys.argv[:1]
        import bittensor as bt
        from bittensor.utils import networking

        networking.get_external_ip = lambda: "127.0.0.1"  # it would ask the internet
        wallets = str(Path(folder, "wallets"))
        asyncio.run(run(bt, wallets, options.size, options.in_flight, options.seconds))


if __name__ == "__main__":
    main()
