"""Lightning and LightningServer: what they have besides the published surface."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from btlightning import (
    Answer,
    HandlerError,
    HandshakeError,
    Lightning,
    LightningConfigError,
    LightningConnectionError,
    LightningServer,
    QueryTimeoutError,
    RequestContext,
    WalletFolder,
    hotkey_from_seed,
)
from btlightning.types import AxonInfo
from keys import MINER, STRANGER, VALIDATOR, Key


class Keypair:
    """As bittensor_wallet and bittensor_core have it."""

    crypto_type = 1

    def __init__(self, key: Key = VALIDATOR) -> None:
        self.ss58_address = key.hotkey
        self._key = key

    def sign(self, data: bytes) -> bytes:
        assert isinstance(data, bytes)
        return self._key.sign(data)


class Wallet:
    """As bittensor 10 and 11 have it: `hotkey_str` is a name, not an address."""

    name = "default"
    hotkey_str = "default"

    def __init__(self, key: Key = VALIDATOR) -> None:
        self.hotkey = Keypair(key)


def new_server(**options: Any) -> LightningServer:
    """A server on a free port."""
    options = {"seed": MINER.seed, **options}
    server = LightningServer(None, "127.0.0.1", 0, **options)

    @server.synapse("echo")
    def echo(data: dict[str, Any]) -> dict[str, Any]:
        return data

    @server.synapse
    def whoami(data: dict[str, Any], context: RequestContext) -> dict[str, Any]:
        return {"hotkey": context.hotkey, "type": context.synapse_type}

    @server.stream
    def count(data: dict[str, Any]) -> Iterator[bytes]:
        for number in range(data["until"]):
            yield b"%d" % number

    return server


@pytest.fixture
def running() -> Iterator[AxonInfo]:
    """The axon of a server that runs."""
    with new_server() as server:
        yield server.axon


def test_query(running: AxonInfo) -> None:
    with Lightning(seed=VALIDATOR.seed) as client:
        client.connect([running])
        answer = client.query(running, "echo", {"n": 1}, timeout=5.0, priority=9)
        assert answer == Answer({"n": 1}, answer.latency_ms)
        assert client.query(running, "whoami").data == {
            "hotkey": VALIDATOR.hotkey,
            "type": "whoami",
        }
        assert list(client.stream(running, "count", {"until": 3})) == [b"0", b"1", b"2"]
        with pytest.raises(HandlerError, match="unrecognized synapse type") as unknown:
            client.query(running, "nothing")
        assert unknown.value.retry_safe
        assert len(client.stats()["connections"]) == 1


def test_query_from_many_threads(running: AxonInfo) -> None:
    with Lightning(seed=VALIDATOR.seed) as client:
        client.connect([running])
        answers: dict[int, Any] = {}

        def ask(thread: int) -> None:
            for n in range(50):
                answers[thread * 50 + n] = client.query(running, "echo", {"n": n}).data["n"]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == {number: number % 50 for number in range(400)}


def test_query_in_vain() -> None:
    released = threading.Event()
    server = new_server()

    @server.synapse("wait")
    def wait(data: dict[str, Any], context: RequestContext) -> dict[str, Any]:
        released.wait(30)
        return {}

    with server, Lightning(seed=VALIDATOR.seed, connect_timeout_secs=1) as client:
        axon = server.axon
        client.connect([axon])
        with pytest.raises(QueryTimeoutError):
            client.query(axon, "wait", timeout=0.1)
        released.set()
        with pytest.raises(HandshakeError) as impostor:
            client.query({**axon, "hotkey": STRANGER.hotkey}, "echo")
        assert impostor.value.retry_safe


def test_query_many() -> None:
    first, second = new_server(), new_server(seed=STRANGER.seed)
    with first, second, Lightning(wallet=Wallet()) as client:
        axons = [first.axon, second.axon]
        client.connect(axons)
        got = {axon["port"]: answer for axon, answer in client.query_many(axons, "echo", {"n": 1})}
        assert set(got) == {axon["port"] for axon in axons}
        for answer in got.values():
            assert isinstance(answer, Answer)
            assert answer.data == {"n": 1}
        assert len(list(client.query_many(axons, "echo", wanted=1))) == 1
        for _, answer in client.query_many(axons, "nothing"):
            assert isinstance(answer, HandlerError)
        assert list(client.query_many([], "echo")) == []


def test_axons_are_a_list(running: AxonInfo) -> None:
    with Lightning(seed=VALIDATOR.seed) as client:
        with pytest.raises(TypeError, match="a list of axons"):
            client.connect(running)
        for text in ("", "hotkey", "@1.2.3.4:1", "hk@1.2.3.4", "hk@1.2.3.4:x", "hk@::1:80"):
            with pytest.raises(LightningConfigError, match="HOTKEY@IP:PORT"):
                client.query(text, "echo")


def test_ipv6() -> None:
    server = LightningServer(None, "::1", 0, seed=MINER.seed)
    server.register_synapse_handler("echo", lambda data: data)
    with server, Lightning(seed=VALIDATOR.seed) as client:
        client.connect([server.axon])
        text = f"{MINER.hotkey}@[::1]:{server.axon['port']}"
        assert client.query(text, "echo", {"n": 1}).data == {"n": 1}


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_the_axon_of_a_server_can_be_reached(host: str) -> None:
    server = LightningServer(None, host, 0, seed=MINER.seed)
    server.register_synapse_handler("echo", lambda data: data)
    with server, Lightning(seed=VALIDATOR.seed) as client:
        client.connect([server.axon])
        assert client.query(server.axon, "echo", {"n": 1}).data == {"n": 1}


@pytest.mark.parametrize("wallet", [Wallet(), Keypair()], ids=["wallet object", "keypair"])
def test_a_wallet_signs_on_both_sides(wallet: Any) -> None:
    with (
        new_server(seed=None, wallet=Wallet(MINER)) as server,
        Lightning(wallet=wallet) as client,
    ):
        assert server.axon["hotkey"] == MINER.hotkey
        assert client.wallet_hotkey == VALIDATOR.hotkey
        client.connect([server.axon])
        assert client.query(server.axon, "whoami").data["hotkey"] == VALIDATOR.hotkey


def test_a_callback_signs(running: AxonInfo) -> None:
    signed: list[bytes] = []

    def signer(message: bytes) -> bytes:
        signed.append(message)
        return VALIDATOR.sign(message)

    with Lightning(VALIDATOR.hotkey, signer=signer) as client:
        client.connect([running])
        for _ in range(5):
            client.query(running, "echo")
    assert len(signed) == 1


def test_a_wallet_folder_signs(running: AxonInfo, tmp_path: Path) -> None:
    keys = tmp_path / "alice" / "hotkeys"
    keys.mkdir(parents=True)
    content = {"secretSeed": "0x" + VALIDATOR.seed.hex(), "ss58Address": VALIDATOR.hotkey}
    (keys / "validator").write_text(json.dumps(content))
    folder = WalletFolder("alice", "validator", str(tmp_path))
    with Lightning(wallet=folder) as client:
        client.connect([running])
        assert client.query(running, "whoami").data["hotkey"] == VALIDATOR.hotkey
    with pytest.raises(LightningConfigError, match="no hotkey 'miner'"):
        Lightning(wallet=WalletFolder("alice", "miner", str(tmp_path)))


def test_keys_that_cannot_be() -> None:
    assert hotkey_from_seed(VALIDATOR.seed) == VALIDATOR.hotkey
    with pytest.raises(LightningConfigError, match="one of wallet, seed and signer"):
        Lightning(wallet=Wallet(), seed=VALIDATOR.seed)
    with pytest.raises(LightningConfigError, match="give a hotkey"):
        Lightning()
    with pytest.raises(LightningConfigError, match="give a hotkey"):
        Lightning(signer=VALIDATOR.sign)
    with pytest.raises(LightningConfigError, match=f"of {VALIDATOR.hotkey}, not of"):
        Lightning(MINER.hotkey, seed=VALIDATOR.seed)
    with pytest.raises(LightningConfigError, match="32 bytes"):
        Lightning(seed=b"short")
    with pytest.raises(LightningConfigError, match="not int"):
        Lightning(wallet=5)  # type: ignore[arg-type]
    ed25519 = Keypair()
    ed25519.crypto_type = 0
    with pytest.raises(LightningConfigError, match="not an sr25519 key"):
        Lightning(wallet=ed25519)


def test_a_key_of_another_hotkey_is_refused(running: AxonInfo) -> None:
    class Liar(Keypair):
        def sign(self, data: bytes) -> bytes:
            return STRANGER.sign(data)

    with Lightning(wallet=Liar()) as client:
        client.connect([running])
        with pytest.raises(LightningConnectionError):
            client.query(running, "echo")


def test_handlers_that_cannot_be() -> None:
    server = new_server()
    for handler, text in (
        (lambda: None, "request's data as its argument"),
        (lambda data, context, more: {}, "needs more too"),
        (lambda data, *, more: {}, "needs more too"),
        (5, "a handler is a function, not int"),
    ):
        with pytest.raises(TypeError, match=text):
            server.register_synapse_handler("x", handler)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give one to the decorator"):
        server.synapse(lambda data: data)
    with pytest.raises(TypeError, match="register it as a streaming handler"):
        server.register_synapse_handler("x", lambda data: (yield b""))
    with pytest.raises(TypeError, match="a handler's name is text"):
        server.synapse(5)  # type: ignore[call-overload]


def test_a_default_is_no_context(running: AxonInfo) -> None:
    """A default binds a value to a closure; published handlers may have one."""
    server = new_server()

    def handler(data: dict[str, Any], model: str = "bound") -> dict[str, Any]:
        return {"model": model}

    class Callable_:
        def __call__(self, data: dict[str, Any], context: RequestContext) -> dict[str, Any]:
            return {"caller": context.hotkey}

    server.register_synapse_handler("bound", handler)
    server.register_synapse_handler("object", Callable_())
    server.register_synapse_handler("builtin", dict)
    with server, Lightning(seed=VALIDATOR.seed) as client:
        client.connect([server.axon])
        assert client.query(server.axon, "bound").data == {"model": "bound"}
        assert client.query(server.axon, "object").data == {"caller": VALIDATOR.hotkey}
        assert client.query(server.axon, "builtin", {"n": 1}).data == {"n": 1}


def test_the_sample_of_the_published_readme(running: AxonInfo) -> None:
    my_signer_callback = VALIDATOR.sign

    client = Lightning(wallet_hotkey=VALIDATOR.hotkey)
    client.set_python_signer(my_signer_callback)
    client.initialize_connections(
        [{"hotkey": running["hotkey"], "ip": running["ip"], "port": running["port"]}]
    )
    response = client.query_axon(
        {"hotkey": running["hotkey"], "ip": running["ip"], "port": running["port"]},
        {"synapse_type": "echo", "data": {"key": "value"}},
    )
    assert response["success"] is True
    assert response["data"] == {"key": "value"}
    assert response["error"] is None
    refused = client.query_axon(running, {"synapse_type": "nothing"})
    assert (refused["success"], refused["error"]) == (False, "unrecognized synapse type")
    client.close()
