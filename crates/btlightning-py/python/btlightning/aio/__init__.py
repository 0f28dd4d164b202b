"""The asyncio client and server: `AsyncLightning` and `AsyncLightningServer`."""

from btlightning.aio.client import AsyncLightning, AsyncQueryMany, AsyncStream
from btlightning.aio.server import AsyncLightningServer

__all__ = ["AsyncLightning", "AsyncLightningServer", "AsyncQueryMany", "AsyncStream"]
