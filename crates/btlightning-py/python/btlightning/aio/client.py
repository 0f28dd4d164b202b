"""The asyncio client."""

import asyncio
from asyncio import CancelledError, get_running_loop
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Generic, Self

from btlightning._axon import A, AxonLike, as_axon, as_axons
from btlightning._loop import bridge_of
from btlightning._native import (
    LightningError,
    LoopBridge,
    Operation,
    PyStreamingResponse,
    QueryMany,
)
from btlightning.client import ClientSettings, answer_or_error
from btlightning.types import Answer


class AsyncLightning(ClientSettings):
    """A validator's client for asyncio.

    ```python
    async with AsyncLightning(wallet=wallet) as client:
        await client.connect([axon])
        answer = await client.query(axon, "echo", {"text": "hello"}, timeout=5.0)
        print(answer.data)
    ```

    One connection per address carries all hotkeys and requests; a lost one is dialled again at the
    next query. The network is served by threads of the compiled half, so that a busy event loop
    delays answers but loses none.

    Cancellation: cancelling the task that awaits `query`, `stream` or `query_many` cancels the
    request on the wire and its handler at the miner. Nothing else of the client is affected.

    Loops and threads: a client may be used from several event loops, one after the other or in
    several threads at the same time; a stream belongs to the loop that it was opened in. Works
    with uvloop. A loop that is closed takes what waits in it along, and leaves no thread.

    Forks: a client does not survive `os.fork`. A child that uses this package after its parent did
    gets a `RuntimeError`; use the start method `spawn` with multiprocessing.
    """

    # The loop of the last call and its bridge, in one tuple, since threads may race for them.
    _entered: tuple[asyncio.AbstractEventLoop | None, LoopBridge | None] = (None, None)

    async def connect(self, axons: Iterable[AxonLike]) -> None:
        """Dials these miners and authenticates with each, at the same time.

        Those that cannot be reached are dialled again when they are queried. Replaces the known
        miners, as `update` does.
        """
        await _finish(self._rust_client.connect_async(self._bridge(), as_axons(axons)))

    async def update(self, axons: Iterable[AxonLike]) -> None:
        """Makes these the known miners: connects to new ones, drops those that are gone."""
        await _finish(self._rust_client.update_async(self._bridge(), as_axons(axons)))

    async def query(
        self,
        axon: AxonLike,
        synapse_type: str,
        data: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        buffers: bool = False,
    ) -> Answer:
        """Sends one request and returns the answer.

        Args:
            axon: The miner: a dictionary, a `QuicAxonInfo`, an object with `hotkey`, `ip` and
                `port`, or text `HOTKEY@IP:PORT`.
            synapse_type: The handler's name.
            data: None, bool, int, float, str, bytes-like, list, dict and arrays, nested at will.
            timeout: Seconds to wait for the answer once the request is sent.
            priority: From 0 to 255; higher ones overtake lower ones that wait to be sent.
            buffers: Whether binary values come as `Buffer`, without a copy, instead of bytes.

        Raises:
            HandlerError: The miner answered that it failed.
            QueryTimeoutError: No answer in time.
            LightningConnectionError: The miner cannot be reached or is not who it should be.
            LightningError: Everything else; see `btlightning.errors`.
        """
        operation = self._rust_client.query_async(
            self._bridge(), as_axon(axon), synapse_type, data, timeout, priority, buffers
        )
        try:
            answer = await operation.future
        except CancelledError:
            operation.cancel()
            raise
        return Answer(answer["data"], answer["latency_ms"])

    def stream(
        self, axon: AxonLike, synapse_type: str, data: Mapping[str, Any] | None = None
    ) -> "AsyncStream":
        """Returns the chunks of the answer to one request; sent when the first one is asked for.

        ```python
        async for chunk in client.stream(axon, "tokens", {"text": "a b c"}):
            print(chunk)
        ```
        """
        target = as_axon(axon)
        return AsyncStream(
            lambda: self._rust_client.stream_async(self._bridge(), target, synapse_type, data)
        )

    def query_many(
        self,
        axons: Iterable[A],
        synapse_type: str,
        data: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        connect_timeout: float | None = None,
        deadline: float | None = None,
        concurrency: int = 256,
        wanted: int | None = None,
        hedge_after: float | None = None,
        buffers: bool = False,
    ) -> "AsyncQueryMany[A]":
        """Sends one request to many miners and yields their answers as they come.

        ```python
        async for axon, answer in client.query_many(axons, "echo", {"text": "hello"}, timeout=5.0):
            if isinstance(answer, Answer):
                print(axon, answer.data)
        ```

        The request is encoded once. A miner that fails yields its exception in place of an answer,
        so one dead miner costs the others nothing.

        Args:
            axons: The miners.
            synapse_type: The handler's name.
            data: As in `query`.
            timeout: Seconds that each miner has to answer once its request is sent.
            connect_timeout: Seconds for dialling and authenticating where there is no connection.
            deadline: Seconds for all of it; miners without an answer by then yield a timeout.
            concurrency: How many requests may be under way at the same time.
            wanted: Ends after this many answers, and cancels the rest.
            hedge_after: Seconds after which a request without an answer is sent a second time;
                the first answer counts. Only for handlers that may run twice.
            buffers: As in `query`.
        """
        wanted_axons = list(axons)
        many = self._rust_client.query_many(
            as_axons(wanted_axons),
            synapse_type,
            data,
            timeout=timeout,
            connect_timeout=connect_timeout,
            deadline=deadline,
            concurrency=concurrency,
            wanted=wanted,
            hedge_after=hedge_after,
            buffers=buffers,
        )
        return AsyncQueryMany(many, wanted_axons, self._bridge)

    async def close(self) -> None:
        """Closes all connections; calling it again does nothing.

        Queries that are still awaited elsewhere end with an error.
        """
        await _finish(self._rust_client.close_async(self._bridge()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _bridge(self) -> LoopBridge:
        loop = get_running_loop()
        entered, bridge = self._entered
        if bridge is None or entered is not loop:
            bridge = bridge_of(loop)
            self._entered = (loop, bridge)
        return bridge


class AsyncStream:
    """The chunks of one answer, as an async iterator; also an async context manager.

    Leaving it half read, by `break`, `aclose` or dropping it, stops the handler at the miner. So
    does cancelling the task that waits for a chunk, and the stream is closed by that. Only one
    task may wait for a chunk at a time.
    """

    __slots__ = ("_closed", "_open", "_response")

    def __init__(self, open_stream: Callable[[], Operation]) -> None:
        self._open = open_stream
        self._response: PyStreamingResponse | None = None
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Returns the next chunk.

        Raises:
            StreamError: The miner broke the stream off.
            LightningError: As for a query.
        """
        if self._closed:
            raise StopAsyncIteration
        try:
            if self._response is None:
                self._response = await _finish(self._open())
            chunk: bytes | None = await _finish(self._response.next_async(_running_bridge()))
        except BaseException:
            await self.aclose()
            raise
        if chunk is None:
            await self.aclose()
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        """Ends the stream, and the handler if it still runs; calling it again does nothing."""
        self._closed = True
        response, self._response = self._response, None
        if response is not None:
            response.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class AsyncQueryMany(Generic[A]):
    """The answers of many miners as they come, as pairs of an axon and its answer or exception.

    Leaving it early, by `break`, `aclose` or dropping it, cancels what is still under way. So does
    cancelling the task that waits for an answer.
    """

    __slots__ = ("_axons", "_bridge", "_many", "_ready")

    def __init__(self, many: QueryMany, axons: list[A], bridge: Callable[[], LoopBridge]) -> None:
        self._many: QueryMany | None = many
        self._axons = axons
        self._bridge = bridge
        self._ready: deque[tuple[int, dict[str, Any] | LightningError]] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[A, Answer | LightningError]:
        if not self._ready:
            if self._many is None:
                raise StopAsyncIteration
            try:
                batch = await _finish(self._many.next_async(self._bridge()))
            except BaseException:
                await self.aclose()
                raise
            if batch is None:
                await self.aclose()
                raise StopAsyncIteration
            self._ready.extend(batch)
        position, result = self._ready.popleft()
        return self._axons[position], answer_or_error(result)

    async def aclose(self) -> None:
        """Cancels what is still under way; calling it again does nothing."""
        self._ready.clear()
        many, self._many = self._many, None
        if many is not None:
            many.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


async def _finish(operation: Operation) -> Any:
    """Awaits an operation, and stops it if the task is cancelled meanwhile."""
    try:
        return await operation.future
    except CancelledError:
        operation.cancel()
        raise


def _running_bridge() -> LoopBridge:
    return bridge_of(get_running_loop())
