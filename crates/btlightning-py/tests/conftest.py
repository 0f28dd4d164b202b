"""Fixtures: miners on loopback ports, and clients that know them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

import btlightning
from keys import MINER, VALIDATOR, Key

Axon = dict[str, Any]
Register = Callable[[btlightning.LightningServer], None]


class Miner:
    """A running server, and the thread that serves."""

    def __init__(self, register: Register, key: Key = MINER, **options: Any) -> None:
        self.server = btlightning.LightningServer(key.hotkey, "127.0.0.1", 0, **options)
        self.server.set_miner_keypair(key.seed)
        register(self.server)
        # The port is open when this returns: nobody has to wait for the thread.
        self.server.start()
        ip, port = self.server.local_addr()
        self.axon: Axon = {"hotkey": key.hotkey, "ip": ip, "port": port}
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=self._serve, name="miner")
        self._thread.start()

    def stop(self) -> None:
        """Stops the server; fails when serving did."""
        self.server.stop()
        self._thread.join(timeout=30)
        assert not self._thread.is_alive(), "serve_forever did not return after stop"
        if self._failures:
            raise self._failures[0]

    def _serve(self) -> None:
        try:
            self.server.serve_forever()
        except BaseException as failure:
            self._failures.append(failure)


def echo(data: dict[str, Any]) -> dict[str, Any]:
    """Answers with the request."""
    return data


def count(data: dict[str, Any]) -> Iterator[bytes]:
    """Yields as many chunks as it is asked for."""
    for number in range(data["count"]):
        yield b"chunk %d" % number


def fail(data: dict[str, Any]) -> dict[str, Any]:
    """Fails, with a text that must not leave the miner."""
    raise ValueError("a secret of the handler")


def fail_half_way(data: dict[str, Any]) -> Iterator[bytes]:
    """Yields a chunk, then fails."""
    yield b"first"
    raise ValueError("a secret of the handler")


def register_usual(server: btlightning.LightningServer) -> None:
    """The handlers that most tests use."""
    server.register_synapse_handler("echo", echo)
    server.register_synapse_handler("fail", fail)
    server.register_streaming_handler("count", count)
    server.register_streaming_handler("fail_half_way", fail_half_way)


@pytest.fixture
def start_miner() -> Iterator[Callable[..., Miner]]:
    """Starts miners, which are stopped after the test."""
    miners: list[Miner] = []

    def start(register: Register = register_usual, key: Key = MINER, **options: Any) -> Miner:
        miners.append(Miner(register, key, **options))
        return miners[-1]

    yield start
    for miner in miners:
        miner.stop()


@pytest.fixture
def miner(start_miner: Callable[..., Miner]) -> Miner:
    """A miner with the usual handlers."""
    return start_miner()


@pytest.fixture
def make_client() -> Iterator[Callable[..., btlightning.Lightning]]:
    """Makes clients that can sign, which are closed after the test."""
    clients: list[btlightning.Lightning] = []

    def make(key: Key = VALIDATOR, **options: Any) -> btlightning.Lightning:
        client = btlightning.Lightning(key.hotkey, **options)
        client.set_validator_keypair(key.seed)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(
    make_client: Callable[..., btlightning.Lightning], miner: Miner
) -> btlightning.Lightning:
    """A client that is connected to the miner."""
    client = make_client()
    client.initialize_connections([miner.axon])
    return client


@pytest.fixture
def axon(miner: Miner) -> Axon:
    """Where the miner is."""
    return miner.axon


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Runs every asynchronous test in each of the loops that users have."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
