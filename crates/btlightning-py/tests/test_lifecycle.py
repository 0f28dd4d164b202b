"""How processes, threads and event loops end: each case is a script in an interpreter of its own.

A script ends with status 0 and nothing on stderr, warnings included, or the test fails.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LIMIT_SECS = 50

# What the scripts begin with.
PRELUDE = """
import asyncio, gc, os, signal, sys, threading
from keys import MINER, VALIDATOR
from btlightning import AsyncLightning, AsyncLightningServer, Lightning, LightningServer

never = threading.Event()
arrived = threading.Event()

def wait_for_ever(data):
    arrived.set()
    never.wait()
    return data

def chunks(data):
    while True:
        arrived.set()
        yield bytes(1000)

def make_server():
    server = LightningServer(MINER.hotkey, "127.0.0.1", 0, seed=MINER.seed)
    server.register_synapse_handler("echo", lambda data: data)
    server.register_synapse_handler("wait", wait_for_ever)
    server.register_streaming_handler("chunks", chunks)
    return server

def serve():
    server = make_server()
    server.start()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server

def make_client(axon):
    client = Lightning(VALIDATOR.hotkey, seed=VALIDATOR.seed)
    client.connect([axon])
    return client

def in_thread(call, *arguments):
    thread = threading.Thread(target=call, args=arguments, daemon=True)
    thread.start()
    return thread

def run(main, loops):
    if loops == "uvloop":
        import uvloop
        return uvloop.run(main)
    return asyncio.run(main)
"""


def interpreter(script: str, *flags: str) -> subprocess.Popen[str]:
    """Starts a script with warnings as errors, in the folder of the tests."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "faulthandler", *flags, "-c", _source(script)],
        cwd=TESTS,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """Waits for the end of a script, checks it, and returns what it printed."""
    try:
        output, errors = process.communicate(timeout=LIMIT_SECS)
    except subprocess.TimeoutExpired:
        # Its stacks, by faulthandler.
        process.send_signal(signal.SIGABRT)
        _, errors = process.communicate()
        pytest.fail(f"the script hangs:\n{errors}")
    assert (process.returncode, errors) == (status, ""), output
    return output


def run(script: str, *flags: str) -> str:
    """Runs a script to its end and returns what it printed."""
    return finish(interpreter(script, *flags))


def _source(script: str) -> str:
    return PRELUDE + textwrap.dedent(script)


EXITS = {
    "a query": """
        server = serve()
        client = make_client(server.axon)
        in_thread(client.query, server.axon, "wait")
        arrived.wait()
    """,
    "many queries": """
        server = serve()
        client = make_client(server.axon)
        for _ in range(32):
            in_thread(client.query, server.axon, "wait")
        arrived.wait()
    """,
    "queries one after the other": """
        server = serve()
        client = make_client(server.axon)
        def ask():
            while True:
                client.query(server.axon, "echo", {"content": bytes(1000)})
                arrived.set()
        for _ in range(4):
            in_thread(ask)
        arrived.wait()
    """,
    "a stream that is read": """
        server = serve()
        client = make_client(server.axon)
        def read():
            for _ in client.stream(server.axon, "chunks"):
                pass
        in_thread(read)
        arrived.wait()
    """,
    "a stream half read": """
        server = serve()
        client = make_client(server.axon)
        stream = client.stream(server.axon, "chunks")
        next(stream)
    """,
    "answers of query_many": """
        server = serve()
        client = make_client(server.axon)
        answers = client.query_many([server.axon] * 8, "wait")
        in_thread(next, answers)
        arrived.wait()
    """,
    "a dial": """
        import socket
        hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        hole.bind(("127.0.0.1", 0))
        axon = {"hotkey": MINER.hotkey, "ip": "127.0.0.1", "port": hole.getsockname()[1]}
        client = Lightning(VALIDATOR.hotkey, seed=VALIDATOR.seed)
        in_thread(client.connect, [axon])
        hole.recv(2000)
        hole.close()
    """,
    "an asyncio query in a thread": """
        server = serve()
        async def ask():
            client = AsyncLightning(VALIDATOR.hotkey, seed=VALIDATOR.seed)
            await client.connect([server.axon])
            await client.query(server.axon, "wait")
        in_thread(asyncio.run, ask())
        arrived.wait()
    """,
    "an asyncio server in a thread": """
        ready = threading.Event()
        async def work(data):
            arrived.set()
            await asyncio.sleep(3600)
        async def main():
            async with AsyncLightningServer(MINER.hotkey, "127.0.0.1", 0, seed=MINER.seed) as server:
                server.register_synapse_handler("work", work)
                global axon
                axon = server.axon
                ready.set()
                await asyncio.sleep(3600)
        in_thread(asyncio.run, main())
        ready.wait()
        client = make_client(axon)
        in_thread(client.query, axon, "work")
        arrived.wait()
    """,
}


