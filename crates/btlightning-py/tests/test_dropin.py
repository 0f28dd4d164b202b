"""The surface of the published package: code that was written for it runs unchanged.

What it does on the wire, and the texts of its errors, are compared in `test_compat.py`.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import threading
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import btlightning
from btlightning import Lightning, LightningServer, QuicAxonInfo, RustLightning, RustLightningServer
from conftest import Axon, Miner
from keys import MINER, STRANGER, VALIDATOR

NAMES = [
    "AxonInfo",
    "ClientConnectionStats",
    "LIGHTNING_AVAILABLE",
    "Lightning",
    "LightningServer",
    "PyStreamingResponse",
    "QuicAxonInfo",
    "RustLightning",
    "RustLightningServer",
    "ServerConnectionStats",
    "SynapseRequest",
    "SynapseResponse",
]

CLIENT_SETTINGS = {
    "connect_timeout_secs": None,
    "idle_timeout_secs": None,
    "keep_alive_interval_secs": None,
    "reconnect_initial_backoff_secs": None,
    "reconnect_max_backoff_secs": None,
    "reconnect_max_retries": None,
    "max_frame_payload_bytes": None,
    "max_stream_payload_bytes": None,
}
SERVER_SETTINGS = {
    "host": "0.0.0.0",
    "port": 8443,
    "max_signature_age_secs": None,
    "idle_timeout_secs": None,
    "keep_alive_interval_secs": None,
    "nonce_cleanup_interval_secs": None,
    "max_nonce_entries": None,
    "max_frame_payload_bytes": None,
}
WALLET = {
    "wallet_name": "default",
    "wallet_path": "~/.bittensor/wallets",
    "hotkey_name": "default",
}
REQUIRED = inspect.Parameter.empty

# Every published method, its parameters in order, and their defaults.
SIGNATURES: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (Lightning, {"wallet_hotkey": REQUIRED, **CLIENT_SETTINGS}),
    (Lightning.set_validator_keypair, {"keypair_seed": REQUIRED}),
    (Lightning.set_python_signer, {"signer_callback": REQUIRED}),
    (Lightning.set_wallet, WALLET),
    (Lightning.initialize_connections, {"miners": REQUIRED}),
    (
        Lightning.query_axon,
        {"axon_info": REQUIRED, "request": REQUIRED, "timeout_secs": None},
    ),
    (Lightning.query_axon_stream, {"axon_info": REQUIRED, "request": REQUIRED}),
    (Lightning.update_miner_registry, {"miners": REQUIRED}),
    (Lightning.get_connection_stats, {}),
    (Lightning.close, {}),
    (LightningServer, {"miner_hotkey": REQUIRED, **SERVER_SETTINGS}),
    (LightningServer.set_miner_keypair, {"keypair_seed": REQUIRED}),
    (LightningServer.set_miner_wallet, WALLET),
    (LightningServer.register_synapse_handler, {"synapse_type": REQUIRED, "handler": REQUIRED}),
    (LightningServer.register_streaming_handler, {"synapse_type": REQUIRED, "handler": REQUIRED}),
    (LightningServer.start, {}),
    (LightningServer.serve_forever, {}),
    (LightningServer.get_connection_stats, {}),
    (LightningServer.cleanup_stale_connections, {"max_idle_seconds": 300}),
    (LightningServer.stop, {}),
]

NATIVE = [
    (
        RustLightning,
        [
            "set_validator_keypair",
            "set_python_signer",
            "set_wallet",
            "initialize_connections",
            "query_axon",
            "query_axon_stream",
            "update_miner_registry",
            "get_connection_stats",
            "close_all_connections",
        ],
    ),
    (
        RustLightningServer,
        [
            "set_miner_keypair",
            "set_miner_wallet",
            "set_validator_permit_resolver",
            "register_synapse_handler",
            "register_streaming_handler",
            "start",
            "serve_forever",
            "get_connection_stats",
            "cleanup_stale_connections",
            "stop",
        ],
    ),
]


def request_of(synapse_type: str, **data: Any) -> Any:
    return {"synapse_type": synapse_type, "data": data}


@pytest.mark.parametrize("name", NAMES)
def test_every_published_name_is_exported(name: str) -> None:
    assert name in btlightning.__all__
    assert getattr(btlightning, name)


@pytest.mark.parametrize(
    ("function", "published"),
    [pytest.param(*entry, id=entry[0].__qualname__) for entry in SIGNATURES],
)
def test_signatures_accept_every_published_call(
    function: Callable[..., Any], published: dict[str, Any]
) -> None:
    ours = dict(inspect.signature(function).parameters)
    ours.pop("self", None)
    # The published ones come first, in their order, by position or by name.
    assert list(ours)[: len(published)] == list(published)
    for name, default in published.items():
        parameter = ours.pop(name)
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if default is not REQUIRED:
            assert parameter.default == default
    # What is new can be left out.
    for parameter in ours.values():
        assert parameter.default is not REQUIRED


@pytest.mark.parametrize(
    ("kind", "methods"), [pytest.param(*entry, id=entry[0].__name__) for entry in NATIVE]
)
def test_native_classes_have_the_published_methods(kind: type, methods: list[str]) -> None:
    from btlightning import _native

    assert getattr(_native, kind.__name__) is kind
    assert [name for name in methods if not callable(getattr(kind, name, None))] == []


def test_typed_dicts_have_the_published_keys() -> None:
    keys = {
        name: set(typing.get_type_hints(getattr(btlightning, name)))
        for name in NAMES
        if typing.is_typeddict(getattr(btlightning, name))
    }
    assert keys == {
        "AxonInfo": {"hotkey", "ip", "port", "protocol"},
        "SynapseRequest": {"synapse_type", "data"},
        "SynapseResponse": {"success", "data", "latency_ms", "error"},
        "ClientConnectionStats": {"total_connections", "active_miners"},
        "ServerConnectionStats": {"total_connections", "verified_connections"},
    }
    assert btlightning.AxonInfo.__required_keys__ == {"hotkey", "ip", "port"}


def test_clients_and_servers_remember_their_hotkeys() -> None:
    client = Lightning(wallet_hotkey=VALIDATOR.hotkey)
    assert client.wallet_hotkey == VALIDATOR.hotkey
    client.close()
    client.close()


def test_every_setting_is_taken() -> None:
    client = Lightning(
        VALIDATOR.hotkey,
        connect_timeout_secs=5,
        idle_timeout_secs=30,
        keep_alive_interval_secs=10,
        reconnect_initial_backoff_secs=2,
        reconnect_max_backoff_secs=20,
        reconnect_max_retries=3,
        max_frame_payload_bytes=2**21,
        max_stream_payload_bytes=2**22,
    )
    assert client.get_connection_stats()["total_connections"] == "0"
    client.close()
    server = LightningServer(
        MINER.hotkey,
        "127.0.0.1",
        0,
        max_signature_age_secs=60,
        idle_timeout_secs=60,
        keep_alive_interval_secs=10,
        nonce_cleanup_interval_secs=20,
        max_nonce_entries=1000,
        max_frame_payload_bytes=2**21,
    )
    assert server.get_connection_stats()["total_connections"] == "0"
    server.stop()


def test_a_frame_beyond_the_limit_is_refused(
    start_miner: Callable[..., Miner], make_client: Callable[..., Lightning]
) -> None:
    axon: Any = start_miner().axon
    client = make_client(max_frame_payload_bytes=2**20, max_stream_payload_bytes=2**20)
    client.initialize_connections([axon])
    with pytest.raises(btlightning.LightningError, match="exceeds maximum 1048576"):
        client.query_axon(axon, request_of("echo", content=bytes(2**20)))
    # The connection is still good for what fits.
    assert client.query_axon(axon, request_of("echo", content=bytes(2**19)))["success"]


@pytest.mark.parametrize(
    ("number", "kept"),
    [(-(2**63), True), (2**64 - 1, True), (-(2**63) - 1, False), (2**64, False)],
)
def test_integers_are_kept_or_refused(
    client: Lightning, axon: Any, number: int, kept: bool
) -> None:
    for value in (number, [number], {"deep": {"er": number}}):
        if kept:
            answer = client.query_axon(axon, request_of("echo", value=value))
            assert answer["data"] == {"value": value}
        else:
            with pytest.raises(ValueError, match="int"):
                client.query_axon(axon, request_of("echo", value=value))


def test_types_are_kept(client: Lightning, axon: Any) -> None:
    data = {"no": False, "zero": 0, "float": 0.0, "text": "", "bytes": b"", "none": None}
    answer = client.query_axon(axon, {"synapse_type": "echo", "data": data})["data"]
    assert {key: type(value) for key, value in answer.items()} == {
        key: type(value) for key, value in data.items()
    }
    assert math.isnan(client.query_axon(axon, request_of("echo", value=math.nan))["data"]["value"])


def test_data_may_be_left_out(client: Lightning, axon: Any) -> None:
    assert client.query_axon(axon, {"synapse_type": "echo"})["data"] == {}


@pytest.mark.parametrize("form", ["dict", "mapping", "QuicAxonInfo"])
def test_an_axon_has_several_forms(client: Lightning, miner: Miner, form: str) -> None:
    from types import MappingProxyType

    axon = miner.axon
    given: Any = {
        "dict": {**axon, "protocol": 4},
        "mapping": MappingProxyType(axon),
        "QuicAxonInfo": QuicAxonInfo(axon["hotkey"], axon["ip"], axon["port"], 4),
    }[form]
    client.update_miner_registry([given])
    assert client.query_axon(given, request_of("echo", form=form))["data"] == {"form": form}


def test_quic_axon_info_can_be_read_and_changed() -> None:
    axon = QuicAxonInfo(MINER.hotkey, "192.0.2.1", 8443, 4)
    assert (axon.hotkey, axon.ip, axon.port, axon.protocol) == (MINER.hotkey, "192.0.2.1", 8443, 4)
    axon.port = 8444
    axon.hotkey = STRANGER.hotkey
    assert (axon.port, axon.hotkey) == (8444, STRANGER.hotkey)


@pytest.mark.parametrize("timeout", [0, -1.0, math.inf, -math.inf, math.nan])
def test_a_timeout_that_is_none_is_refused(client: Lightning, axon: Any, timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout_secs must be a finite positive number"):
        client.query_axon(axon, request_of("echo"), timeout_secs=timeout)


def test_a_timeout_may_be_longer_than_any_clock(client: Lightning, axon: Any) -> None:
    assert client.query_axon(axon, request_of("echo"), timeout_secs=1e300)["success"]


def test_a_timeout_is_kept(
    start_miner: Callable[..., Miner], make_client: Callable[..., Lightning]
) -> None:
    answered = threading.Event()

    def slow(data: dict[str, Any]) -> dict[str, Any]:
        answered.wait()
        return data

    axon: Any = start_miner(lambda server: server.register_synapse_handler("slow", slow)).axon
    client = make_client()
    client.initialize_connections([axon])
    with pytest.raises(ConnectionError) as caught:
        client.query_axon(axon, request_of("slow"), timeout_secs=0.2)
    assert isinstance(caught.value, TimeoutError)
    answered.set()
    assert client.query_axon(axon, request_of("slow"), timeout_secs=30)["success"]


@pytest.mark.parametrize("missing", ["hotkey", "ip", "port"])
def test_a_missing_key_is_named(client: Lightning, axon: Axon, missing: str) -> None:
    rest: Any = {key: value for key, value in axon.items() if key != missing}
    calls: list[Callable[[], Any]] = [
        lambda: client.query_axon(rest, request_of("echo")),
        lambda: client.query_axon_stream(rest, request_of("count")),
        lambda: client.initialize_connections([rest]),
        lambda: client.update_miner_registry([rest]),
    ]
    for call in calls:
        with pytest.raises(KeyError, match=f"'{missing}'"):
            call()


def test_a_request_needs_a_synapse_type(client: Lightning, axon: Any) -> None:
    request: Any = {"data": {}}
    with pytest.raises(KeyError, match="'synapse_type'"):
        client.query_axon(axon, request)


def test_a_client_must_connect_first() -> None:
    client = Lightning(VALIDATOR.hotkey)
    axon: Any = {"hotkey": MINER.hotkey, "ip": "127.0.0.1", "port": 9}
    with pytest.raises(ConnectionError, match="endpoint not initialized"):
        client.query_axon(axon, request_of("echo"))
    client.close()


def test_failures_are_answers(client: Lightning, axon: Any) -> None:
    failed = client.query_axon(axon, request_of("fail"))
    assert failed["success"] is False and failed["data"] == {}
    assert failed["error"] == "request processing failed"
    assert client.query_axon(axon, request_of("none"))["error"] == "unrecognized synapse type"


def test_a_stream_is_an_iterator(client: Lightning, axon: Any) -> None:
    stream = client.query_axon_stream(axon, request_of("count", count=3))
    assert isinstance(stream, btlightning.PyStreamingResponse) and iter(stream) is stream
    assert next(stream) == b"chunk 0"
    assert list(stream) == [b"chunk 1", b"chunk 2"]
    # It stays at its end.
    assert list(stream) == []


def test_a_stream_that_fails_is_a_runtime_error(client: Lightning, axon: Any) -> None:
    stream = client.query_axon_stream(axon, request_of("fail_half_way"))
    assert next(stream) == b"first"
    with pytest.raises(RuntimeError, match="stream error: ") as caught:
        next(stream)
    assert "secret" not in str(caught.value)


def test_handlers_run_side_by_side_on_threads(
    start_miner: Callable[..., Miner], make_client: Callable[..., Lightning]
) -> None:
    together = threading.Barrier(4)

    def meet(data: dict[str, Any]) -> dict[str, Any]:
        together.wait(timeout=30)
        return {"thread": threading.get_ident()}

    axon: Any = start_miner(lambda server: server.register_synapse_handler("meet", meet)).axon
    client = make_client()
    client.initialize_connections([axon])
    answers: list[Any] = []
    callers = [
        threading.Thread(target=lambda: answers.append(client.query_axon(axon, request_of("meet"))))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    threads = {answer["data"]["thread"] for answer in answers}
    assert len(threads) == 4 and threading.get_ident() not in threads


def test_a_second_argument_with_a_default_keeps_it(
    start_miner: Callable[..., Miner], make_client: Callable[..., Lightning]
) -> None:
    """Published handlers are called with the data alone, whatever else they could take."""

    def handler(data: dict[str, Any], verbose: bool = False) -> dict[str, Any]:
        return {"verbose": verbose}

    def stream(data: dict[str, Any], size: int = 3) -> Iterator[bytes]:
        yield bytes(size)

    def register(server: LightningServer) -> None:
        server.register_synapse_handler("handler", handler)
        server.register_streaming_handler("stream", stream)

    axon: Any = start_miner(register).axon
    client = make_client()
    client.initialize_connections([axon])
    assert client.query_axon(axon, request_of("handler"))["data"] == {"verbose": False}
    assert list(client.query_axon_stream(axon, request_of("stream"))) == [bytes(3)]


def test_the_last_handler_of_a_name_counts(miner: Miner, client: Lightning, axon: Any) -> None:
    miner.server.register_synapse_handler("echo", lambda data: {"new": True})
    assert client.query_axon(axon, request_of("echo"))["data"] == {"new": True}


def test_statistics_are_text(miner: Miner, client: Lightning, axon: Any) -> None:
    client.query_axon(axon, request_of("echo"))
    connection = f"connection_{axon['ip']}:{axon['port']}"
    mine: Any = client.get_connection_stats()
    assert set(mine) == {"total_connections", "active_miners", connection}
    assert mine["total_connections"] == mine["active_miners"] == "1"
    theirs: Any = miner.server.get_connection_stats()
    caller = f"connection_{VALIDATOR.hotkey}"
    assert set(theirs) == {"total_connections", "verified_connections", caller}
    assert theirs["total_connections"] == theirs["verified_connections"] == "1"
    assert all(type(value) is str for value in [*mine.values(), *theirs.values()])


def test_stale_connections_are_closed_and_come_back(
    miner: Miner, client: Lightning, axon: Any
) -> None:
    client.query_axon(axon, request_of("echo"))
    miner.server.cleanup_stale_connections()
    assert miner.server.get_connection_stats()["total_connections"] == "1"
    # Idle times are counted in whole seconds, and so it takes one until this one is above 0.
    while miner.server.get_connection_stats()["total_connections"] == "1":
        miner.server.cleanup_stale_connections(max_idle_seconds=0)
    # A query that is sent before the news arrives is lost; the next one dials.
    with contextlib.suppress(ConnectionError):
        client.query_axon(axon, request_of("echo"))
    assert client.query_axon(axon, request_of("echo", again=1))["data"] == {"again": 1}


def test_the_registry_decides_who_is_connected(
    start_miner: Callable[..., Miner], make_client: Callable[..., Lightning]
) -> None:
    first: Any = start_miner().axon
    second: Any = start_miner(key=STRANGER).axon
    client = make_client()
    client.initialize_connections([first])
    client.update_miner_registry([second])
    stats: Any = client.get_connection_stats()
    connection = f"connection_{second['ip']}:{second['port']}"
    assert set(stats) == {"total_connections", "active_miners", connection}
    assert client.query_axon(second, request_of("echo", n=2))["data"] == {"n": 2}
    # A query is reason enough to dial a miner that is not in the registry.
    assert client.query_axon(first, request_of("echo", n=1))["data"] == {"n": 1}


def test_a_miner_that_is_down_costs_the_others_nothing(
    start_miner: Callable[..., Miner], make_client: Callable[..., Lightning]
) -> None:
    there: Any = start_miner().axon
    gone = start_miner(key=STRANGER)
    gone.stop()
    client = make_client(connect_timeout_secs=1)
    client.initialize_connections([gone.axon, there])
    assert client.get_connection_stats()["active_miners"] == "1"
    assert client.query_axon(there, request_of("echo"))["success"]


def test_a_callback_signs(miner: Miner, axon: Any) -> None:
    client = Lightning(VALIDATOR.hotkey)
    client.set_python_signer(VALIDATOR.sign)
    client.initialize_connections([axon])
    assert client.query_axon(axon, request_of("echo", n=1))["data"] == {"n": 1}
    client.close()


def test_a_callback_that_fails_is_a_runtime_error(axon: Any) -> None:
    def locked(message: bytes) -> bytes:
        raise OSError("the wallet is locked")

    client = Lightning(VALIDATOR.hotkey)
    client.set_python_signer(locked)
    client.initialize_connections([axon])
    with pytest.raises(RuntimeError, match="signing error: .*the wallet is locked"):
        client.query_axon(axon, request_of("echo"))
    client.close()


def test_wallet_folders_sign_on_both_sides(tmp_path: Path) -> None:
    for key, name in ((MINER, "miner"), (VALIDATOR, "validator")):
        file = tmp_path / "owner" / "hotkeys" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"secretSeed": f"0x{key.seed.hex()}"}))
        file.chmod(0o600)

    server = LightningServer(MINER.hotkey, "127.0.0.1", 0)
    server.set_miner_wallet("owner", str(tmp_path), "miner")
    server.register_synapse_handler("echo", lambda data: data)
    client = Lightning(VALIDATOR.hotkey)
    client.set_wallet(wallet_name="owner", wallet_path=str(tmp_path), hotkey_name="validator")
    with server:
        client.initialize_connections([server.axon])
        assert client.query_axon(server.axon, request_of("echo", n=1))["data"] == {"n": 1}
        client.close()

    with pytest.raises(ValueError, match="config error: .*wallet"):
        client.set_wallet("owner", str(tmp_path), "nobody")


def test_a_permit_resolver_says_who_may_call(make_client: Callable[..., Lightning]) -> None:
    """Through the native class, as published: its wrapper has no such argument."""
    server = RustLightningServer(MINER.hotkey, "127.0.0.1", 0, require_validator_permit=True)
    server.set_miner_keypair(list(MINER.seed))
    server.set_validator_permit_resolver(lambda: {VALIDATOR.hotkey})
    server.register_synapse_handler("echo", lambda data: data)
    server.start()
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    ip, port = server.local_addr()
    axon: Any = {"hotkey": MINER.hotkey, "ip": ip, "port": port}

    permitted = make_client()
    permitted.initialize_connections([axon])
    assert permitted.query_axon(axon, request_of("echo", n=1))["data"] == {"n": 1}
    stranger = make_client(STRANGER)
    stranger.initialize_connections([axon])
    with pytest.raises(ConnectionError, match="(?i)handshake rejected"):
        stranger.query_axon(axon, request_of("echo"))
    server.stop()
    serving.join()


def test_a_port_in_use_is_a_value_error(miner: Miner) -> None:
    second = LightningServer(MINER.hotkey, "127.0.0.1", miner.axon["port"])
    second.set_miner_keypair(MINER.seed)
    with pytest.raises(ValueError, match="config error: .*in use"):
        second.start()


def test_serving_needs_a_start() -> None:
    server = LightningServer(MINER.hotkey, "127.0.0.1", 0)
    with pytest.raises(ValueError, match=r"server not started: call start\(\) first"):
        server.serve_forever()


def test_a_seed_has_32_bytes() -> None:
    client = Lightning(VALIDATOR.hotkey)
    with pytest.raises((ValueError, TypeError)):
        client.set_validator_keypair(b"short")
    client.close()
