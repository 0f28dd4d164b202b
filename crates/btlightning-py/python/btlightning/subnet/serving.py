"""What an axon does with a request, from the message to the message."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ValidationError

from btlightning import AsyncLightningServer, RequestContext
from btlightning._native import encode
from btlightning.subnet.priority import PriorityGate, QueueFullError
from btlightning.subnet.route import Refusal, Route, called
from btlightning.subnet.streaming import chunks_of
from btlightning.subnet.wire import (
    CALL,
    STATUS,
    VERSION,
    build,
    fields_of,
    is_synapse_class,
    read_entry,
    set_end,
)

if TYPE_CHECKING:
    from btlightning.subnet.axon import Axon

MAX_COROUTINES: Final = 256
"""Forward functions on the event loop, streams among them, that run at a time."""

FAULTS_TOLD: Final = 3
"""Faults of a request that its sender is told."""

_log = logging.getLogger("btlightning.subnet")


class Serving:
    """The routes of one axon, its queues and its threads."""

    def __init__(self, axon: "Axon") -> None:
        """Serves nothing yet."""
        self._axon = axon
        self._routes: dict[str, Route] = {}
        self.open()

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes as they are now."""
        return tuple(self._routes.values())

    def add(self, route: Route) -> bool:
        """Adds or replaces a route; returns whether its name is new."""
        known = self._routes.get(route.name)
        if known is not None and known.streaming != route.streaming:
            raise ValueError(f"{route.name} is served already, and not in the same way")
        self._routes[route.name] = route
        return known is None

    def open(self) -> None:
        """Makes threads and queues, which start with nothing in them."""
        workers = self._axon.max_workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="btlightning-forward")
        self._thread_gate = PriorityGate(workers)
        self._loop_gate = PriorityGate(MAX_COROUTINES)

    def close(self) -> None:
        """Lets the threads end when they have done what they are at."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def register(self, server: AsyncLightningServer, routes: Iterable[Route]) -> None:
        """Has the server hand on the requests for these routes."""
        for route in routes:
            if route.streaming:
                server.register_streaming_handler(route.name, self._streamer(route.name))
            else:
                server.register_synapse_handler(route.name, self._answerer(route.name))

    def _answerer(self, name: str) -> Callable[..., Awaitable[dict[str, Any]]]:
        async def answer(data: dict[str, Any], context: RequestContext) -> dict[str, Any]:
            return await self._answer(self._routes[name], data, context)

        return answer

    def _streamer(self, name: str) -> Callable[..., AsyncIterator[bytes]]:
        async def stream(data: dict[str, Any], context: RequestContext) -> AsyncIterator[bytes]:
            async with aclosing(self._stream(self._routes[name], data, context)) as chunks:
                async for chunk in chunks:
                    yield chunk

        return stream

    async def _answer(
        self, route: Route, data: Mapping[str, Any], context: RequestContext
    ) -> dict[str, Any]:
        began, nonce = time.perf_counter(), time.time_ns()
        fields: dict[str, Any] = {}
        code, message = 200, ""
        try:
            synapse = self._receive(route, data, context)
            weight = await route.admit(synapse)
            answer = await self._forward(route, synapse, weight)
            if answer is None:
                answer = synapse
            elif not is_synapse_class(type(answer)):
                raise TypeError(f"forward_fn returned {type(answer).__name__}, not a synapse")
            code, message = _outcome(answer)
            if code == 200:
                fields = fields_of(answer)
        except Exception as error:  # noqa: BLE001 (the caller is told a status, whatever it is)
            fields, (code, message) = {}, _failure(route, context, error)
        status = self._status(code, message, nonce, time.perf_counter() - began)
        return {**fields, STATUS: status}

    async def _stream(
        self, route: Route, data: Mapping[str, Any], context: RequestContext
    ) -> AsyncGenerator[bytes, None]:
        began, nonce = time.perf_counter(), time.time_ns()
        try:
            synapse = self._receive(route, data, context)
            weight = await route.admit(synapse)
            reply = await self._forward(route, synapse, weight)
            token_streamer = getattr(reply, "token_streamer", None)
            if token_streamer is None:
                raise TypeError(f"forward_fn returned {type(reply).__name__}, not a stream")
            await self._enter(self._loop_gate, weight)
        except Exception as error:
            code, message = _failure(route, context, error)
            if CALL not in data:
                # A plain client of btlightning expects chunks of the answer and nothing else.
                raise
            status = self._status(code, message, nonce, time.perf_counter() - began)
            yield encode({STATUS: status})
            return
        try:
            if CALL in data:
                status = self._status(200, "Success", nonce, time.perf_counter() - began)
                yield encode({STATUS: status})
            async with aclosing(chunks_of(token_streamer)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self._loop_gate.leave()

    def _receive(self, route: Route, data: Mapping[str, Any], context: RequestContext) -> BaseModel:
        try:
            synapse: BaseModel = build(route.synapse_class, data)
        except ValidationError as error:
            raise Refusal(
                422, f"the request does not fit {route.name}: {_faults(error)}"
            ) from error
        said = read_entry(data, CALL)
        ip, _, port = context.remote_addr.rpartition(":")
        set_end(
            synapse,
            "dendrite",
            ip=ip.strip("[]"),
            port=int(port),
            hotkey=context.hotkey,
            version=said.get("version"),
            nonce=said.get("nonce"),
            uuid=said.get("uuid"),
        )
        axon = self._axon
        set_end(
            synapse,
            "axon",
            ip=axon.external_ip or axon.ip,
            port=axon.external_port,
            hotkey=axon.hotkey,
            version=VERSION,
            nonce=time.time_ns(),
            uuid=axon.uuid,
        )
        if "timeout" in said:
            synapse.__dict__["timeout"] = float(said["timeout"])
        return synapse

    async def _enter(self, gate: PriorityGate, weight: float) -> None:
        try:
            await gate.enter(weight)
        except QueueFullError as error:
            raise Refusal(503, "Service unavailable: too many requests are waiting") from error

    async def _forward(self, route: Route, synapse: BaseModel, weight: float) -> Any:
        if route.runs_on_loop:
            await self._enter(self._loop_gate, weight)
            try:
                return await called(route.forward, synapse)
            finally:
                self._loop_gate.leave()
        loop = asyncio.get_running_loop()
        await self._enter(self._thread_gate, weight)

        def ended(_: Future[Any]) -> None:
            # A thread cannot be stopped: its turn ends with it, not with the request.
            try:
                loop.call_soon_threadsafe(self._thread_gate.leave)
            except RuntimeError:
                _log.debug("a forward function outlived its axon")

        try:
            work = self._threads.submit(route.forward, synapse)
        except RuntimeError as error:
            raise Refusal(503, "Service unavailable: the axon is stopping") from error
        work.add_done_callback(ended)
        result = await asyncio.wrap_future(work)
        # A plain function may return a coroutine, as a lambda around a coroutine function does.
        return await result if asyncio.iscoroutine(result) else result

    def _status(self, code: int, message: str, nonce: int, seconds: float) -> dict[str, Any]:
        return {
            "status_code": code,
            "status_message": message,
            "process_time": seconds,
            "version": VERSION,
            "nonce": nonce,
            "uuid": self._axon.uuid,
        }


def _outcome(answer: Any) -> tuple[int, str]:
    """The status that the forward function has set, else success."""
    end = answer.axon
    code = (end.status_code if end is not None else None) or 200
    message = end.status_message if end is not None else None
    return code, message or ("Success" if code == 200 else "")


def _failure(route: Route, context: RequestContext, error: Exception) -> tuple[int, str]:
    if isinstance(error, Refusal):
        _log.debug("%s from %s: %d %s", route.name, context.hotkey, error.code, error.message)
        return error.code, error.message
    name = uuid.uuid4()
    _log.error("%s from %s failed (#%s)", route.name, context.hotkey, name, exc_info=error)
    # What went wrong inside is not the caller's to know; the number finds it in the log.
    return 500, f"Internal Server Error #{name}"


def _faults(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    told = (f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults[:FAULTS_TOLD])
    return "; ".join(told)
