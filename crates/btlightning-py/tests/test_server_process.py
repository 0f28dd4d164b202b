"""The compiled server in processes of their own: Ctrl-C, and the end of the interpreter."""

import signal
import subprocess
import sys
import textwrap

import pytest

from native import MINER, VALIDATOR

SERVER = """
import os, sys, threading, time
from btlightning._native import LoopBridge, RustLightning, RustLightningServer

server = RustLightningServer({miner!r}, "127.0.0.1", 0)
server.set_miner_keypair(bytes([1] * 32))

def client():
    client = RustLightning({validator!r})
    client.set_validator_keypair(bytes([2] * 32))
    host, port = server.local_addr()
    axon = {{"hotkey": server.miner_hotkey, "ip": host, "port": port}}
    client.initialize_connections([axon])
    return client, axon
"""


def run_script(body: str, interrupt: bool = False) -> tuple[int, str, str]:
    """Runs a script in a process of its own; interrupts it once it has said that it is ready."""
    script = SERVER.format(miner=MINER, validator=VALIDATOR) + textwrap.dedent(body)
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            if interrupt:
                assert first == "ready\n"
                process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        except BaseException:
            process.kill()
            raise
    return process.returncode, first + out, err


class TestProcess:
    def test_ctrl_c_ends_serve_forever_and_stops_the_server(self) -> None:
        code, out, err = run_script(
            """
            server.start()
            server.register_synapse_handler("echo", lambda data: data)

            def caller():
                lightning, axon = client()
                assert lightning.query(axon, "echo", {"n": 1})["data"] == {"n": 1}
                print("ready", flush=True)

            threading.Thread(target=caller).start()
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                # A server that is stopped may be started.
                server.start()
                print("interrupted", flush=True)
                server.stop()
            """,
            interrupt=True,
        )
        assert (code, out, err) == (0, "ready\ninterrupted\n", "")

    def test_ctrl_c_with_the_server_in_a_thread(self) -> None:
        code, out, err = run_script(
            """
            server.start()
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                print("ready", flush=True)
                while True:
                    time.sleep(60)
            except KeyboardInterrupt:
                server.stop()
                thread.join()
                print("stopped", flush=True)
            """,
            interrupt=True,
        )
        assert (code, out, err) == (0, "ready\nstopped\n", "")

    @pytest.mark.parametrize(
        "handler",
        [
            "time.sleep(1000)",
            "threading.Event().wait()",
            "exec('while True: pass')",
            "[sum(range(100)) for _ in iter(int, 1)]",
        ],
    )
    def test_the_interpreter_exits_with_handlers_at_work(self, handler: str) -> None:
        code, out, err = run_script(
            f"""
            began = threading.Semaphore(0)

            def handler(data):
                began.release()
                {handler}

            def stream(data):
                yield b"first"
                began.release()
                {handler}

            server.register_synapse_handler("work", handler)
            server.register_streaming_handler("stream", stream)
            server.start()
            threading.Thread(target=server.serve_forever, daemon=True).start()
            lightning, axon = client()
            for _ in range(3):
                threading.Thread(
                    target=lightning.query, args=(axon, "work"), daemon=True
                ).start()
            answer = lightning.query_axon_stream(axon, {{"synapse_type": "stream"}})
            next(answer)
            for _ in range(4):
                began.acquire()
            print("leaving", flush=True)
            """
        )
        assert (code, out) == (0, "leaving\n"), err
        assert "Fatal" not in err
        assert "panicked" not in err

    def test_the_interpreter_exits_under_load(self) -> None:
        code, out, err = run_script(
            """
            server.register_synapse_handler("echo", lambda data: data)
            server.start()
            threading.Thread(target=server.serve_forever, daemon=True).start()
            lightning, axon = client()

            def load():
                try:
                    while True:
                        lightning.query(axon, "echo", {"n": 1})
                except Exception:
                    pass

            for _ in range(8):
                threading.Thread(target=load, daemon=True).start()
            while server.stats()["requests"] < 200:
                time.sleep(0.001)
            print("leaving", flush=True)
            """
        )
        assert (code, out) == (0, "leaving\n"), err
        assert "Fatal" not in err
        assert "panicked" not in err