@pytest.mark.parametrize("work", EXITS)
def test_the_interpreter_exits_with_work_in_flight(work: str) -> None:
    run(EXITS[work])


@pytest.mark.parametrize("loops", ["asyncio", "uvloop"])
def test_a_loop_closes_with_work_in_flight(loops: str) -> None:
    """Cancelled tasks, an unclosed client and an unclosed server leave nothing behind."""
    printed = run(
        f"""
        async def wait(data):
            await asyncio.sleep(3600)

        async def main():
            server = AsyncLightningServer(MINER.hotkey, "127.0.0.1", 0, seed=MINER.seed)
            server.register_synapse_handler("wait", wait)
            await server.start()
            serving = asyncio.create_task(server.serve_forever())
            client = AsyncLightning(VALIDATOR.hotkey, seed=VALIDATOR.seed)
            await client.connect([server.axon])
            tasks = [
                asyncio.create_task(client.query(server.axon, "wait")) for _ in range(8)
            ]
            await asyncio.sleep(0)
            print("leaving")

        for _ in range(3):
            run(main(), {loops!r})
            gc.collect()
        """,
        "-X",
        "dev",
    )
    assert printed == "leaving\n" * 3


def test_what_is_dropped_without_being_closed_is_silent() -> None:
    run(
        """
        for _ in range(3):
            server = serve()
            client = make_client(server.axon)
            client.query(server.axon, "echo")
            stream = client.stream(server.axon, "chunks")
            next(stream)
            del stream, client
            server.stop()
            del server
            gc.collect()
        """,
        "-X",
        "dev",
    )


def test_what_is_dropped_is_freed() -> None:
    printed = run(
        """
        import weakref

        server = serve()
        client = make_client(server.axon)
        client.query(server.axon, "echo")
        client.close()
        gone = weakref.ref(client)
        del client
        gc.collect()
        print(gone())
        """
    )
    assert printed == "None\n"


def test_the_number_of_threads_does_not_grow() -> None:
    """The I/O threads are those of the process; a client or server more adds none that stay."""
    printed = run(
        """
        def count():
            return len(os.listdir("/proc/self/task"))

        def once():
            server = make_server()
            with server:
                with Lightning(VALIDATOR.hotkey, seed=VALIDATOR.seed) as client:
                    client.connect([server.axon])
                    client.query(server.axon, "echo")
                    next(client.stream(server.axon, "chunks"))

        async def twin():
            server = AsyncLightningServer(MINER.hotkey, "127.0.0.1", 0, seed=MINER.seed)
            async def echo(data):
                return data
            server.register_synapse_handler("echo", echo)
            async with server:
                async with AsyncLightning(VALIDATOR.hotkey, seed=VALIDATOR.seed) as client:
                    await client.connect([server.axon])
                    await client.query(server.axon, "echo")

        for _ in range(5):
            once()
            asyncio.run(twin())
        before = count()
        for _ in range(20):
            once()
            asyncio.run(twin())
        print(count() - before)
        """
    )
    # Handlers share a pool that grows to what was needed at the same time.
    assert int(printed) <= 2


FORKED = """
import warnings
# CPython 3.12 and later say themselves that forking with threads is dangerous.
warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)

def in_child(call):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            call()
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status == 0, status

def refused(call, *arguments):
    try:
        call(*arguments)
    except RuntimeError as error:
        print(type(error).__name__, error, sep=": ")
"""
REFUSAL = (
    "RuntimeError: btlightning cannot be used in a forked child of a process that used it; "
    "use the spawn start method\n"
)


def test_a_forked_child_is_refused_and_the_parent_goes_on() -> None:
    printed = run(
        FORKED
        + textwrap.dedent(
            """
            server = serve()
            client = make_client(server.axon)
            client.query(server.axon, "echo")
            stream = client.stream(server.axon, "chunks")
            next(stream)

            async def ask():
                other = AsyncLightning(VALIDATOR.hotkey, seed=VALIDATOR.seed)
                await other.connect([server.axon])

            def child():
                refused(client.query, server.axon, "echo")
                refused(client.query_axon, server.axon, {"synapse_type": "echo"})
                refused(client.connect, [server.axon])
                refused(next, stream)
                refused(lambda: serve())
                refused(lambda: asyncio.run(ask()))

            in_child(child)
            assert client.query(server.axon, "echo", {"n": 1}).data == {"n": 1}
            next(stream)
            """
        )
    )
    assert printed == REFUSAL * 6


def test_a_forked_child_exits_as_usual() -> None:
    """Its interpreter ends in full, with the parent's clients and servers in its memory."""
    printed = run(
        FORKED
        + textwrap.dedent(
            """
            server = serve()
            client = make_client(server.axon)
            client.query(server.axon, "echo")
            stream = client.stream(server.axon, "chunks")
            child = os.fork()
            if child == 0:
                del stream, client
                gc.collect()
                print("child ends", flush=True)
                sys.exit(0)
            _, status = os.waitpid(child, 0)
            assert status == 0, status
            assert client.query(server.axon, "echo", {"n": 1}).data == {"n": 1}
            """
        )
    )
    assert printed == "child ends\n"


