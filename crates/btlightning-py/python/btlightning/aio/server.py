"""The asyncio server."""

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from btlightning._loop import bridge_of
from btlightning._native import LoopBridge, Operation
from btlightning._typed import Handler
from btlightning.server import ServerSettings

_logger = logging.getLogger("btlightning")


class AsyncLightningServer(ServerSettings):
    """A miner's server whose handlers are coroutine functions, async generators or functions.

    ```python
    server = AsyncLightningServer(wallet=wallet, port=8443)

    @server.synapse("echo")
    async def echo(data: dict, context: RequestContext) -> dict:
        return {"you are": context.hotkey, "you said": data}

    @server.stream("tokens")
    async def tokens(data: dict):
        for word in data["text"].split():
            yield word.encode()

    async def main():
        async with server:
            await server.serve_forever()
    ```

    Coroutines and async generators run in the event loop that the server was started in; ordinary
    functions and generators run on threads, so they may block.

    Cancellation: when a caller gives up or a handler's time is up, its coroutine is cancelled; a
    function on a thread runs on, but its `RequestContext.cancelled` becomes true. Cancelling
    `serve_forever` shuts the server down.

    Loops and threads: a server belongs to the loop that it was started in and is used from there.
    Works with uvloop.

    Forks: a server does not survive `os.fork`. A child that uses this package after its parent did
    gets a `RuntimeError`; use the start method `spawn` with multiprocessing.
    """

    _loop: asyncio.AbstractEventLoop | None = None
    _serving: Operation | None = None

    async def start(self) -> None:
        """Opens the socket and serves in the background, until `shutdown`.

        Raises:
            LightningConnectionError: The address cannot be listened on.
            LightningConfigError: There is no key to sign with.
            RuntimeError: The server is running already.
        """
        if self._loop is not None:
            raise RuntimeError("this server is running already")
        loop = asyncio.get_running_loop()
        bridge = bridge_of(loop)
        self._loop = loop
        try:
            for register in self._waiting():
                register(bridge)
            await self._rust_server.start_async(bridge).future
        except BaseException:
            self._loop = None
            raise
        self._serving = self._rust_server.serve_async(bridge)

    async def serve_forever(self) -> None:
        """Serves until `shutdown` is called or the task is cancelled; starts if need be.

        Cancelling the task shuts the server down as `shutdown` does.
        """
        if self._serving is None:
            await self.start()
        self._bridge()
        serving = self._serving
        if serving is None:  # shut down while it started
            return
        try:
            # Does not cancel the future, as awaiting it would: the end is told through it.
            await asyncio.wait([serving.future])
        except asyncio.CancelledError:
            await self.shutdown()
            raise
        serving.future.result()

    async def shutdown(self, grace: float = 5.0) -> int:
        """Takes no more requests, lets the running ones finish, and closes all connections.

        Args:
            grace: Seconds that running requests have to finish.

        The server may be started again afterwards.

        Returns:
            How many were cut off. Calling it again does nothing and returns 0.
        """
        serving, self._serving = self._serving, None
        if serving is None:
            return 0
        cut_off: int = await self._rust_server.shutdown_async(self._bridge(), grace).future
        await asyncio.wait([serving.future])
        self._loop = None
        if not serving.future.cancelled() and (error := serving.future.exception()) is not None:
            _logger.error("serving had ended with an error", exc_info=error)
        return cut_off

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.shutdown()

    def _bridge(self) -> LoopBridge:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            raise RuntimeError(
                "this server was not started in this event loop: use it in the one it was"
            )
        return bridge_of(loop)

    def _waiting(self) -> list[Callable[[LoopBridge], None]]:
        """What registers the asynchronous handlers, at every start, with the loop it brings."""
        waiting: list[Callable[[LoopBridge], None]] = self.__dict__.setdefault("_registrations", [])
        return waiting

    def _register(
        self, synapse_type: str, function: Callable[..., Any], handler: Handler, buffers: bool
    ) -> None:
        if handler.kind in ("sync", "stream"):
            super()._register(synapse_type, function, handler, buffers)
            return
        native = self._rust_server

        def register(bridge: LoopBridge) -> None:
            add = (
                native.register_async_handler
                if handler.kind == "async"
                else native.register_async_stream
            )
            add(bridge, synapse_type, handler.call, context=handler.context, buffers=buffers)

        if self._loop is not None:
            register(self._bridge())
        self._waiting().append(register)
