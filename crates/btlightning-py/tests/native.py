"""Servers and clients of the compiled half, as the tests of its server need them."""

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from btlightning._native import LoopBridge, RustLightning, RustLightningServer

MINER_SEED = bytes([1] * 32)
MINER = "5CcyqxXnJucaCnQQvvUg5EPzj1uoNAxACZvzArHw5aVDvgNH"
VALIDATOR_SEED = bytes([2] * 32)
VALIDATOR = "5CfCr47V5Dte6bwxNBE8K9oNnQd9fiay6aDEEkgYtFv7w4Fq"

Axon = dict[str, Any]


def make_server(**settings: Any) -> RustLightningServer:
    server = RustLightningServer(MINER, "127.0.0.1", 0, **settings)
    server.set_miner_keypair(MINER_SEED)
    return server


def axon_of(server: RustLightningServer) -> Axon:
    host, port = server.local_addr()
    return {"hotkey": server.miner_hotkey, "ip": host, "port": port}


@contextlib.contextmanager
def serving(server: RustLightningServer) -> Iterator[Axon]:
    """Runs the server as existing scripts do: in a thread, stopped from another."""
    server.start()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield axon_of(server)
    finally:
        server.stop()
        thread.join()


@contextlib.contextmanager
def connected(*axons: Axon) -> Iterator[RustLightning]:
    client = RustLightning(VALIDATOR)
    client.set_validator_keypair(VALIDATOR_SEED)
    client.initialize_connections(list(axons))
    try:
        yield client
    finally:
        client.close_all_connections()


@contextlib.asynccontextmanager
async def serving_on(server: RustLightningServer, bridge: LoopBridge) -> AsyncIterator[Axon]:
    await server.start_async(bridge).future
    served = server.serve_async(bridge)
    try:
        yield axon_of(server)
    finally:
        await server.shutdown_async(bridge, 0.0).future
        await served.future


@contextlib.asynccontextmanager
async def connected_on(bridge: LoopBridge, *axons: Axon) -> AsyncIterator[RustLightning]:
    client = RustLightning(VALIDATOR)
    client.set_validator_keypair(VALIDATOR_SEED)
    await client.connect_async(bridge, list(axons)).future
    try:
        yield client
    finally:
        await client.close_async(bridge).future


def wait_for(condition: Callable[[], bool]) -> None:
    """Waits for what another thread is about to do; pytest's timeout is the limit."""
    while not condition():
        time.sleep(0.001)
