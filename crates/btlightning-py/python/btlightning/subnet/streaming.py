"""Answers that come in chunks."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    MutableMapping,
)
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from btlightning.subnet.synapse import Synapse

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
"""Sends one ASGI event: `{"type": "http.response.body", "body": b"...", "more_body": True}`."""

CHUNKS_AHEAD: Final = 16
"""Chunks that a token streamer may be ahead of the network before `send` waits."""


class BTStreamingResponseModel(BaseModel):
    """Holds the function that produces the chunks."""

    token_streamer: Callable[[Send], Awaitable[None]]


class StreamingReply:
    """What a forward function returns to answer in chunks."""

    def __init__(
        self, model: BTStreamingResponseModel, *, synapse: "StreamingSynapse | None" = None
    ) -> None:
        """Keeps the function, and the synapse that it answers."""
        self.token_streamer = model.token_streamer
        self.synapse = synapse


class StreamingSynapse(Synapse, ABC):
    """A synapse whose answer comes in chunks."""

    model_config = ConfigDict(validate_assignment=True)

    class BTStreamingResponse(StreamingReply):
        """The class that annotations of forward functions name."""

    @abstractmethod
    def process_streaming_response(self, response: Any) -> AsyncIterator[Any]:
        """Reads the answer's chunks and yields what the caller of the dendrite is to get.

        Written as an asynchronous generator. Runs at the dendrite.

        Args:
            response: A `StreamingAnswer`.
        """

    @abstractmethod
    def extract_response_json(self, response: Any) -> dict[str, Any]:
        """Returns the fields that the finished synapse is to have.

        Args:
            response: The `StreamingAnswer`, read to its end.
        """

    def create_streaming_response(
        self, token_streamer: Callable[[Send], Awaitable[None]]
    ) -> "StreamingSynapse.BTStreamingResponse":
        """Makes the answer of a forward function from a coroutine function that sends chunks."""
        model = BTStreamingResponseModel(token_streamer=token_streamer)
        return self.BTStreamingResponse(model, synapse=self)


class StreamingAnswer:
    """The part of `aiohttp.ClientResponse` that streaming synapses use.

    Attributes:
        content: The body: `iter_any()`, `iter_chunked(n)`, `iter_chunks()`, `readline()`,
            `read()`, or lines by `async for`.
        headers: The ends of the call as `bt_header_axon_hotkey` and so on, and name and timeout.
        status: 200; a call that is refused gets no such object.
    """

    status: Final = 200

    def __init__(self, chunks: AsyncIterator[bytes], headers: Mapping[str, str]) -> None:
        """Wraps the chunks of an answer."""
        self.content = StreamReader(chunks)
        self.headers = dict(headers)
        # Public templates of streaming synapses read the headers from here.
        self._raw_headers = tuple((k.encode(), v.encode()) for k, v in headers.items())

    async def read(self) -> bytes:
        """Returns what is left of the body."""
        return await self.content.read()

    async def text(self) -> str:
        """Returns what is left of the body as UTF-8 text."""
        return (await self.read()).decode()


class StreamReader:
    """Reads a body that comes in chunks; the part of `aiohttp.StreamReader` in common use."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        """Wraps the chunks."""
        self._chunks = chunks
        self._rest = b""
        self._ended = False

    def at_eof(self) -> bool:
        """Whether everything has been read."""
        return self._ended and not self._rest

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yields the chunks as they come."""
        while chunk := await self.readany():
            yield chunk

    async def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Yields the chunks as they come, each with `True`: it is a whole one."""
        async for chunk in self.iter_any():
            yield chunk, True

    async def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        """Yields parts of at most `n` bytes."""
        while part := await self.read(n):
            yield part

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yields the lines, each with its end."""
        while line := await self.readline():
            yield line

    async def readany(self) -> bytes:
        """Returns what has come, or the next chunk; empty at the end."""
        if not self._rest:
            await self._more()
        chunk, self._rest = self._rest, b""
        return chunk

    async def read(self, n: int = -1) -> bytes:
        """Returns at most `n` bytes, as soon as there are any; all that is left if negative."""
        if n < 0:
            parts = [chunk async for chunk in self.iter_any()]
            return b"".join(parts)
        if not self._rest:
            await self._more()
        part, self._rest = self._rest[:n], self._rest[n:]
        return part

    async def readline(self) -> bytes:
        """Returns the next line with its end; empty at the end of the body."""
        parts: list[bytes] = []
        while self._rest or await self._more():
            line, newline, rest = self._rest.partition(b"\n")
            parts.append(line + newline)
            self._rest = rest
            if newline:
                break
        return b"".join(parts)

    async def _more(self) -> bool:
        while not self._ended and not self._rest:
            chunk = await anext(self._chunks, None)
            if chunk is None:
                self._ended = True
            else:
                self._rest = bytes(chunk)
        return bool(self._rest)


async def chunks_of(
    token_streamer: Callable[[Send], Awaitable[None]],
) -> AsyncGenerator[bytes, None]:
    """Runs a token streamer and yields the chunks that it sends.

    Ending the iteration early cancels it. What it raises is raised here, after its last chunk.
    """
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    # Bounds the queue in place of a maxsize, so that its end always finds room.
    room = asyncio.Semaphore(CHUNKS_AHEAD)

    async def send(event: MutableMapping[str, Any]) -> None:
        body = event.get("body", b"")
        if event.get("type") == "http.response.body" and body:
            await room.acquire()
            queue.put_nowait(bytes(body))

    async def run() -> None:
        try:
            await token_streamer(send)
        finally:
            queue.put_nowait(None)

    task = asyncio.ensure_future(run())
    try:
        while (chunk := await queue.get()) is not None:
            room.release()
            yield chunk
        await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
