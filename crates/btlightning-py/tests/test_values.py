"""Values to MessagePack and back, against another implementation; what cannot be sent, and why."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import math
import mmap
import pickle
import random
import threading
import types
from typing import Any, NamedTuple

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pydantic
import pytest

import btlightning
from btlightning import _native as native


def round_trip(value: Any) -> Any:
    """Sends a value to itself."""
    return native.decode(native.encode({"value": value}))["value"]


BOUNDARIES = sorted(
    value
    for bits in (0, 5, 7, 8, 15, 16, 31, 32, 62, 63, 64)
    for near in (-1, 0, 1)
    for sign in (-1, 1)
    if -(2**63) <= (value := sign * (2**bits + near)) < 2**64
)
LENGTHS = (0, 1, 15, 16, 31, 32, 255, 256, 65535, 65536)
PLAIN = [
    None,
    True,
    False,
    *BOUNDARIES,
    0.0,
    -0.0,
    1.5,
    math.inf,
    5e-324,
    *("x" * length for length in LENGTHS),
    "é" * 40,
    "\U0001f600",
    "a\0b",
    *(b"\xff" * length for length in LENGTHS),
    *(list(range(length)) for length in LENGTHS),
    *({str(number): number for number in range(length)} for length in LENGTHS),
    {"a": {"b": [1, {"c": b"x", "d": [None, [True]]}]}},
    {1: "int", None: "none", b"k": "bytes", False: "bool", 1.5: "float", "s": "str"},
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: f"{type(value).__name__}")
def test_plain_values_are_what_the_reference_has(value: Any) -> None:
    data = {"value": value, "behind": 7}
    encoded = native.encode(data)
    assert encoded == msgpack.packb(data)
    decoded = native.decode(encoded)
    assert decoded == data
    assert type(decoded["value"]) is type(value)


def random_value(rng: random.Random, depth: int = 0) -> Any:
    """Makes any value that MessagePack has, nested up to five levels."""
    kind = rng.randrange(7 if depth > 4 else 9)
    match kind:
        case 0:
            return rng.choice([None, True, False])
        case 1:
            return rng.getrandbits(rng.randrange(1, 65))
        case 2:
            return -rng.getrandbits(rng.randrange(1, 63))
        case 3:
            return rng.choice([rng.random(), rng.uniform(-1e300, 1e300), float(rng.randrange(9))])
        case 4:
            return "".join(rng.choices("ab é中\U0001f600", k=rng.randrange(60)))
        case 5 | 6:
            return rng.randbytes(rng.choice([0, 3, 200, 300, 70000]))
        case 7:
            return [random_value(rng, depth + 1) for _ in range(rng.randrange(20))]
        case _:
            return {f"k{rng.randrange(99)}": random_value(rng, depth + 1) for _ in range(5)}


@pytest.mark.parametrize("seed", range(20))
def test_random_values_agree_with_the_reference(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        data = {f"key{n}": random_value(rng) for n in range(rng.randrange(5))}
        encoded = native.encode(data)
        assert encoded == msgpack.packb(data)
        assert native.decode(encoded) == data
        shared = native.decode(encoded, buffers=True)
        assert shared == data


@pytest.mark.parametrize("seed", range(5))
def test_damaged_bytes_are_refused_or_read(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(300):
        encoded = bytearray(native.encode({"k": random_value(rng, 3), "t": np.arange(3)}))
        for _ in range(rng.randrange(1, 4)):
            encoded[rng.randrange(len(encoded))] = rng.randrange(256)
        cut = bytes(encoded[: rng.choice([len(encoded), rng.randrange(len(encoded) + 1)])])
        try:
            decoded = native.decode(cut)
        except btlightning.SerializationError:
            continue
        assert all(isinstance(key, str) for key in decoded)


def test_none_is_the_empty_map() -> None:
    assert native.encode(None) == native.encode({}) == b"\x80"
    assert native.decode(b"\x80") == {}


def test_what_other_peers_may_send() -> None:
    assert native.decode(b"\x81\xa1a\xca\x3f\xc0\0\0") == {"a": 1.5}
    assert native.decode(b"\x82\xa1a\x01\xa1a\x02") == {"a": 2}, "the last of equal keys counts"
    # As the published package has it.
    assert native.decode(b"\x81\xa1a\xa2\xff\xfe") == {"a": b"\xff\xfe"}
    assert native.decode(b"\x81\xa1a\xd6\x01abcd") == {"a": b"abcd"}
    assert native.decode(b"\x81\xa1a\xc7\x03\x05abc") == {"a": b"abc"}


@pytest.mark.parametrize(
    ("encoded", "text"),
    [
        (b"", "expected a map"),
        (b"\x91\x00", "expected a map"),
        (b"\x80\x00", "1 trailing bytes"),
        (b"\x81\x01\x00", "string keys"),
        (b"\x81\xa1a\xc1", "0xc1"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "cut short"),
        (b"\x81\xa1a" + b"\x91" * 129 + b"\xc0", "nests deeper"),
        (b"\x81\xa1a\x81\x90\x01", r"data\['a'\]: an array or a map is one of its keys"),
    ],
)
def test_malformed_bytes_are_refused(encoded: bytes, text: str) -> None:
    with pytest.raises(btlightning.SerializationError, match=text):
        native.decode(encoded)


def test_decoding_takes_any_bytes_like_object() -> None:
    encoded = native.encode({"a": 1})
    for source in (bytearray(encoded), memoryview(encoded), memoryview(encoded + encoded)[:4]):
        assert native.decode(source) == {"a": 1}
    with pytest.raises(TypeError, match="a bytes-like object is needed, not str"):
        native.decode("text")  # type: ignore[arg-type]


def test_keys_seen_before_are_shared() -> None:
    encoded = native.encode({"some_long_key": 1})
    (first,), (second,) = native.decode(encoded), native.decode(encoded)
    assert first is second
    # Many keys take each other's places, and none is mistaken for another.
    many = {f"key number {n}": n for n in range(5000)}
    assert native.decode(native.encode(many)) == many


# --- values of other kinds


class Colour(enum.Enum):
    RED = "red"
    NUMBER = 7


class Level(enum.IntEnum):
    HIGH = 300


class Name(enum.StrEnum):
    FIRST = "first"


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Request:
    prompt: str
    parts: list[Any]
    hidden: dataclasses.InitVar[int] = 0


class Model(pydantic.BaseModel):
    count: int
    body: bytes = b"\xff"
    inner: Model | None = None


class Numbers(pydantic.RootModel[list[int]]):
    pass


class Half:
    def __float__(self) -> float:
        return 0.5


class Seven:
    def __index__(self) -> int:
        return 7


class Reversed(dict[str, Any]):
    """A dict whose own order is not the one it shows."""

    def items(self) -> Any:
        return reversed(list(super().items()))


def mapped(content: bytes) -> mmap.mmap:
    memory = mmap.mmap(-1, len(content))
    memory.write(content)
    return memory


CONVERTED = [
    ((1, ("a", ())), [1, ["a", []]]),
    (Point(1, 2), [1, 2]),
    (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (collections.defaultdict(list, a=[1]), {"a": [1]}),
    (collections.UserDict({"a": 1}), {"a": 1}),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
    (Reversed(a=1, b=2), {"b": 2, "a": 1}),
    (Colour.RED, "red"),
    (Colour.NUMBER, 7),
    (Level.HIGH, 300),
    (Name.FIRST, "first"),
    (Request("p", [Request("q", [])]), {"prompt": "p", "parts": [{"prompt": "q", "parts": []}]}),
    (
        Model(count=1, inner=Model(count=2)),
        {
            "count": 1,
            "body": b"\xff",
            "inner": {"count": 2, "body": b"\xff", "inner": None},
        },
    ),
    (Numbers([1, 2]), [1, 2]),
    (bytearray(b"ab"), b"ab"),
    (memoryview(b"abcdef")[::2], b"ace"),
    (memoryview(array.array("H", [1, 2])), array.array("H", [1, 2]).tobytes()),
    (array.array("d", [0.5]), array.array("d", [0.5]).tobytes()),
    (mapped(b"pages"), b"pages"),
    (decimal.Decimal("1.5"), 1.5),
    (Half(), 0.5),
    (Seven(), 7),
    (np.float32(1.5), 1.5),
    (np.float64(0.1), 0.1),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.int8(-3), -3),
    (np.True_, True),
    (np.str_("text"), "text"),
    (np.bytes_(b"bytes"), b"bytes"),
]


@pytest.mark.parametrize(
    ("value", "expected"), CONVERTED, ids=[type(value).__name__ for value, _ in CONVERTED]
)
def test_values_of_other_kinds(value: Any, expected: Any) -> None:
    received = round_trip([value, 1])
    assert received == [expected, 1]
    assert type(received[0]) is type(expected)
    if isinstance(expected, dict):
        assert list(received[0]) == list(expected)


@pytest.mark.parametrize(
    "data",
    [
        collections.UserDict(count=1, body=b"\xff", inner=None),
        Model(count=1),
        types.MappingProxyType({"count": 1, "body": b"\xff", "inner": None}),
    ],
    ids=["UserDict", "pydantic", "mappingproxy"],
)
def test_data_may_be_any_record(data: Any) -> None:
    assert native.decode(native.encode(data)) == {"count": 1, "body": b"\xff", "inner": None}


def test_data_may_be_a_dataclass() -> None:
    assert native.decode(native.encode(Request("p", [1]))) == {"prompt": "p", "parts": [1]}


# --- what cannot be sent


class Raises:
    def __index__(self) -> int:
        raise ZeroDivisionError("its own")


UNSENDABLE = [
    ({1, 2}, r"a value of type `set` at data\['a'\]\[1\]: convert it with list"),
    (iter([]), r"type `list_iterator` at data\['a'\]\[1\]: convert it to None, bool, int"),
    (1j, r"type `complex` at data\['a'\]\[1\]: send .real and .imag"),
    (np.complex64(1), r"type `complex` at data\['a'\]\[1\]"),
    (datetime.datetime(2026, 1, 1), r"`datetime.datetime` at data\['a'\]\[1\]: .*isoformat"),
    (Request, r"type `type` at data\['a'\]\[1\]"),
    (2**64, r"an int of more than 64 bits at data\['a'\]\[1\]: send it as a str"),
    (-(2**63) - 1, r"an int of more than 64 bits at data\['a'\]\[1\]"),
    ("\ud800", r"a str with unpaired surrogates at data\['a'\]\[1\]: send it as bytes"),
    ({(1, 2): 3}, r"a map key of type `tuple` at data\['a'\]\[1\]\[\(1, 2\)\]: use keys of type"),
    (Request("p", [0, {2}]), r"type `set` at data\['a'\]\[1\]\.parts\[1\]"),
]


@pytest.mark.parametrize(
    ("value", "text"), UNSENDABLE, ids=[type(value).__name__ for value, _ in UNSENDABLE]
)
def test_the_error_names_type_and_place(value: Any, text: str) -> None:
    with pytest.raises(btlightning.SerializationError, match=text) as caught:
        native.encode({"a": [0, value]})
    assert str(caught.value).startswith("serialization error: cannot send ")


def test_data_must_be_a_mapping_with_text_as_keys() -> None:
    for data in ([1], "text", 5):
        with pytest.raises(TypeError, match=f"with str keys, not {type(data).__name__}"):
            native.encode(data)
    with pytest.raises(btlightning.SerializationError, match="a key of type `int` at data"):
        native.encode({1: 2})
    with pytest.raises(btlightning.SerializationError, match="dumps to `list`"):
        native.encode(Numbers([1]))


def test_what_a_value_raises_comes_through() -> None:
    with pytest.raises(ZeroDivisionError, match="its own"):
        native.encode({"a": [Raises()]})


def nested(levels: int, innermost: Any = None) -> Any:
    value = innermost
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


def test_nesting_is_bounded() -> None:
    deepest = {"a": nested(128)}
    assert native.decode(native.encode(deepest)) == deepest
    for too_deep in (nested(129), nested(128, (None,)), nested(128, Request("p", []))):
        with pytest.raises(btlightning.SerializationError, match="deeper than 128 levels at data"):
            native.encode({"a": too_deep})


def test_a_cycle_is_named() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    with pytest.raises(btlightning.SerializationError, match=r"data\['a'\], which contains itself"):
        native.encode({"a": ring})
    data: dict[str, Any] = {}
    data["x"] = {"y": [data]}
    with pytest.raises(btlightning.SerializationError, match="data, which contains itself"):
        native.encode(data)
    request = Request("p", [])
    request.parts.append((request,))
    with pytest.raises(btlightning.SerializationError, match=r"data\['r'\].*, which contains"):
        native.encode({"r": request})


def test_a_container_that_changes_meanwhile_is_refused() -> None:
    class Meddler:
        def __init__(self, meddle: Any) -> None:
            self.meddle = meddle

        def __index__(self) -> int:
            self.meddle()
            return 1

    grows: dict[str, Any] = {}
    grows.update(a=Meddler(lambda: grows.update(c=1)), b=2)
    shrinks: list[Any] = []
    shrinks.extend([Meddler(shrinks.clear), 2])
    renamed: dict[str, Any] = {}
    renamed.update(a=Meddler(lambda: (renamed.pop("b"), renamed.update(z=1))), b=2, c=3)
    for value in (grows, shrinks):
        with pytest.raises(btlightning.SerializationError, match="that changes meanwhile"):
            native.encode({"v": value})
    # Of the same size: no crash, and a whole map.
    assert len(native.decode(native.encode({"v": renamed}))["v"]) == 3


def test_many_threads_at_once() -> None:
    data = {f"key{n}": {"name": f"n{n}", "body": b"x" * n} for n in range(50)}
    failures: list[object] = []

    def work() -> None:
        for _ in range(200):
            if native.decode(native.encode(data)) != data:
                failures.append("not the same")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


# --- the exceptions


@pytest.mark.parametrize(
    ("kind", "parents"),
    [
        (btlightning.LightningError, (Exception,)),
        (btlightning.LightningConnectionError, (btlightning.LightningError, ConnectionError)),
        (btlightning.HandshakeError, (btlightning.LightningConnectionError,)),
        (btlightning.TransportError, (btlightning.LightningConnectionError,)),
        (btlightning.QueryTimeoutError, (btlightning.TransportError, TimeoutError)),
        (btlightning.LightningConfigError, (btlightning.LightningError, ValueError)),
        (btlightning.SerializationError, (btlightning.LightningError, ValueError)),
        (btlightning.MissingKeyError, (btlightning.LightningError, KeyError)),
        (btlightning.SigningError, (btlightning.LightningError, RuntimeError)),
        (btlightning.HandlerError, (btlightning.LightningError, RuntimeError)),
        (btlightning.StreamError, (btlightning.LightningError, RuntimeError)),
    ],
)
def test_exceptions_are_builtins_too_and_can_be_pickled(
    kind: type[btlightning.LightningError], parents: tuple[type, ...]
) -> None:
    assert all(issubclass(kind, parent) for parent in parents)
    assert kind.__module__ == "btlightning"
    assert kind.__doc__
    error = kind("a text")
    assert (error.phase, error.peer, error.retry_safe) == (None, None, False)
    error.phase, error.peer, error.retry_safe = "dial", "5Abc at 127.0.0.1:1", True
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert back.args == ("a text",)
    assert (back.phase, back.peer, back.retry_safe) == ("dial", "5Abc at 127.0.0.1:1", True)


def test_a_missing_key_is_said_as_in_the_published_package() -> None:
    client = btlightning.RustLightning("5Abc")
    with pytest.raises(KeyError) as caught:
        client.initialize_connections([{"ip": "127.0.0.1", "port": 1}])
    assert type(caught.value) is btlightning.MissingKeyError
    assert caught.value.args == ("Missing 'hotkey' field",)
