"""Buffers and tensors: bit for bit, without copies, and in an interpreter without NumPy."""

from __future__ import annotations

import copy
import gc
import pickle
import struct
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import btlightning
from btlightning import _native as native

DTYPES: list[Any] = [
    *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
    *("float16", ml_dtypes.bfloat16, "float32", "float64", "complex64", "complex128"),
    *(ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
]
SHAPES: list[tuple[int, ...]] = [(), (0,), (3,), (2, 3, 4), (0, 5), (1,) * 32]


def round_trip(value: Any, buffers: bool = False) -> Any:
    """Sends a value to itself."""
    return native.decode(native.encode({"value": value}), buffers)["value"]


def random_array(dtype: Any, shape: tuple[int, ...]) -> Any:
    """Makes an array of any bits that its elements can have."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    high = 2 if dtype == np.bool_ else 256
    bits = np.random.default_rng(7).integers(0, high, count, dtype=np.uint8)
    return bits.view(dtype).reshape(shape)


def address(view: Any) -> int:
    """Where the bytes of a buffer begin."""
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def buffer(content: bytes) -> btlightning.Buffer:
    """Receives `content` as a buffer."""
    received = round_trip(content, buffers=True)
    assert type(received) is btlightning.Buffer
    return received


# --- buffers


def test_a_buffer_behaves_as_bytes_do() -> None:
    content = b"hello world"
    received: Any = buffer(content)
    other: Any
    assert len(received) == 11
    assert bytes(received) == content
    assert memoryview(received).readonly
    assert str(received, "ascii") == "hello world"
    for other in (content, bytearray(content), memoryview(content), buffer(content)):
        assert received == other
        assert other == received
        assert (received != other) is False
    for other in (b"hello", bytearray(11), memoryview(bytes(22))[::2], 5, "hello world", None):
        assert received != other
    assert hash(received) == hash(content)
    assert received in {content}
    assert list(received) == list(content)
    assert (received[0], received[-1], received[10]) == (104, 100, 100)
    for part in (slice(2, 4), slice(None), slice(5, 2), slice(-3, None), slice(None, None, -2)):
        assert type(received[part]) is btlightning.Buffer
        assert received[part] == content[part]
    for index in (11, -12, 2**70):
        with pytest.raises(IndexError):
            received[index]
    with pytest.raises(TypeError):
        received["a"]
    assert repr(received) == "<btlightning.Buffer of 11 bytes>"
    assert buffer(b"") == b""
    assert len(buffer(b"")[:]) == 0


def test_a_buffer_cannot_be_written_to() -> None:
    view = memoryview(buffer(b"abc"))
    with pytest.raises(TypeError):
        view[0] = 1
    with pytest.raises(TypeError, match="read-write"):
        struct.pack_into("B", buffer(b"abc"), 0, 1)


def test_a_buffer_pickles_and_copies_to_bytes() -> None:
    received = buffer(b"abc")
    for twin in (pickle.loads(pickle.dumps(received)), copy.deepcopy(received)):
        assert type(twin) is bytes
        assert twin == b"abc"


def test_buffers_alias_what_was_received() -> None:
    content = bytes(range(256)) * 512
    message = buffer(native.encode({"head": 1, "body": content, "tail": [b"end"]}))
    decoded = native.decode(message, buffers=True)
    body = decoded["body"]
    assert body == content
    inside = range(address(message), address(message) + len(message))
    assert address(body) in inside
    assert address(body[100:]) == address(body) + 100
    assert address(decoded["tail"][0]) in inside


def test_a_view_outlives_what_it_came_from() -> None:
    decoded = native.decode(native.encode({"body": bytes(range(256)) * 512}), buffers=True)
    view = memoryview(decoded["body"])[256:512]
    array = np.frombuffer(decoded.pop("body"), np.uint8)
    del decoded
    gc.collect()
    rubbish = [bytes(131072) for _ in range(50)]
    assert bytes(view) == bytes(range(256))
    assert array.sum() == 255 * 128 * 512
    assert len(rubbish) == 50


# --- tensors


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_arrays_come_back_bit_for_bit(dtype: Any, shape: tuple[int, ...]) -> None:
    sent = random_array(dtype, shape)
    received = round_trip([sent, "behind"])
    assert received[1] == "behind"
    array = received[0]
    assert type(array) is np.ndarray
    assert array.dtype == sent.dtype
    assert array.shape == sent.shape
    assert array.tobytes() == sent.tobytes()
    assert not array.flags.writeable


def test_the_bytes_are_as_documented() -> None:
    encoded = native.encode({"t": np.array([[1, 2, 3]], np.int16)})
    head = bytes([1, 6, 2, 4]) + struct.pack("<QQ", 1, 3) + bytes(4)
    content = head + struct.pack("<3h", 1, 2, 3)
    assert len(head) % 8 == 0
    assert encoded == b"\x81\xa1t\xc7" + bytes([len(content), 0x54]) + content
    assert native.PROTOCOL_TENSOR_EXT == 0x54


def test_a_published_peer_gets_the_elements_alone() -> None:
    sent = np.arange(6, dtype=np.float32).reshape(2, 3)
    encoded = native.encode({"t": sent, "n": 1}, tensors_as_bytes=True)
    assert native.decode(encoded) == {"t": sent.tobytes(), "n": 1}


def test_arrays_of_any_layout() -> None:
    sent = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    for array in (
        sent.T,
        sent[:, ::2, ::-1],
        np.asfortranarray(sent),
        sent.astype(">i4"),
        np.broadcast_to(sent[0, 0], (5, 4)),
        np.ma.MaskedArray(sent).data,
        sent.astype(np.longlong),
    ):
        received = round_trip(array)
        assert received.flags.c_contiguous
        assert received.dtype == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(received, array)


def test_arrays_alias_what_was_received() -> None:
    message = buffer(native.encode({"t": np.arange(100_000, dtype=np.float32)}))
    inside = range(address(message), address(message) + len(message))
    for buffers in (False, True):
        array = native.decode(message, buffers)["t"]
        assert array.ctypes.data in inside
        assert array.nbytes == 400_000
    del message
    gc.collect()
    assert float(array[99_999]) == 99_999.0


class HasInterface:
    """An array of another library that NumPy can read."""

    def __init__(self, array: Any) -> None:
        self.array = array

    @property
    def __array_interface__(self) -> Any:
        return self.array.__array_interface__


class Foreign:
    """An array of another library, with DLPack alone."""

    def __init__(self, array: Any, device: int = 1) -> None:
        self.array = array
        self.device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.device, 0)

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)


class WithGradient(Foreign):
    """One that is given away only when it is detached."""

    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("it requires a gradient")

    def detach(self) -> Foreign:
        return Foreign(self.array)


@pytest.mark.parametrize("wrapper", [HasInterface, Foreign, WithGradient])
def test_arrays_of_other_libraries(wrapper: Any) -> None:
    sent = np.arange(6, dtype=np.float64).reshape(2, 3)
    np.testing.assert_array_equal(round_trip(wrapper(sent)), sent)


def test_an_array_on_another_device_is_refused() -> None:
    with pytest.raises(btlightning.SerializationError, match=r"`.*Foreign` .* host memory at data"):
        native.encode({"t": Foreign(np.zeros(1), device=2)})


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array(["a"]), r"dtype `str32` at data\['t'\]\[0\]: convert it"),
        (np.array([object()]), r"dtype `object` at data\['t'\]\[0\]"),
        (np.zeros(1, "datetime64[s]"), r"dtype `datetime64\[s\]` at data\['t'\]\[0\]"),
        (np.zeros((1,) * 33), r"33 dimensions at data\['t'\]\[0\]: reshape it"),
    ],
)
def test_arrays_that_cannot_be_sent(array: Any, text: str) -> None:
    with pytest.raises(btlightning.SerializationError, match=text):
        native.encode({"t": [array]})


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        (ml_dtypes.bfloat16(1.5), 1.5),
        (ml_dtypes.float8_e4m3fn(2), 2.0),
        (ml_dtypes.float8_e5m2(-0.5), -0.5),
    ],
)
def test_scalars_are_numbers(scalar: Any, expected: float) -> None:
    received = round_trip(scalar)
    assert type(received) is float
    assert received == expected


def extension(content: bytes) -> bytes:
    """A message with this content as its tensor."""
    return b"\x81\xa1t\xc8" + struct.pack(">H", len(content)) + b"\x54" + content


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "cut short"),
        (bytes([1, 0, 0]), "cut short"),
        (bytes([2, 1, 0, 0, 5]), "later version"),
        (bytes([1, 17, 0, 0, 5]), "dtype 17"),
        (bytes([1, 1, 33, 0]) + bytes(8 * 33), "head is invalid"),
        (bytes([1, 1, 0, 8]) + bytes(9), "head is invalid"),
        (bytes([1, 1, 2, 0]) + bytes(8), "cut short"),
        (bytes([1, 1, 0, 4]) + bytes(3), "cut short"),
        (bytes([1, 1, 0, 0]), r"0 bytes do not fit uint8 of shape \[\]"),
        (bytes([1, 3, 1, 0]) + struct.pack("<Q", 2) + bytes(7), "7 bytes do not fit uint32"),
        (bytes([1, 4, 2, 0]) + struct.pack("<QQ", 2**63, 2**63), "0 bytes do not fit uint64"),
        (bytes([1, 1, 2, 0]) + struct.pack("<QQ", 2**62, 0) + b"x", "1 bytes do not fit"),
        (bytes([1, 0, 0, 0, 2]), "no bool"),
    ],
)
def test_malformed_tensors_are_refused(content: bytes, text: str) -> None:
    with pytest.raises(
        btlightning.SerializationError, match=rf"read the tensor at data\['t'\]: .*{text}"
    ):
        native.decode(extension(content))


def test_a_tensor_can_be_made_and_sent() -> None:
    sent = btlightning.Tensor("bfloat16", (2, 1), b"\x80\x3f\x00\x40")
    assert (sent.dtype, sent.shape, sent.nbytes) == ("bfloat16", (2, 1), 4)
    assert sent.data == b"\x80\x3f\x00\x40"
    assert repr(sent) == "<btlightning.Tensor bfloat16 [2, 1]>"
    array = sent.numpy()
    assert array.dtype == ml_dtypes.bfloat16
    assert array.tolist() == [[1.0], [2.0]]
    np.testing.assert_array_equal(round_trip(sent), array)
    twin = pickle.loads(pickle.dumps(sent))
    assert (twin.dtype, twin.shape, twin.data) == (sent.dtype, sent.shape, sent.data)
    for arguments, text in (
        (("float31", (1,), bytes(4)), "unknown dtype"),
        (("float32", (1,), bytes(5)), "5 bytes do not fit"),
        (("uint8", (1,) * 33, b"x"), "more than 32 dimensions"),
        (("bool", (1,), b"\2"), "no bool"),
    ):
        with pytest.raises(ValueError, match=text):
            btlightning.Tensor(*arguments)


def test_a_tensor_is_an_array_to_other_libraries() -> None:
    elements: Any = np.array([1, 2], np.float32)
    tensor = btlightning.Tensor("float32", (2,), elements)
    assert np.asarray(tensor).ctypes.data == address(tensor.data)
    assert np.array(tensor).flags.owndata
    assert np.asarray(tensor, dtype=np.int8).tolist() == [1, 2]
    with pytest.raises(ValueError, match="needs a copy"):
        tensor.__array__(np.int8, copy=False)
    assert tensor.__dlpack_device__() == (1, 0)
    assert np.from_dlpack(tensor).tolist() == [1.0, 2.0]
    with pytest.raises(BufferError, match=r"torch\.frombuffer"):
        btlightning.Tensor("bfloat16", (), b"ab").__dlpack__()


WITHOUT_NUMPY = """
import sys
sys.modules["numpy"] = None
import btlightning
from btlightning import _native as native

sent = btlightning.Tensor("float32", (2,), bytes(8))
received = native.decode(native.encode({"t": sent}))["t"]
assert type(received) is btlightning.Tensor, type(received)
assert (received.dtype, received.shape, received.data) == ("float32", (2,), bytes(8))
for use in (received.numpy, received.__array__, received.__dlpack__):
    try:
        use()
    except ImportError as error:
        assert "pip install numpy" in str(error), error
    else:
        raise AssertionError(use)

class Array:
    __array_interface__ = {}

try:
    native.encode({"t": Array()})
except btlightning.SerializationError as error:
    assert "without NumPy at data['t']: install it" in str(error), error
else:
    raise AssertionError
"""

WITHOUT_ML_DTYPES = """
import sys
sys.modules["ml_dtypes"] = None
import btlightning
from btlightning import _native as native

data = {"half": btlightning.Tensor("float16", (1,), bytes(2)),
        "brain": btlightning.Tensor("bfloat16", (1,), bytes(2))}
received = native.decode(native.encode(data))
assert type(received["half"]).__name__ == "ndarray"
assert type(received["brain"]) is btlightning.Tensor
try:
    received["brain"].numpy()
except ImportError as error:
    assert "pip install ml_dtypes" in str(error), error
else:
    raise AssertionError
"""


LAZY = """
import sys
import btlightning
from btlightning import _native as native

native.decode(native.encode({"a": [1, b"x"]}))
assert "numpy" not in sys.modules
"""


@pytest.mark.parametrize(
    "program", [WITHOUT_NUMPY, WITHOUT_ML_DTYPES, LAZY], ids=["numpy", "ml_dtypes", "lazy"]
)
def test_numpy_is_optional(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
