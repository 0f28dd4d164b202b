"""AsyncLightning and AsyncLightningServer, in every kind of event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from async_miner import link, new_server
from btlightning import (
    Answer,
    AsyncLightning,
    HandlerError,
    LightningConnectionError,
    LightningServer,
    QueryTimeoutError,
    RequestContext,
    StreamError,
)
from btlightning.types import AxonInfo
from keys import MINER, STRANGER, VALIDATOR, Key


@pytest.mark.parametrize("handler", ["echo", "echo_on_thread"])
async def test_an_answer(handler: str) -> None:
    async with link() as (_, client, axon):
        data = {"text": "hello", "bytes": b"\x00\xff", "list": [1, None, 2.5, {"x": True}]}
        answer = await client.query(axon, handler, data)
        assert answer.data == data
        assert answer.latency_ms > 0
        assert (await client.query(axon, handler)).data == {}


@pytest.mark.parametrize("handler", ["echo", "echo_on_thread"])
async def test_a_thousand_queries_at_once(handler: str) -> None:
    async with link() as (_, client, axon):
        queries = [client.query(axon, handler, {"number": number}) for number in range(1000)]
        answers = await asyncio.gather(*queries)
        assert [answer.data["number"] for answer in answers] == list(range(1000))


async def test_an_axon_may_be_given_as_text_and_as_an_object() -> None:
    class Axon:
        def __init__(self, axon: AxonInfo) -> None:
            self.hotkey, self.ip, self.port = axon["hotkey"], axon["ip"], axon["port"]

    async with link() as (_, client, axon):
        text = f"{axon['hotkey']}@{axon['ip']}:{axon['port']}"
        assert (await client.query(text, "echo", {"n": 1})).data == {"n": 1}
        assert (await client.query(Axon(axon), "echo", {"n": 2})).data == {"n": 2}


async def test_a_handler_knows_its_caller() -> None:
    server = new_server()

    @server.synapse("whoami")
    async def whoami(data: dict[str, Any], context: RequestContext) -> dict[str, Any]:
        return {
            "hotkey": context.hotkey,
            "addr": context.remote_addr,
            "type": context.synapse_type,
            "left": context.time_left,
            "cancelled": context.cancelled,
        }

    async with link(server) as (_, client, axon):
        answer = (await client.query(axon, "whoami")).data
        assert answer["hotkey"] == VALIDATOR.hotkey == client.wallet_hotkey
        assert answer["addr"].startswith("127.0.0.1:")
        assert answer["type"] == "whoami"
        assert 0 < answer["left"] <= 30
        assert answer["cancelled"] is False


async def test_a_handler_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    server = new_server()

    @server.synapse("fail")
    async def fail(data: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("a secret of the handler")

    async with link(server) as (_, client, axon):
        with pytest.raises(HandlerError, match="request processing failed") as failed:
            await client.query(axon, "fail")
        assert failed.value.phase == "wait"
        assert failed.value.peer == f"{MINER.hotkey} at 127.0.0.1:{axon['port']}"
        assert not failed.value.retry_safe
        assert "secret" not in str(failed.value)
        with pytest.raises(HandlerError, match="unrecognized synapse type") as unknown:
            await client.query(axon, "nothing")
        assert unknown.value.retry_safe
    assert "a secret of the handler" in caplog.text
    assert "Traceback" in caplog.text


async def test_a_handler_that_blocks_holds_nobody_up() -> None:
    server = new_server()
    released = threading.Event()

    @server.synapse("block")
    def block(data: dict[str, Any]) -> dict[str, Any]:
        assert released.wait(30)
        return {"done": True}

    async with link(server) as (_, client, axon):
        blocked = [asyncio.create_task(client.query(axon, "block")) for _ in range(4)]
        for _ in range(10):
            await client.query(axon, "echo")
        assert not any(task.done() for task in blocked)
        released.set()
        assert [answer.data for answer in await asyncio.gather(*blocked)] == [{"done": True}] * 4


async def test_a_timeout_cancels_the_handler() -> None:
    server = new_server()
    cancelled = asyncio.Event()

    @server.synapse("wait")
    async def wait(data: dict[str, Any]) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return {}

    async with link(server) as (_, client, axon):
        with pytest.raises(QueryTimeoutError) as late:
            await client.query(axon, "wait", timeout=0.2)
        assert isinstance(late.value, TimeoutError)
        assert isinstance(late.value, ConnectionError)
        assert not late.value.retry_safe
        await cancelled.wait()


async def test_cancelling_a_task_cancels_the_handler() -> None:
    server = new_server()
    begun, cancelled = asyncio.Event(), asyncio.Event()

    @server.synapse("wait")
    async def wait(data: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return {}

    async with link(server) as (_, client, axon):
        task = asyncio.create_task(client.query(axon, "wait"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await cancelled.wait()
        # Nothing else is affected.
        assert (await client.query(axon, "echo", {"n": 1})).data == {"n": 1}


async def test_cancelling_a_task_is_seen_by_a_handler_on_a_thread() -> None:
    server = new_server()
    begun, seen = threading.Event(), threading.Event()

    @server.synapse("wait")
    def wait(data: dict[str, Any], context: RequestContext) -> dict[str, Any]:
        begun.set()
        while not context.cancelled:
            threading.Event().wait(0.005)
        seen.set()
        return {}

    async with link(server) as (_, client, axon):
        task = asyncio.create_task(client.query(axon, "wait"))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(seen.wait)


async def test_a_timeout_of_asyncio_works_too() -> None:
    server = new_server()
    cancelled = asyncio.Event()

    @server.synapse("wait")
    async def wait(data: dict[str, Any]) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return {}

    async with link(server) as (_, client, axon):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.query(axon, "wait")
        await cancelled.wait()


@pytest.mark.parametrize("handler", ["count", "count_on_thread"])
async def test_a_stream(handler: str) -> None:
    async with link() as (_, client, axon):
        chunks = [chunk async for chunk in client.stream(axon, handler, {"until": 300})]
        assert chunks == [b"%d" % number for number in range(300)]
        assert [chunk async for chunk in client.stream(axon, handler, {"until": 0})] == []


async def test_a_stream_that_is_left_closes_its_generator() -> None:
    server = new_server()
    closed = asyncio.Event()

    @server.stream("endless")
    async def endless(data: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1000
        finally:
            closed.set()

    async with link(server) as (_, client, axon):
        async for chunk in client.stream(axon, "endless"):
            assert chunk == b"x" * 1000
            break
        await closed.wait()

        closed.clear()
        async with client.stream(axon, "endless") as stream:
            assert await anext(stream) == b"x" * 1000
        await closed.wait()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_cancelling_a_task_closes_the_generator() -> None:
    server = new_server()
    begun, closed = asyncio.Event(), asyncio.Event()

    @server.stream("slow")
    async def slow(data: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            begun.set()
            await asyncio.Event().wait()
            yield b"never"
        finally:
            closed.set()

    async with link(server) as (_, client, axon):
        stream = client.stream(axon, "slow")
        task = asyncio.ensure_future(anext(stream))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await closed.wait()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_stream_that_breaks_off() -> None:
    server = new_server()

    @server.stream("broken")
    async def broken(data: dict[str, Any]) -> AsyncIterator[bytes]:
        yield b"first"
        raise ValueError("a secret of the handler")

    async with link(server) as (_, client, axon):
        stream = client.stream(axon, "broken")
        assert await anext(stream) == b"first"
        with pytest.raises(StreamError, match="stream processing failed"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_many_miners_at_once() -> None:
    servers = [new_server(Key(number)) for number in (11, 12, 13)]
    async with servers[0], servers[1], servers[2], AsyncLightning(seed=VALIDATOR.seed) as client:
        good = [server.axon for server in servers]
        await client.connect(good)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.1", 0))
            axons = [*good, {**good[0], "port": silent.getsockname()[1], "hotkey": Key(14).hotkey}]
            answers = {}
            many = client.query_many(axons, "echo", {"n": 7}, connect_timeout=0.3)
            async for axon, answer in many:
                answers[axons.index(axon)] = answer
        assert sorted(answers) == [0, 1, 2, 3]
        for position in range(3):
            got = answers[position]
            assert isinstance(got, Answer)
            assert got.data == {"n": 7}
        assert isinstance(answers[3], LightningConnectionError)

        wanted = [pair async for pair in client.query_many(good, "echo", {}, wanted=1)]
        assert len(wanted) == 1

        # A miner's word that it failed is an answer of its kind.
        async for _, answer in client.query_many(good, "nothing"):
            assert isinstance(answer, HandlerError)


async def test_leaving_many_miners_cancels_the_rest() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()
    quick, slow = new_server(), new_server(Key(11))

    @slow.synapse("echo")
    async def echo(data: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return {}

    async with quick, slow, AsyncLightning(seed=VALIDATOR.seed) as client:
        await client.connect([quick.axon, slow.axon])
        async for axon, _ in client.query_many([slow.axon, quick.axon], "echo"):
            assert axon == quick.axon
            await begun.wait()
            break
        await cancelled.wait()


async def test_a_stranger_is_refused() -> None:
    def permitted() -> list[str]:
        return [VALIDATOR.hotkey]

    server = new_server(require_validator_permit=True)
    server.set_validator_permit_resolver(permitted)
    async with link(server) as (_, client, axon):
        assert (await client.query(axon, "echo", {"n": 1})).data == {"n": 1}
        async with AsyncLightning(seed=STRANGER.seed) as stranger:
            await stranger.connect([axon])
            with pytest.raises(LightningConnectionError) as refused:
                await stranger.query(axon, "echo")
            assert refused.value.retry_safe


async def test_values_come_without_a_copy_if_wanted() -> None:
    server = new_server()
    kinds: list[str] = []

    @server.synapse("sizes", buffers=True)
    async def sizes(data: dict[str, Any]) -> dict[str, Any]:
        kinds.append(type(data["blob"]).__name__)
        return {"size": len(data["blob"]), "blob": data["blob"]}

    async with link(server) as (_, client, axon):
        blob = bytes(range(256)) * 1000
        answer = await client.query(axon, "sizes", {"blob": memoryview(blob)}, buffers=True)
        assert kinds == ["Buffer"]
        assert answer.data["size"] == len(blob)
        assert memoryview(answer.data["blob"]) == blob
        assert isinstance((await client.query(axon, "sizes", {"blob": blob})).data["blob"], bytes)


def test_async_handlers_need_an_asynchronous_server() -> None:
    server = LightningServer(seed=MINER.seed, host="127.0.0.1", port=0)

    async def echo(data: dict[str, Any]) -> dict[str, Any]:
        return data

    async def chunks(data: dict[str, Any]) -> AsyncIterator[bytes]:
        yield b""

    with pytest.raises(TypeError, match="use AsyncLightningServer"):
        server.synapse("echo")(echo)
    with pytest.raises(TypeError, match="use AsyncLightningServer"):
        server.register_synapse_handler("echo", echo)
    with pytest.raises(TypeError, match="use AsyncLightningServer"):
        server.register_streaming_handler("chunks", chunks)
