"""The compiled half of btlightning. Use the names that the package `btlightning` exports."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, final

from typing_extensions import Buffer as AnyBuffer

__version__: Final[str]
PROTOCOL_TENSOR_EXT: Final[int]

class LightningError(Exception):
    """What every error of this package is."""

    phase: str | None  # "dial" | "handshake" | "send" | "wait"
    peer: str | None  # "HOTKEY at ip:port"
    retry_safe: bool

class LightningConnectionError(LightningError, ConnectionError): ...
class HandshakeError(LightningConnectionError): ...
class TransportError(LightningConnectionError): ...
class QueryTimeoutError(TransportError, TimeoutError): ...
class LightningConfigError(LightningError, ValueError): ...
class SerializationError(LightningError, ValueError): ...
class MissingKeyError(LightningError, KeyError): ...
class SigningError(LightningError, RuntimeError): ...
class HandlerError(LightningError, RuntimeError): ...
class StreamError(LightningError, RuntimeError): ...

@final
class QuicAxonInfo:
    def __new__(cls, hotkey: str, ip: str, port: int, protocol: int = 4) -> QuicAxonInfo: ...
    hotkey: str
    ip: str
    port: int
    protocol: int

# An axon is a mapping with `hotkey`, `ip`, `port` and perhaps `protocol`, or a QuicAxonInfo.
_Axon: TypeAlias = Mapping[str, Any] | QuicAxonInfo

@final
class Buffer:
    """Read-only bytes that were received, without a copy. `memoryview(b)`, `bytes(b)`, `len(b)`."""

    def __len__(self) -> int: ...
    def __bytes__(self) -> bytes: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getitem__(self, index: int | slice, /) -> Any: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Tensor:
    """An array where NumPy has none for it: dtype, shape and the received bytes.

    `Tensor(dtype, shape, data)` makes one to be sent, of little-endian elements in C order.
    """

    def __new__(cls, dtype: str, shape: Sequence[int], data: AnyBuffer) -> Tensor: ...
    dtype: str  # "float32", "bfloat16", "float8_e4m3fn", "bool", "complex64", ...
    shape: tuple[int, ...]
    data: Buffer
    nbytes: int
    def numpy(self) -> Any: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any: ...
    def __dlpack__(self, **kwargs: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

@final
class RequestContext:
    hotkey: str
    connection_id: str
    remote_addr: str
    synapse_type: str
    deadline: float  # time.monotonic() at which the caller is told that the handler timed out
    time_left: float  # seconds
    cancelled: bool

@final
class LoopBridge:
    """Carries results and requests from the I/O threads into one asyncio loop, in batches."""

    def __new__(cls, loop: asyncio.AbstractEventLoop) -> LoopBridge: ...
    def fileno(self) -> int: ...
    def drain(self) -> None: ...  # called by the loop when fileno() is readable
    def close(self) -> None: ...

@final
class Operation:
    """One asynchronous operation; `cancel` stops it here and at the peer."""

    future: asyncio.Future[Any]
    def cancel(self) -> None: ...

@final
class PyStreamingResponse:
    def __iter__(self) -> PyStreamingResponse: ...
    def __next__(self) -> bytes: ...
    def next_async(self, bridge: LoopBridge) -> Operation: ...  # bytes | None at the end
    def close(self) -> None: ...

@final
class QueryMany:
    """The answers to one request to many miners, as they come: (position, answer dict | LightningError)."""

    def __iter__(self) -> QueryMany: ...
    def __next__(self) -> tuple[int, dict[str, Any] | LightningError]: ...
    def next_async(
        self, bridge: LoopBridge
    ) -> Operation: ...  # list of those, never empty; None at the end
    def close(self) -> None: ...

@final
class RustLightning:
    def __new__(
        cls,
        wallet_hotkey: str,
        connect_timeout_secs: float | None = None,
        idle_timeout_secs: float | None = None,
        keep_alive_interval_secs: float | None = None,
        reconnect_initial_backoff_secs: float | None = None,
        reconnect_max_backoff_secs: float | None = None,
        reconnect_max_retries: int | None = None,
        max_frame_payload_bytes: int | None = None,
        max_stream_payload_bytes: int | None = None,
    ) -> RustLightning: ...
    wallet_hotkey: str
    def set_validator_keypair(self, keypair_seed: bytes | Sequence[int]) -> None: ...
    def set_python_signer(self, signer_callback: Callable[[bytes], bytes]) -> None: ...
    def set_wallet(
        self,
        wallet_name: str = "default",
        wallet_path: str = "~/.bittensor/wallets",
        hotkey_name: str = "default",
    ) -> None: ...
    # The published, blocking surface. The GIL is released and Ctrl-C works in all of it.
    def initialize_connections(self, miners: Iterable[_Axon]) -> None: ...
    def update_miner_registry(self, miners: Iterable[_Axon]) -> None: ...
    def query_axon(
        self, axon_info: _Axon, request: Mapping[str, Any], timeout_secs: float | None = None
    ) -> dict[str, Any]: ...
    def query_axon_stream(
        self, axon_info: _Axon, request: Mapping[str, Any]
    ) -> PyStreamingResponse: ...
    def get_connection_stats(self) -> dict[str, str]: ...
    def close_all_connections(self) -> None: ...
    # Ours. The miner's word that it failed is a HandlerError here.
    def query(
        self,
        axon: _Axon,
        synapse_type: str,
        data: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        priority: int = 0,
        buffers: bool = False,
    ) -> dict[str, Any]: ...
    def query_async(
        self,
        bridge: LoopBridge,
        axon: _Axon,
        synapse_type: str,
        data: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        priority: int = 0,
        buffers: bool = False,
    ) -> Operation: ...
    def stream_async(
        self,
        bridge: LoopBridge,
        axon: _Axon,
        synapse_type: str,
        data: Mapping[str, Any] | None = None,
    ) -> Operation: ...  # -> PyStreamingResponse
    def query_many(
        self,
        axons: Sequence[_Axon],
        synapse_type: str,
        data: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        connect_timeout: float | None = None,
        deadline: float | None = None,
        concurrency: int = 256,
        wanted: int | None = None,
        hedge_after: float | None = None,
        buffers: bool = False,
    ) -> QueryMany: ...
    def connect_async(self, bridge: LoopBridge, miners: Iterable[_Axon]) -> Operation: ...
    def update_async(self, bridge: LoopBridge, miners: Iterable[_Axon]) -> Operation: ...
    def close_async(self, bridge: LoopBridge) -> Operation: ...
    def stats(self) -> dict[str, Any]: ...

@final
class RustLightningServer:
    def __new__(
        cls,
        miner_hotkey: str,
        host: str = "0.0.0.0",
        port: int = 8443,
        max_signature_age_secs: int | None = None,
        idle_timeout_secs: int | None = None,
        keep_alive_interval_secs: int | None = None,
        nonce_cleanup_interval_secs: int | None = None,
        max_nonce_entries: int | None = None,
        max_frame_payload_bytes: int | None = None,
        *,
        max_connections: int | None = None,
        handshake_timeout_secs: int | None = None,
        handler_timeout_secs: int | None = None,
        max_handshake_attempts_per_minute: int | None = None,
        max_concurrent_bidi_streams: int | None = None,
        require_validator_permit: bool | None = None,
        validator_permit_refresh_secs: int | None = None,
        require_address_validation: bool | None = None,
    ) -> RustLightningServer: ...
    miner_hotkey: str
    def set_miner_keypair(self, keypair_seed: bytes | Sequence[int]) -> None: ...
    def set_python_signer(self, signer_callback: Callable[[bytes], bytes]) -> None: ...
    def set_miner_wallet(
        self,
        wallet_name: str = "default",
        wallet_path: str = "~/.bittensor/wallets",
        hotkey_name: str = "default",
    ) -> None: ...
    def set_validator_permit_resolver(self, resolver: Callable[[], Iterable[str]]) -> None: ...
    # Handlers on threads. `context` says whether the handler takes (data, RequestContext).
    def register_synapse_handler(
        self,
        synapse_type: str,
        handler: Callable[..., Mapping[str, Any] | None],
        context: bool = False,
        buffers: bool = False,
    ) -> None: ...
    def register_streaming_handler(
        self,
        synapse_type: str,
        handler: Callable[..., Iterable[AnyBuffer]],
        context: bool = False,
        buffers: bool = False,
    ) -> None: ...
    # Handlers on an asyncio loop: coroutine functions, and async generator functions for streams.
    def register_async_handler(
        self,
        bridge: LoopBridge,
        synapse_type: str,
        handler: Callable[..., Awaitable[Mapping[str, Any] | None]],
        context: bool = False,
        buffers: bool = False,
    ) -> None: ...
    def register_async_stream(
        self,
        bridge: LoopBridge,
        synapse_type: str,
        handler: Callable[..., Any],
        context: bool = False,
        buffers: bool = False,
    ) -> None: ...
    def start(self) -> None: ...
    def serve_forever(self) -> None: ...  # blocks; GIL released; ends with stop() or Ctrl-C
    def start_async(self, bridge: LoopBridge) -> Operation: ...
    def serve_async(self, bridge: LoopBridge) -> Operation: ...  # until stopped
    def shutdown_async(
        self, bridge: LoopBridge, grace: float
    ) -> Operation: ...  # -> requests cut off
    def local_addr(self) -> tuple[str, int]: ...
    def get_connection_stats(self) -> dict[str, str]: ...
    def stats(self) -> dict[str, Any]: ...
    def cleanup_stale_connections(self, max_idle_seconds: int = 300) -> None: ...
    def stop(self) -> None: ...

# The SS58 address of the sr25519 key made from 32 bytes; LightningConfigError for another length.
def hotkey_from_seed(seed: bytes | Sequence[int]) -> str: ...

# MessagePack as the wire has it, for tests and tools.
# `data` may also be None, a dataclass instance or a pydantic model.
def encode(data: Any, *, tensors_as_bytes: bool = False) -> bytes: ...
def decode(data: AnyBuffer, buffers: bool = False) -> dict[str, Any]: ...
