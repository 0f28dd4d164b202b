"""A miner in the event loop of the test, and a client that knows it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from btlightning import AsyncLightning, AsyncLightningServer
from btlightning.types import AxonInfo
from keys import MINER, VALIDATOR, Key


@asynccontextmanager
async def link(
    server: AsyncLightningServer | None = None,
) -> AsyncIterator[tuple[AsyncLightningServer, AsyncLightning, AxonInfo]]:
    """A server that runs, and a client that is connected to it."""
    server = server or new_server()
    async with server, AsyncLightning(seed=VALIDATOR.seed) as client:
        await client.connect([server.axon])
        yield server, client, server.axon


def new_server(key: Key = MINER, **options: Any) -> AsyncLightningServer:
    """A server on a free port, with a handler of every kind."""
    server = AsyncLightningServer(None, "127.0.0.1", 0, seed=key.seed, **options)

    @server.synapse("echo")
    async def echo(data: dict[str, Any]) -> dict[str, Any]:
        return data

    @server.synapse
    def echo_on_thread(data: dict[str, Any]) -> dict[str, Any]:
        return data

    @server.stream("count")
    async def count(data: dict[str, Any]) -> AsyncIterator[bytes]:
        for number in range(data["until"]):
            yield b"%d" % number

    @server.stream
    def count_on_thread(data: dict[str, Any]) -> Iterator[bytes]:
        for number in range(data["until"]):
            yield b"%d" % number

    return server
