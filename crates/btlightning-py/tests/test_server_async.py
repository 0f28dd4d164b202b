"""The compiled server: handlers on an asyncio loop."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from btlightning._native import (
    HandlerError,
    LightningConfigError,
    LoopBridge,
    Operation,
    RequestContext,
    StreamError,
)
from native import VALIDATOR, connected, connected_on, make_server, serving, serving_on


@pytest.fixture
async def bridge() -> AsyncIterator[LoopBridge]:
    loop = asyncio.get_running_loop()
    bridge = LoopBridge(loop)
    loop.add_reader(bridge.fileno(), bridge.drain)
    yield bridge
    loop.remove_reader(bridge.fileno())
    bridge.close()


async def chunks_of(stream: Any, bridge: LoopBridge) -> list[bytes]:
    chunks = []
    while (chunk := await stream.next_async(bridge).future) is not None:
        chunks.append(chunk)
    return chunks


class TestCoroutines:
    async def test_answer_and_context(self, bridge: LoopBridge) -> None:
        thread = threading.get_ident()

        async def handler(data: dict[str, Any], context: RequestContext) -> dict[str, Any]:
            await asyncio.sleep(0)
            assert threading.get_ident() == thread
            return {"n": data["n"] + 1, "hotkey": context.hotkey}

        server = make_server()
        server.register_async_handler(bridge, "next", handler, context=True)
        async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
            answers = await asyncio.gather(
                *(client.query_async(bridge, axon, "next", {"n": n}).future for n in range(300))
            )
        assert [a["data"]["n"] for a in answers] == list(range(1, 301))
        assert answers[0]["data"]["hotkey"] == VALIDATOR

    async def test_exceptions(self, bridge: LoopBridge, caplog: pytest.LogCaptureFixture) -> None:
        async def raising(data: dict[str, Any]) -> dict[str, Any]:
            await asyncio.sleep(0)
            raise ValueError("the secret")

        async def odd(data: dict[str, Any]) -> Any:
            return 7

        def early(data: dict[str, Any]) -> Any:
            raise ValueError("the secret")

        server = make_server()
        server.register_async_handler(bridge, "raising", raising)
        server.register_async_handler(bridge, "odd", odd)
        server.register_async_handler(bridge, "early", early)
        server.register_async_handler(bridge, "not", lambda data: 7)  # type: ignore[arg-type,return-value]
        async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
            for name in ["raising", "odd", "early", "not"]:
                with pytest.raises(HandlerError) as raised:
                    await client.query_async(bridge, axon, name).future
                assert "secret" not in str(raised.value)
        subjects = [r.getMessage() for r in caplog.records if r.name == "btlightning"]
        names = ["raising", "odd", "early", "not"]
        assert subjects == [f"the handler of {name!r} failed" for name in names]

    async def test_a_future_in_place_of_a_coroutine(self, bridge: LoopBridge) -> None:
        def handler(data: dict[str, Any]) -> asyncio.Future[dict[str, Any]]:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(future.set_result, {"n": 1})
            return future

        server = make_server()
        server.register_async_handler(bridge, "f", handler)
        async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
            answer = await client.query_async(bridge, axon, "f").future
        assert answer["data"] == {"n": 1}

    async def test_a_caller_that_gives_up_cancels_the_task(self, bridge: LoopBridge) -> None:
        began, ended = asyncio.Event(), asyncio.Event()
        cancelled = []

        async def handler(data: dict[str, Any], context: RequestContext) -> dict[str, Any]:
            began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                await asyncio.sleep(0.01)
                cancelled.append(context.cancelled)
                raise
            finally:
                ended.set()
            return {}

        server = make_server()
        server.register_async_handler(bridge, "wait", handler, context=True)
        async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
            query: Operation = client.query_async(bridge, axon, "wait")
            await began.wait()
            query.cancel()
            await ended.wait()
        assert cancelled == [True]

    async def test_the_deadline_cancels_the_task(self, bridge: LoopBridge) -> None:
        ended = asyncio.Event()

        async def handler(data: dict[str, Any]) -> dict[str, Any]:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return {}

        server = make_server(handler_timeout_secs=1)
        server.register_async_handler(bridge, "wait", handler)
        async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
            with pytest.raises(HandlerError, match="timed out"):
                await client.query_async(bridge, axon, "wait").future
            await ended.wait()

    async def test_a_cancelled_task_fails_the_request(
        self, bridge: LoopBridge, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(data: dict[str, Any]) -> dict[str, Any]:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(10)
            return {}

        server = make_server()
        server.register_async_handler(bridge, "self", handler)
        async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
            with pytest.raises(HandlerError):
                await client.query_async(bridge, axon, "self").future
        assert not [r for r in caplog.records if r.name == "btlightning"]

    async def test_a_closed_bridge_fails_the_request(self, bridge: LoopBridge) -> None:
        async def handler(data: dict[str, Any]) -> dict[str, Any]:
            return {}

        other = LoopBridge(asyncio.get_running_loop())
        other.close()
        server = make_server()
        server.register_async_handler(other, "closed", handler)
        async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
            with pytest.raises(HandlerError):
                await client.query_async(bridge, axon, "closed").future


class TestAsyncGenerators:
    async def test_chunks_and_backpressure(self, bridge: LoopBridge) -> None:
        size, total = 1 << 20, 400
        produced = 0

        async def handler(data: dict[str, Any]) -> AsyncIterator[bytes]:
            nonlocal produced
            for n in range(total):
                produced += 1
                yield n.to_bytes(4, "big") + bytes(size)

        server = make_server()
        server.register_async_stream(bridge, "s", handler)
        async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
            stream = await client.stream_async(bridge, axon, "s").future
            first = await stream.next_async(bridge).future
            count = -1
            while count != produced:
                count = produced
                await asyncio.sleep(0.2)
            assert produced < total / 2
            chunks = [first, *await chunks_of(stream, bridge)]
        assert [int.from_bytes(c[:4], "big") for c in chunks] == list(range(total))

    async def test_a_coroutine_that_returns_a_generator(self, bridge: LoopBridge) -> None:
        async def generate() -> AsyncIterator[bytes]:
            yield b"one"

        async def handler(data: dict[str, Any]) -> AsyncIterator[bytes]:
            return generate()

        server = make_server()
        server.register_async_stream(bridge, "s", handler)
        async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
            stream = await client.stream_async(bridge, axon, "s").future
            assert await chunks_of(stream, bridge) == [b"one"]

    async def test_an_exception_comes_behind_the_chunks(
        self, bridge: LoopBridge, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def handler(data: dict[str, Any]) -> AsyncIterator[bytes]:
            yield b"first"
            raise ValueError("the secret")

        server = make_server()
        server.register_async_stream(bridge, "s", handler)
        async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
            stream = await client.stream_async(bridge, axon, "s").future
            assert await stream.next_async(bridge).future == b"first"
            with pytest.raises(StreamError) as raised:
                await stream.next_async(bridge).future
        assert "secret" not in str(raised.value)
        assert any(r.name == "btlightning" and r.exc_info for r in caplog.records)

    @pytest.mark.parametrize("flood", [True, False])
    async def test_a_caller_that_gives_up_runs_the_finally_blocks(
        self, bridge: LoopBridge, flood: bool
    ) -> None:
        closed = asyncio.Event()

        async def handler(data: dict[str, Any]) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(65_536)
                    if not flood:
                        await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                closed.set()

        server = make_server()
        server.register_async_stream(bridge, "s", handler)
        async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
            stream = await client.stream_async(bridge, axon, "s").future
            await stream.next_async(bridge).future
            stream.close()
            await closed.wait()


async def test_shutdown_tells_how_many_were_cut_off(bridge: LoopBridge) -> None:
    began = asyncio.Event()

    async def handler(data: dict[str, Any]) -> dict[str, Any]:
        began.set()
        await asyncio.Event().wait()
        return {}

    server = make_server()
    server.register_async_handler(bridge, "wait", handler)
    async with serving_on(server, bridge) as axon, connected_on(bridge, axon) as client:
        query = client.query_async(bridge, axon, "wait")
        await began.wait()
        # The handler may begin before the server counts its request.
        while server.stats()["requests_in_flight"] == 0:
            await asyncio.sleep(0.001)
        with pytest.raises(LightningConfigError, match="grace"):
            server.shutdown_async(bridge, -1.0)
        assert await server.shutdown_async(bridge, 0.0).future == 1
        with pytest.raises(ConnectionError):
            await query.future


async def test_async_handlers_on_a_loop_in_another_thread() -> None:
    """The server's loop need not be the one that started it."""
    ready = threading.Event()
    loops: list[tuple[asyncio.AbstractEventLoop, LoopBridge]] = []

    async def keep() -> None:
        loop = asyncio.get_running_loop()
        bridge = LoopBridge(loop)
        loop.add_reader(bridge.fileno(), bridge.drain)
        stop = asyncio.Event()
        loops.append((loop, bridge))
        loop.stop_event = stop  # type: ignore[attr-defined]
        ready.set()
        await stop.wait()
        loop.remove_reader(bridge.fileno())
        bridge.close()

    thread = threading.Thread(target=asyncio.run, args=(keep(),))
    thread.start()
    ready.wait()
    loop, bridge = loops[0]

    async def handler(data: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"thread": threading.get_ident()}

    server = make_server()
    server.register_async_handler(bridge, "where", handler)
    with serving(server) as axon, connected(axon) as client:
        assert client.query(axon, "where")["data"] == {"thread": thread.ident}
    loop.call_soon_threadsafe(loop.stop_event.set)  # type: ignore[attr-defined]
    thread.join()
