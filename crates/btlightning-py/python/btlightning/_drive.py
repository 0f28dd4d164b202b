"""Takes chunks from a handler that is an async generator. Used by the compiled half."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable


async def drive(
    stream: AsyncIterable[bytes] | Awaitable[AsyncIterable[bytes]],
    put: Callable[[bytes], asyncio.Future[None] | None],
) -> None:
    """Passes every chunk on, at the pace at which they are taken.

    Args:
        stream: What the handler returned.
        put: Takes a chunk and returns what to await before the next one, if anything.
    """
    chunks = stream if isinstance(stream, AsyncIterable) else await stream
    try:
        async for chunk in chunks:
            room = put(chunk)
            if room is not None:
                await room
    finally:
        # A generator that is left half-way runs its `finally` blocks now.
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()
