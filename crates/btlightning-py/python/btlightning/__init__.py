"""QUIC RPC between Bittensor validators and miners.

A validator holds one connection to each miner. Both prove their sr25519 hotkeys on it once; from
then on a request is one message, and so is its answer.

- `Lightning` and `LightningServer` block, and are those of the published package.
- `AsyncLightning` and `AsyncLightningServer` are their twins for asyncio.
- `Answer`, `RequestContext`, `Buffer` and `Tensor` are what queries and handlers deal with.
- `LightningError` is the root of all exceptions: see `btlightning.errors`.
"""

from btlightning._axon import AxonLike
from btlightning._native import (
    Buffer,
    PyStreamingResponse,
    QuicAxonInfo,
    RequestContext,
    RustLightning,
    RustLightningServer,
    Tensor,
    __version__,
    hotkey_from_seed,
)
from btlightning._wallet import WalletFolder, WalletLike
from btlightning.aio import AsyncLightning, AsyncLightningServer
from btlightning.client import Lightning
from btlightning.errors import (
    HandlerError,
    HandshakeError,
    LightningConfigError,
    LightningConnectionError,
    LightningError,
    MissingKeyError,
    QueryTimeoutError,
    SerializationError,
    SigningError,
    StreamError,
    TransportError,
)
from btlightning.server import LightningServer
from btlightning.types import (
    Answer,
    AxonInfo,
    ClientConnectionStats,
    ServerConnectionStats,
    SynapseRequest,
    SynapseResponse,
)

LIGHTNING_AVAILABLE = True
"""Whether the compiled half could be loaded; always true, kept for existing code."""

__all__ = [
    "LIGHTNING_AVAILABLE",
    "Answer",
    "AsyncLightning",
    "AsyncLightningServer",
    "AxonInfo",
    "AxonLike",
    "Buffer",
    "ClientConnectionStats",
    "HandlerError",
    "HandshakeError",
    "Lightning",
    "LightningConfigError",
    "LightningConnectionError",
    "LightningError",
    "LightningServer",
    "MissingKeyError",
    "PyStreamingResponse",
    "QueryTimeoutError",
    "QuicAxonInfo",
    "RequestContext",
    "RustLightning",
    "RustLightningServer",
    "SerializationError",
    "ServerConnectionStats",
    "SigningError",
    "StreamError",
    "SynapseRequest",
    "SynapseResponse",
    "Tensor",
    "TransportError",
    "WalletFolder",
    "WalletLike",
    "__version__",
    "hotkey_from_seed",
]
