"""The asking side: synapses sent to one axon or many."""

import asyncio
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any, Final, Self

from btlightning import AsyncLightning
from btlightning._native import decode
from btlightning._wallet import WalletFolder
from btlightning.errors import LightningError
from btlightning.subnet.axon_info import AxonInfo, outward_ip, target_of
from btlightning.subnet.keys import hotkey_of, key_arguments
from btlightning.subnet.loop_thread import LoopThread
from btlightning.subnet.outcome import outcome_of
from btlightning.subnet.streaming import StreamingAnswer
from btlightning.subnet.synapse import Synapse
from btlightning.subnet.wire import (
    CALL,
    STATUS,
    VERSION,
    call_entry,
    fields_of,
    is_streaming_class,
    merge,
    new_identity,
    read_entry,
    set_end,
)
from btlightning.types import Answer

HISTORY: Final = 1000
"""Calls that `synapse_history` remembers."""

_log = logging.getLogger("btlightning.subnet")


class Dendrite:
    """Sends synapses to axons over QUIC and returns them with the answers filled in.

    A call that fails raises nothing: its synapse says why, in `dendrite.status_code` and
    `dendrite.status_message`. Connections stay open for later calls until
    `aclose_session`, `close_session` or the end of `async with`.

    May be used from any number of event loops and threads.
    """

    def __init__(self, wallet: Any = None) -> None:
        """Makes a dendrite; nothing is dialled yet.

        Args:
            wallet: A wallet or keypair of bittensor 10 or 11, a `btlightning.WalletFolder`, text
                `NAME/HOTKEY`, or the 32 bytes of a secret seed; by default the wallet
                `default/default`.

        Raises:
            ValueError: When the wallet has no usable key.
        """
        self.wallet: Any = wallet if wallet is not None else WalletFolder()
        self.hotkey = hotkey_of(self.wallet)
        self.uuid = new_identity()
        self.external_ip = outward_ip()
        self.synapse_history: deque[Synapse] = deque(maxlen=HISTORY)
        self._lock = threading.Lock()
        self._client: AsyncLightning | None = None
        self._thread: LoopThread | None = None

    @property
    def keypair(self) -> Any:
        """The key that signs; where only its address is known, an object with `ss58_address`."""
        keypair = getattr(self.wallet, "hotkey", self.wallet)
        known = hasattr(keypair, "ss58_address")
        return keypair if known else SimpleNamespace(ss58_address=self.hotkey)

    async def forward(
        self,
        axons: Any,
        synapse: Any = None,
        timeout: float | None = 12,
        deserialize: bool = True,
        run_async: bool = True,
        streaming: bool = False,
    ) -> Any:
        """Sends copies of a synapse to one axon or to many.

        Cancelling cancels the requests, at the axons too.

        Args:
            axons: One axon, or a list of them: an `Axon`, an `AxonInfo` of this package
                or bittensor's, or a mapping with `hotkey`, `ip` and `port`.
            synapse: What to send; by default a ping.
            timeout: Seconds for each call, connecting included; `None` or 0 for no limit.
            deserialize: Whether to return what `synapse.deserialize()` makes of each answer,
                those of failed calls too.
            run_async: Whether to ask all axons at a time, or one after the other.
            streaming: Whether answers come in chunks. The class of the synapse decides.

        Returns:
            For a list, a list of the answers in its order; for one axon, its answer. If answers
            come in chunks, async generators as `call_stream` returns them.
        """
        many = isinstance(axons, (list, tuple))
        targets: Sequence[Any] = axons if many else [axons]
        synapse = Synapse() if synapse is None else synapse
        in_chunks = is_streaming_class(type(synapse))
        if streaming and not in_chunks:
            _log.warning("%s is not a StreamingSynapse: not streaming", type(synapse).__name__)
        copies = [synapse.model_copy() for _ in targets]
        if in_chunks:
            streams = [
                self.call_stream(axon, copy, timeout, deserialize)
                for axon, copy in zip(targets, copies, strict=True)
            ]
            return streams if many else streams[0]
        # Every axon is looked up before any is asked: what is no axon at all is an error.
        found = [target_of(axon) for axon in targets]
        batches = [range(len(found))] if run_async else [range(i, i + 1) for i in range(len(found))]
        for batch in batches:
            await self._ask([_Call(self, found[i], copies[i], timeout) for i in batch], timeout)
        results = [copy.deserialize() if deserialize else copy for copy in copies]
        return results if many else results[0]

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Does what `forward` does."""
        return await self.forward(*args, **kwargs)

    async def aquery(self, *args: Any, **kwargs: Any) -> Any:
        """Does what `forward` does."""
        return await self.forward(*args, **kwargs)

    def query(self, *args: Any, **kwargs: Any) -> Any:
        """Does what `forward` does, and blocks until it is done.

        Within a coroutine this holds up the event loop; `forward` does not.
        """
        return self._loop_thread().run(self.forward(*args, **kwargs))

    async def call(
        self,
        target_axon: Any,
        synapse: Any = None,
        timeout: float | None = 12.0,
        deserialize: bool = True,
    ) -> Any:
        """Sends a synapse to one axon, and fills the answer into it.

        Cancelling cancels the request, at the axon too.

        Args:
            target_axon: The axon, as for `forward`.
            synapse: What to send; not copied. By default a ping.
            timeout: Seconds for the call, connecting included; `None` or 0 for no limit.
            deserialize: Whether to return what `synapse.deserialize()` makes of it.

        Returns:
            The synapse, or what it is deserialized to.
        """
        synapse = Synapse() if synapse is None else synapse
        await self._ask([_Call(self, target_of(target_axon), synapse, timeout)], timeout)
        return synapse.deserialize() if deserialize else synapse

    async def call_stream(
        self,
        target_axon: Any,
        synapse: Any,
        timeout: float | None = 12.0,
        deserialize: bool = True,
    ) -> AsyncGenerator[Any, None]:
        """Sends a streaming synapse to one axon.

        Leaving the iteration early, or cancelling it, cancels the request at the axon too.

        Args:
            target_axon: The axon, as for `forward`.
            synapse: What to send; not copied.
            timeout: Seconds for the whole call; `None` or 0 for no limit.
            deserialize: Whether the last item is what `synapse.deserialize()` returns.

        Yields:
            What `synapse.process_streaming_response()` yields, then the finished synapse.
        """
        call = _Call(self, target_of(target_axon), synapse, timeout)
        try:
            stream = self._lightning().stream(call.axon, call.name, call.request())
            async with aclosing(_until(stream, call.deadline)) as chunks:
                first = await anext(chunks, b"")
                status = _status_in(first)
                if status is None:
                    # A miner without an axon: its first chunk is the answer's.
                    content, status = _chained(first, chunks), {"status_code": 200}
                else:
                    content = chunks
                fields: dict[str, Any] = {}
                if status.get("status_code") == 200:
                    answer = StreamingAnswer(content, call.headers(status))
                    async with aclosing(synapse.process_streaming_response(answer)) as items:
                        async for item in items:
                            yield item
                    fields = synapse.extract_response_json(answer)
            call.settle({**fields, STATUS: status})
        except Exception as error:  # noqa: BLE001 (a call that fails raises nothing)
            call.fail(error)
        yield synapse.deserialize() if deserialize else synapse

    async def aclose_session(self) -> None:
        """Closes the connections; a later call opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            await client.close()

    def close_session(self, using_new_loop: bool = False) -> None:
        """Closes the connections and blocks until that is done; a later call opens new ones.

        Args:
            using_new_loop: Has no effect.
        """
        if self._client is not None:
            self._loop_thread().run(self.aclose_session())

    async def __aenter__(self) -> Self:
        """Returns the dendrite."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the connections."""
        await self.aclose_session()

    def __repr__(self) -> str:
        """Shows the hotkey."""
        return f"dendrite({self.hotkey})"

    async def _ask(self, calls: "list[_Call]", timeout: float | None) -> None:
        """Sends copies of one synapse at a time; the request is encoded once."""
        if not calls:
            return
        limit = _limit(timeout)
        # A miner may be asked twice, so its answers are told apart by the object it was given as.
        waiting = {id(call.axon): call for call in calls}
        try:
            answers = self._lightning().query_many(
                [call.axon for call in calls],
                calls[0].name,
                calls[0].request(),
                connect_timeout=limit,
                deadline=limit,
                concurrency=len(calls),
            )
        except Exception as error:  # noqa: BLE001 (a call that fails raises nothing)
            if len(calls) > 1:
                # Maybe one address that cannot be used: only its call fails.
                await asyncio.gather(*(self._ask([call], timeout) for call in calls))
            else:
                calls[0].fail(error)
            return
        async with answers:
            async for axon, answer in answers:
                waiting.pop(id(axon)).end(answer)
        for call in waiting.values():
            call.fail(TimeoutError())

    def _lightning(self) -> AsyncLightning:
        with self._lock:
            if self._client is None:
                client = AsyncLightning(**key_arguments(self.wallet))
                # Opens the socket and dials nobody. It does not wait for the network, so that it
                # may block, and loops that race for the first call share one client.
                client._rust_client.initialize_connections([])
                self._client = client
            return self._client

    def _loop_thread(self) -> LoopThread:
        with self._lock:
            if self._thread is None:
                self._thread = LoopThread("btlightning-dendrite")
                weakref.finalize(self, self._thread.stop)
            return self._thread


