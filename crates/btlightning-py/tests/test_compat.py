"""Peers of the published package and of ours, in every combination, each a process of its own.

Both run the same program, `peer.py`, which is written for the published package.
"""

from __future__ import annotations

import base64
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from btlightning import Lightning
from keys import MINER, STRANGER, VALIDATOR, Key
from native import make_server, serving

TESTS = Path(__file__).parent
KEPT = TESTS.parents[2] / "target/py/published-venv/bin/python"
PACKAGES = ["published", "ours"]


class Raised(Exception):
    """What a call to a peer raised there."""

    def __init__(self, kinds: list[str], text: str) -> None:
        super().__init__(f"{kinds[0]}: {text}")
        self.kinds = kinds
        self.text = text


class Process:
    """A peer, and the pipes to it. Its methods are those of `peer.Peer`."""

    def __init__(self, package: str) -> None:
        self.package = package
        self._process = subprocess.Popen(
            [interpreter(package), str(TESTS / "peer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            assert self._process.stdin is not None and self._process.stdout is not None
            line = base64.b64encode(pickle.dumps((name, arguments, options))).decode()
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
            assert answer, f"the {self.package} peer has ended"
            outcome, content = pickle.loads(base64.b64decode(answer))
            if outcome == "raised":
                raise Raised(*content)
            return content

        return call

    def end(self) -> None:
        """Kills the process: how peers end properly is a matter of other tests."""
        self._process.kill()
        self._process.communicate()


def interpreter(package: str) -> str:
    """The Python in whose environment a package is installed."""
    if package == "ours":
        return sys.executable
    path = Path(os.environ.get("LIGHTNING_PUBLISHED_PYTHON", KEPT))
    assert path.exists(), "the published package is missing: `cargo xtask py` installs it"
    return str(path)


@pytest.fixture(scope="module", params=PACKAGES)
def server(request: pytest.FixtureRequest) -> Iterator[Process]:
    """A miner of either package."""
    process = Process(request.param)
    process.port = process.serve(MINER.hotkey, MINER.seed)
    yield process
    process.end()


@pytest.fixture(scope="module")
def axon(server: Process) -> dict[str, Any]:
    """Where the miner is."""
    return axon_at(server.port)


@pytest.fixture(scope="module", params=PACKAGES)
def client(
    request: pytest.FixtureRequest, server: Process, axon: dict[str, Any]
) -> Iterator[Process]:
    """A validator of either package, connected."""
    process = Process(request.param)
    process.make_client(VALIDATOR.hotkey, VALIDATOR.seed)
    process.connect([axon])
    yield process
    process.end()


@pytest.fixture(params=PACKAGES)
def fresh_server(request: pytest.FixtureRequest) -> Iterator[Process]:
    """A miner for one test: miners count the handshakes that come from an address."""
    process = Process(request.param)
    process.port = process.serve(MINER.hotkey, MINER.seed)
    yield process
    process.end()


def axon_at(port: int, key: Key = MINER) -> dict[str, Any]:
    return {"hotkey": key.hotkey, "ip": "127.0.0.1", "port": port}


def request_of(synapse_type: str, **data: Any) -> dict[str, Any]:
    return {"synapse_type": synapse_type, "data": data}


@pytest.mark.parametrize("way", ["query", "query_many"])
def test_a_published_miner_gets_arrays_as_bytes(way: str) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    miner = Process("published")
    try:
        axon = axon_at(miner.serve(MINER.hotkey, MINER.seed))
        with Lightning(seed=VALIDATOR.seed) as client:
            client.connect([axon])
            if way == "query":
                answer = client.query(axon, "echo", {"weights": array})
            else:
                [(_, answer)] = client.query_many([axon], "echo", {"weights": array})
        assert answer.data == {"weights": array.tobytes()}
    finally:
        miner.end()


def test_a_published_validator_gets_arrays_as_bytes() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    server = make_server()
    server.register_synapse_handler("weights", lambda data: {"weights": array})
    validator = Process("published")
    try:
        with serving(server) as axon:
            validator.make_client(VALIDATOR.hotkey, VALIDATOR.seed)
            validator.connect([axon])
            answer = validator.query(axon, request_of("weights"))
        assert answer["data"] == {"weights": array.tobytes()}
    finally:
        validator.end()


VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "one byte": 127,
    "minus one": -1,
    "least i64": -(2**63),
    "greatest i64": 2**63 - 1,
    "beyond i64": 2**63,
    "greatest u64": 2**64 - 1,
    "float": 1.5,
    "minus zero": -0.0,
    "tiny": 5e-324,
    "infinite": math.inf,
    "text": "naïve 東京 🚄",
    "empty text": "",
    "text of 40 bytes": "forty " * 6 + "----",
    "text of 64 KiB": "é" * 32768,
    "bytes": bytes(range(256)),
    "empty bytes": b"",
    "list": [1, "two", None, [3.0, [b"four"]], {}],
    "empty list": [],
    "list of 20": list(range(20)),
    "list of 70000": [False] * 70_000,
    "dict": {"a": {"b": {"c": [1, {"d": b"e"}]}}},
    "empty dict": {},
    "dict of 70000": {str(number): number for number in range(70_000)},
    "dict with other keys": {1: "one", None: "none", False: "false"},
}


@pytest.mark.parametrize("name", VALUES)
def test_every_kind_of_value_comes_back(client: Process, axon: dict[str, Any], name: str) -> None:
    value = VALUES[name]
    answer = client.query(axon, request_of("echo", value=value))
    assert answer["success"] is True and answer["error"] is None
    assert identical(answer["data"], {"value": value})


def test_not_a_number_comes_back(client: Process, axon: dict[str, Any]) -> None:
    answer = client.query(axon, request_of("echo", value=math.nan))
    assert math.isnan(answer["data"]["value"])


def test_nothing_comes_back(client: Process, axon: dict[str, Any]) -> None:
    assert client.query(axon, request_of("echo"))["data"] == {}
    assert client.query(axon, {"synapse_type": "echo"})["data"] == {}


@pytest.mark.parametrize("size", [1, 255, 256, 1000, 65_535, 65_536, 1_000_000, 8 * 2**20])
def test_bytes_of_every_size_come_back(client: Process, axon: dict[str, Any], size: int) -> None:
    content = os.urandom(size)
    answer = client.query(axon, request_of("echo", content=content, after="the content"))
    assert answer["data"] == {"content": content, "after": "the content"}


def test_an_answer_has_the_published_form(client: Process, axon: dict[str, Any]) -> None:
    answer = client.query(axon, request_of("echo", key="value"), timeout_secs=30)
    assert type(answer) is dict
    assert set(answer) == {"success", "data", "latency_ms", "error"}
    assert type(answer["latency_ms"]) is float and answer["latency_ms"] > 0


@pytest.mark.parametrize(
    ("synapse_type", "error"),
    [
        ("fail", "request processing failed"),
        ("not_a_dict", "request processing failed"),
        ("unheard of", "unrecognized synapse type"),
    ],
)
def test_a_failing_handler_is_told_without_its_secrets(
    client: Process, axon: dict[str, Any], synapse_type: str, error: str
) -> None:
    answer = client.query(axon, request_of(synapse_type))
    assert answer["success"] is False and answer["error"] == error and answer["data"] == {}


@pytest.mark.parametrize(
    ("chunks", "size"), [(0, 1), (1, 1), (1000, 1), (8, 2**20), (1, 8 * 2**20)]
)
def test_streams_come_whole_and_in_order(
    client: Process, axon: dict[str, Any], chunks: int, size: int
) -> None:
    got, error = client.stream(axon, request_of("count", count=chunks, size=size))
    assert error is None
    assert got == [b"%d" % number * size for number in range(chunks)]


@pytest.mark.parametrize("synapse_type", ["fail_half_way", "not_bytes"])
def test_a_stream_that_fails_half_way_is_told(
    client: Process, axon: dict[str, Any], synapse_type: str
) -> None:
    chunks, error = client.stream(axon, request_of(synapse_type))
    assert chunks == [b"first"]
    kinds, text = error
    assert "RuntimeError" in kinds and "secret" not in text
    assert "stream processing failed" in text


def test_statistics_have_the_published_keys(
    client: Process, server: Process, axon: dict[str, Any]
) -> None:
    client.query(axon, request_of("echo"))
    mine = client.client_stats()
    assert mine["total_connections"] == mine["active_miners"] == "1"
    assert mine[f"connection_127.0.0.1:{axon['port']}"]
    theirs = server.server_stats()
    assert {"total_connections", "verified_connections"} <= set(theirs)
    assert theirs[f"connection_{VALIDATOR.hotkey}"]
    assert all(type(value) is str for value in [*mine.values(), *theirs.values()])


def refusals() -> list[tuple[str, Any, str]]:
    """What a client may do wrong, a function of the client and the miner's address each.

    The third part is what both packages' texts say about it, whatever the case of the letters.
    """

    def unconnected(client: Process, axon: dict[str, Any]) -> None:
        client.query(axon, request_of("echo"))

    def with_client(seed: bytes | None = None, signer: str | None = None) -> Any:
        def refused(client: Process, axon: dict[str, Any]) -> None:
            client.make_client(VALIDATOR.hotkey, seed, signer)
            client.connect([axon])
            client.query(axon, request_of("echo"))

        return refused

    def other_miner(client: Process, axon: dict[str, Any]) -> None:
        impostor = {**axon, "hotkey": STRANGER.hotkey}
        client.connect([impostor])
        client.query(impostor, request_of("echo"))

    def unknown_miner(client: Process, axon: dict[str, Any]) -> None:
        client.connect([axon])
        client.query({**axon, "hotkey": STRANGER.hotkey}, request_of("echo"))

    def query(request: dict[str, Any], **options: Any) -> Any:
        def refused(client: Process, axon: dict[str, Any]) -> None:
            client.connect([axon])
            client.query(axon, request, **options)

        return refused

    def axon_without(key: str) -> Any:
        def refused(client: Process, axon: dict[str, Any]) -> None:
            client.connect([axon])
            client.query(without(key, axon), request_of("echo"))

        return refused

    def miners_without(key: str) -> Any:
        return lambda client, axon: client.connect([without(key, axon)])

    def settings(**options: Any) -> Any:
        return lambda client, _: client.make_client(VALIDATOR.hotkey, VALIDATOR.seed, **options)

    def stream_of_unknown_type(client: Process, axon: dict[str, Any]) -> None:
        client.connect([axon])
        _, error = client.stream(axon, request_of("unheard of"))
        raise Raised(*error)

    echo = request_of("echo")
    invalid_timeout = "timeout_secs must be a finite positive number, got"
    return [
        ("unconnected", unconnected, "endpoint not initialized"),
        ("without signer", with_client(), "signing error: no signer"),
        ("signer raises", with_client(signer="raises"), "the wallet is locked"),
        ("signature too short", with_client(signer="short"), ""),
        ("other key", with_client(STRANGER.seed), "handshake error: handshake rejected by miner"),
        ("other miner", other_miner, "hotkey mismatch"),
        ("unknown miner", unknown_miner, STRANGER.hotkey.lower()),
        *(
            (f"timeout {value}", query(echo, timeout_secs=value), invalid_timeout)
            for value in (0.0, -1.0, math.inf, math.nan)
        ),
        *((f"axon without {key}", axon_without(key), f"'{key}'") for key in REQUIRED),
        *((f"miners without {key}", miners_without(key), f"'{key}'") for key in REQUIRED),
        ("no synapse type", query({"data": {}}), "'synapse_type'"),
        ("integer beyond u64", query(request_of("echo", value=2**64)), "int"),
        ("integer below i64", query(request_of("echo", value=-(2**63) - 1)), "int"),
        ("no idle time", settings(idle_timeout_secs=0), "config error: idle_timeout"),
        (
            "keep-alive beyond idle",
            settings(idle_timeout_secs=5, keep_alive_interval_secs=6),
            "config error: keep_alive_interval",
        ),
        (
            "frame limit of 1",
            settings(max_frame_payload_bytes=1),
            "config error: max_frame_payload_bytes",
        ),
        (
            "stream limit below frame limit",
            settings(max_stream_payload_bytes=2**20),
            "config error: max_stream_payload_bytes",
        ),
        ("no retries", settings(reconnect_max_retries=0), "config error: reconnect_max_retries"),
        ("stream of unknown type", stream_of_unknown_type, "unrecognized synapse type"),
    ]


REQUIRED = ["hotkey", "ip", "port"]


@pytest.mark.parametrize(
    ("refusal", "phrase"), [pytest.param(call, text, id=name) for name, call, text in refusals()]
)
def test_errors_are_the_published_ones(fresh_server: Process, refusal: Any, phrase: str) -> None:
    axon = axon_at(fresh_server.port)
    outcomes = {}
    for package in PACKAGES:
        client = Process(package)
        try:
            client.make_client(VALIDATOR.hotkey, VALIDATOR.seed)
            with pytest.raises(Raised) as caught:
                refusal(client, axon)
            outcomes[package] = caught.value
        finally:
            client.end()
    published, ours = outcomes["published"], outcomes["ours"]
    # Ours may be caught by more than one name.
    assert published.kinds[0] in ours.kinds, f"published {published}, ours {ours}"
    for outcome in (published, ours):
        assert phrase in outcome.text.lower()


def without(key: str, axon: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in axon.items() if name != key}


def identical(left: Any, right: Any) -> bool:
    """Equality that tells 1 from True and 1.0, and 0.0 from -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(identical(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(identical, left, right))
    if isinstance(left, float):
        return left == right and math.copysign(1, left) == math.copysign(1, right)
    return bool(left == right)
