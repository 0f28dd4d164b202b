"""One bridge from the I/O threads to each asyncio loop, for all clients and servers on it."""

import asyncio
import threading
import weakref

from btlightning._native import LoopBridge


class _Reader:
    """The callback of a loop; the loop keeps it, and with it the bridge, until it is closed."""

    __slots__ = ("__weakref__", "bridge")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.bridge = LoopBridge(loop)
        try:
            loop.add_reader(self.bridge.fileno(), self)
        except NotImplementedError:
            self.bridge.close()
            raise RuntimeError(
                "this event loop cannot watch file descriptors: use a SelectorEventLoop"
            ) from None

    def __call__(self) -> None:
        self.bridge.drain()


# Weak both ways: the bridge holds its loop, so a strong reference here would keep both for ever.
_readers: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Reader]]" = (
    weakref.WeakKeyDictionary()
)
_lock = threading.Lock()


def bridge_of(loop: asyncio.AbstractEventLoop) -> LoopBridge:
    """Returns the running loop's bridge, making it at the first call.

    It stays until the loop is closed, since the last results of a client that is closed come
    through it too; a loop that closes takes it along.
    """
    with _lock:
        known = _readers.get(loop)
        reader = known() if known is not None else None
        if reader is None:
            reader = _Reader(loop)
            _readers[loop] = weakref.ref(reader)
        return reader.bridge
