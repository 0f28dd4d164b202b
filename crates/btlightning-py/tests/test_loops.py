"""How clients, servers and event loops begin and end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from async_miner import link, new_server
from btlightning import (
    Answer,
    AsyncLightning,
    AsyncLightningServer,
    HandlerError,
    LightningConnectionError,
)
from keys import VALIDATOR


async def test_closing_ends_queries_that_are_awaited() -> None:
    server = new_server()
    begun = asyncio.Event()

    @server.synapse("wait")
    async def wait(data: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        await asyncio.Event().wait()
        return {}

    async with link(server) as (_, client, axon):
        task = asyncio.create_task(client.query(axon, "wait"))
        await begun.wait()
        await client.close()
        with pytest.raises(LightningConnectionError):
            await task
        await client.close()


async def test_shutdown_lets_requests_finish() -> None:
    server = new_server()
    begun, release = asyncio.Event(), asyncio.Event()

    @server.synapse("wait")
    async def wait(data: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        await release.wait()
        return {"finished": True}

    async with link(server) as (_, client, axon):
        task = asyncio.create_task(client.query(axon, "wait"))
        await begun.wait()
        ending = asyncio.create_task(server.shutdown(grace=30.0))
        await asyncio.sleep(0)
        release.set()
        assert await ending == 0
        assert (await task).data == {"finished": True}
        assert await server.shutdown() == 0


async def test_shutdown_cuts_off_what_takes_too_long() -> None:
    server = new_server()
    begun, cancelled = asyncio.Event(), asyncio.Event()

    @server.synapse("wait")
    async def wait(data: dict[str, Any]) -> dict[str, Any]:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return {}

    async with link(server) as (_, client, axon):
        task = asyncio.create_task(client.query(axon, "wait"))
        await begun.wait()
        assert await server.shutdown(grace=0.0) == 1
        with pytest.raises((LightningConnectionError, HandlerError)):
            await task
        await cancelled.wait()


async def test_serve_forever_ends_with_shutdown() -> None:
    server = new_server()
    async with server:
        serving = asyncio.create_task(server.serve_forever())
        async with AsyncLightning(seed=VALIDATOR.seed) as client:
            await client.connect([server.axon])
            assert (await client.query(server.axon, "echo", {"n": 1})).data == {"n": 1}
        assert not serving.done()
        await server.shutdown()
        await serving


async def test_cancelling_serve_forever_shuts_down() -> None:
    server = new_server()
    await server.start()
    axon = server.axon
    serving = asyncio.create_task(server.serve_forever())
    async with AsyncLightning(seed=VALIDATOR.seed, connect_timeout_secs=1) as client:
        await client.connect([axon])
        await client.query(axon, "echo")
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        with pytest.raises(LightningConnectionError):
            await client.query(axon, "echo", timeout=1.0)


async def test_a_server_is_started_again() -> None:
    server = new_server()
    for _ in range(2):
        async with link(server) as (_, client, axon):
            assert (await client.query(axon, "echo", {"n": 1})).data == {"n": 1}
            with pytest.raises(RuntimeError, match="running already"):
                await server.start()


async def test_a_client_is_used_from_two_loops(miner: Any) -> None:
    client = AsyncLightning(seed=VALIDATOR.seed)
    await client.connect([miner.axon])

    def elsewhere() -> list[Answer]:
        async def ask() -> list[Answer]:
            return await asyncio.gather(
                *(client.query(miner.axon, "echo", {"n": n}) for n in range(50))
            )

        return asyncio.run(ask())

    threads = [asyncio.to_thread(elsewhere) for _ in range(3)]
    here = asyncio.gather(*(client.query(miner.axon, "echo", {"n": n}) for n in range(50)))
    for answers in (*await asyncio.gather(*threads), await here):
        assert [answer.data["n"] for answer in answers] == list(range(50))
    await client.close()


def test_a_server_belongs_to_its_loop() -> None:
    async def start(server: AsyncLightningServer) -> None:
        await server.start()

    server = new_server()
    with asyncio.Runner() as first:
        first.run(start(server))
        with asyncio.Runner() as second, pytest.raises(RuntimeError, match="this event loop"):
            second.run(server.shutdown())
        first.run(server.shutdown())


NEW_LOOPS = ["asyncio.new_event_loop", "__import__('uvloop').new_event_loop"]
WAYS_TO_END = {
    "the loop is closed with work in flight": """
        loop = new_loop()
        loop.run_until_complete(begin())
        query = loop.create_task(client.query(server.axon, "wait"))
        loop.run_until_complete(begun.wait())
        query.cancel()
        loop.run_until_complete(asyncio.gather(query, return_exceptions=True))
        operation = client._rust_client.query_async(
            client._entered[1], server.axon, "wait", {}
        )
        loop.close()
    """,
    "asyncio.run ends with work in flight": """
        async def main():
            await begin()
            query = asyncio.create_task(client.query(server.axon, "wait"))
            await begun.wait()

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
    """,
    "the client and the server are forgotten": """
        async def main():
            global client, server
            await begin()
            query = asyncio.create_task(client.query(server.axon, "wait"))
            await begun.wait()
            del client, server

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
        gc.collect()
    """,
    "the interpreter exits with work in flight": """
        async def main():
            await begin()
            query = asyncio.create_task(client.query(server.axon, "wait"))
            await begun.wait()
            for stream in threading.enumerate():
                assert stream is threading.main_thread(), stream
            sys.stdout.write("ended\\n")
            sys.stdout.flush()
            sys.exit(0)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(main())
    """,
}


@pytest.mark.parametrize("new_loop", NEW_LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("way", WAYS_TO_END)
def test_nothing_is_left_when(way: str, new_loop: str) -> None:
    """No thread of Python, no warning, no message, exit code 0, in development mode."""
    program = f"""
import asyncio, gc, sys, threading, warnings
import btlightning

server = btlightning.AsyncLightningServer(None, "127.0.0.1", 0, seed=bytes([1]) * 32)
client = btlightning.AsyncLightning(seed=bytes([2]) * 32)
new_loop = {new_loop}
begun = asyncio.Event()

@server.synapse("wait")
async def wait(data: dict) -> dict:
    begun.set()
    await asyncio.Event().wait()

async def begin():
    await server.start()
    await client.connect([server.axon])

{textwrap.dedent(WAYS_TO_END[way])}
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
gc.collect()
print("ended")
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