class _Call:
    """One synapse on its way to one axon and back."""

    def __init__(
        self, dendrite: Dendrite, target: AxonInfo, synapse: Any, timeout: float | None
    ) -> None:
        self._dendrite = dendrite
        self._target = target
        self._synapse = synapse
        self._timeout = timeout
        self._began = time.perf_counter()
        self._nonce = time.time_ns()
        limit = _limit(timeout)
        self.deadline = None if limit is None else asyncio.get_running_loop().time() + limit
        self.name = type(synapse).__name__
        self.axon = {"hotkey": target.hotkey, "ip": target.ip, "port": target.port}
        synapse.__dict__["timeout"] = limit
        set_end(
            synapse,
            "dendrite",
            ip=dendrite.external_ip,
            version=VERSION,
            nonce=self._nonce,
            uuid=dendrite.uuid,
            hotkey=dendrite.hotkey,
        )
        set_end(synapse, "axon", ip=target.ip, port=target.port, hotkey=target.hotkey)

    def request(self) -> dict[str, Any]:
        """Returns the message."""
        entry = call_entry(_limit(self._timeout), self._dendrite.uuid, self._nonce)
        return {**fields_of(self._synapse), CALL: entry}

    def settle(self, data: dict[str, Any]) -> None:
        """Takes over an answer.

        Raises:
            pydantic.ValidationError: When its fields do not fit.
        """
        status = read_entry(data, STATUS)
        code = status.get("status_code", 200)
        if code == 200:
            merge(self._synapse, data)
        message = status.get("status_message") or ("Success" if code == 200 else None)
        for name, value in status.items():
            if name != "timeout":
                setattr(self._synapse.axon, name, value)
        end = self._synapse.dendrite
        self._synapse.axon.status_code = end.status_code = code
        self._synapse.axon.status_message = end.status_message = message
        end.process_time = time.perf_counter() - self._began
        self._remember()

    def end(self, answer: Answer | LightningError) -> None:
        """Takes over an answer, or says why there is none."""
        if isinstance(answer, LightningError):
            self.fail(answer)
            return
        try:
            self.settle(answer.data)
        except Exception as error:  # noqa: BLE001 (a call that fails raises nothing)
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Says in the synapse why there is no answer."""
        code, message = outcome_of(error, self.name, self._target, self._timeout)
        expected = isinstance(error, (LightningError, TimeoutError))
        _log.log(
            logging.DEBUG if expected else logging.ERROR,
            "%s to %s: %d %s (%s)",
            self.name,
            self._target.hotkey,
            code,
            message,
            error,
            exc_info=None if expected else error,
        )
        self._synapse.dendrite.status_code = code
        self._synapse.dendrite.status_message = message
        self._remember()

    def headers(self, status: dict[str, Any]) -> dict[str, str]:
        """Returns the call as the headers that a streaming synapse may look at."""
        entries = {
            "bt_header_axon": {**self._synapse.axon.model_dump(), **status},
            "bt_header_dendrite": self._synapse.dendrite.model_dump(),
        }
        ends = {
            f"{end}_{name}": str(value)
            for end, values in entries.items()
            for name, value in values.items()
            if value is not None
        }
        sizes = {"total_size": "0", "header_size": "0", "computed_body_hash": ""}
        return {"name": self.name, "timeout": str(self._timeout), **sizes, **ends}

    def _remember(self) -> None:
        ends = {"dendrite": self._synapse.dendrite, "axon": self._synapse.axon}
        known = Synapse.model_construct(name=self.name, timeout=self._timeout, **ends)
        self._dendrite.synapse_history.append(known)


async def _until(stream: AsyncIterator[Any], deadline: float | None) -> AsyncGenerator[bytes, None]:
    """Yields a stream's chunks; a chunk that comes after the deadline is a `TimeoutError`."""
    try:
        while True:
            async with asyncio.timeout_at(deadline):
                chunk = await anext(stream, None)
            if chunk is None:
                return
            yield bytes(chunk)
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


def _limit(timeout: float | None) -> float | None:
    return float(timeout) if timeout is not None and timeout > 0 else None


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for chunk in rest:
        yield chunk


def _status_in(chunk: bytes) -> dict[str, Any] | None:
    """Reads the status that an axon sends before the chunks of an answer."""
    # A map of one entry whose key is STATUS, as MessagePack begins it.
    if not chunk.startswith(b"\x81" + bytes([0xA0 | len(STATUS)]) + STATUS.encode()):
        return None
    try:
        return read_entry(decode(chunk), STATUS)
    except LightningError:
        return None