def test_a_child_forked_before_the_first_use_works() -> None:
    printed = run(
        FORKED
        + textwrap.dedent(
            """
            def child():
                server = serve()
                print(make_client(server.axon).query(server.axon, "echo", {"n": 1}).data)

            in_child(child)
            child()
            """
        )
    )
    assert printed == "{'n': 1}\n" * 2


def test_a_spawned_child_works(tmp_path: Path) -> None:
    # A file, since a spawned child imports the main module again.
    script = tmp_path / "script.py"
    script.write_text(
        _source(
            """
            import multiprocessing

            def ask(axon):
                return make_client(axon).query(axon, "echo", {"n": 1}).data

            if __name__ == "__main__":
                server = serve()
                assert ask(server.axon) == {"n": 1}
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    print(pool.apply(ask, (server.axon,)))
            """
        )
    )
    completed = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        check=False,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECS,
    )
    assert (completed.returncode, completed.stderr) == (0, "")
    assert completed.stdout == "{'n': 1}\n"


# Each prints "ready" when it blocks, and is interrupted then.
INTERRUPTED = {
    "serve_forever": """
        server = make_server()
        server.start()
        def ask():
            # Answered by serve_forever, so the main thread is in it.
            client = make_client(server.axon)
            client.query(server.axon, "echo")
            print("ready", flush=True)
        in_thread(ask)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("interrupted")
        server.stop()
    """,
    "a query": """
        server = serve()
        client = make_client(server.axon)
        def tell():
            arrived.wait()
            print("ready", flush=True)
        in_thread(tell)
        try:
            client.query(server.axon, "wait")
        except KeyboardInterrupt:
            print("interrupted")
        never.set()
        assert client.query(server.axon, "echo", {"n": 1}).data == {"n": 1}
    """,
    "query_axon": """
        server = serve()
        client = make_client(server.axon)
        def tell():
            arrived.wait()
            print("ready", flush=True)
        in_thread(tell)
        try:
            client.query_axon(server.axon, {"synapse_type": "wait", "data": {}})
        except KeyboardInterrupt:
            print("interrupted")
        never.set()
        assert client.query(server.axon, "echo", {"n": 1}).data == {"n": 1}
    """,
    "a stream": """
        def silent(data):
            yield b"first"
            arrived.set()
            never.wait()
        server = serve()
        server.register_streaming_handler("silent", silent)
        client = make_client(server.axon)
        def tell():
            arrived.wait()
            print("ready", flush=True)
        in_thread(tell)
        try:
            for _ in client.stream(server.axon, "silent"):
                pass
        except KeyboardInterrupt:
            print("interrupted")
        never.set()
        assert client.query(server.axon, "echo", {"n": 1}).data == {"n": 1}
    """,
    "query_many": """
        server = serve()
        client = make_client(server.axon)
        def tell():
            arrived.wait()
            print("ready", flush=True)
        in_thread(tell)
        try:
            list(client.query_many([server.axon] * 4, "wait"))
        except KeyboardInterrupt:
            print("interrupted")
        never.set()
        assert client.query(server.axon, "echo", {"n": 1}).data == {"n": 1}
    """,
    "a dial": """
        import socket
        hole = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        hole.bind(("127.0.0.1", 0))
        axon = {"hotkey": MINER.hotkey, "ip": "127.0.0.1", "port": hole.getsockname()[1]}
        client = Lightning(VALIDATOR.hotkey, seed=VALIDATOR.seed)
        def tell():
            hole.recv(2000)
            print("ready", flush=True)
        in_thread(tell)
        try:
            client.connect([axon])
        except KeyboardInterrupt:
            print("interrupted")
        hole.close()
    """,
    "asyncio.run of serve_forever": """
        async def main():
            server = AsyncLightningServer(MINER.hotkey, "127.0.0.1", 0, seed=MINER.seed)
            async def echo(data):
                return data
            server.register_synapse_handler("echo", echo)
            await server.start()
            def ask():
                make_client(server.axon).query(server.axon, "echo")
                print("ready", flush=True)
            in_thread(ask)
            await server.serve_forever()
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
    """,
}


@pytest.mark.parametrize("call", INTERRUPTED)
def test_ctrl_c_interrupts(call: str) -> None:
    process = interpreter(INTERRUPTED[call])
    assert process.stdout is not None
    ready = process.stdout.readline()
    if ready == "ready\n":
        process.send_signal(signal.SIGINT)
    assert (ready, finish(process)) == ("ready\n", "interrupted\n")


def test_ctrl_c_that_nobody_catches_ends_the_process() -> None:
    process = interpreter(
        """
        server = serve()
        client = make_client(server.axon)
        def tell():
            arrived.wait()
            print("ready", flush=True)
        in_thread(tell)
        client.query(server.axon, "wait")
        """
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT_SECS)
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
