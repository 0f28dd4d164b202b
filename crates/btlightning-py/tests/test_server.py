"""The compiled server: handlers on threads, and a server's life from start to stop."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from btlightning._native import (
    HandlerError,
    LightningConfigError,
    RequestContext,
    RustLightningServer,
    StreamError,
)
from native import (
    MINER,
    MINER_SEED,
    VALIDATOR,
    connected,
    make_server,
    serving,
    wait_for,
)


class TestFunctions:
    def test_answer(self) -> None:
        server = make_server()
        server.register_synapse_handler("echo", lambda data: data)
        with serving(server) as axon, connected(axon) as client:
            data = {"text": "hé", "n": -(2**63), "big": 2**64 - 1, "bytes": b"\x00" * 100_000}
            assert client.query(axon, "echo", data)["data"] == data

    def test_none_is_the_empty_answer(self) -> None:
        server = make_server()
        server.register_synapse_handler("none", lambda data: None)
        with serving(server) as axon, connected(axon) as client:
            assert client.query(axon, "none")["data"] == {}

    def test_a_handler_with_context_knows_its_caller(self) -> None:
        seen: list[RequestContext] = []

        def handler(data: dict[str, Any], context: RequestContext) -> dict[str, Any]:
            seen.append(context)
            return {
                "deadline": context.deadline - time.monotonic(),
                "left": context.time_left,
                "cancelled": context.cancelled,
            }

        server = make_server(handler_timeout_secs=20)
        server.register_synapse_handler("who", handler, context=True)
        with serving(server) as axon, connected(axon) as client:
            answer = client.query(axon, "who")["data"]
            stats = server.stats()
        assert server.stats()["requests"] == 1
        context = seen[0]
        assert context.hotkey == VALIDATOR
        assert context.synapse_type == "who"
        assert context.remote_addr.startswith("127.0.0.1:")
        assert context.connection_id == stats["callers"][0]["connection_id"]
        assert 0 < answer["left"] <= 20
        assert answer["deadline"] == pytest.approx(answer["left"], abs=1.0)
        assert context.deadline == context.deadline
        assert answer["cancelled"] is False
        assert "who" in repr(context)

    def test_a_handler_sees_that_its_caller_gave_up(self) -> None:
        seen = threading.Event()

        def handler(data: dict[str, Any], context: RequestContext) -> None:
            wait_for(lambda: context.cancelled)
            seen.set()

        server = make_server()
        server.register_synapse_handler("wait", handler, context=True)
        with serving(server) as axon, connected(axon) as client:
            with pytest.raises(TimeoutError):
                client.query(axon, "wait", timeout=0.5)
            assert seen.wait(30)

    def test_handlers_run_in_parallel(self) -> None:
        barrier = threading.Barrier(8, timeout=30)

        def handler(data: dict[str, Any]) -> None:
            barrier.wait()

        server = make_server()
        server.register_synapse_handler("meet", handler)
        with serving(server) as axon, connected(axon) as client:
            threads = [threading.Thread(target=client.query, args=(axon, "meet")) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert server.stats()["requests_failed"] == 0

    def test_values_of_a_thread_outlive_a_request(self) -> None:
        local = threading.local()

        def handler(data: dict[str, Any]) -> dict[str, Any]:
            local.count = getattr(local, "count", 0) + 1
            return {"count": local.count}

        server = make_server()
        server.register_synapse_handler("count", handler)
        with serving(server) as axon, connected(axon) as client:
            # More than there can be threads, so that one of them has served twice.
            counts = [client.query(axon, "count")["data"]["count"] for _ in range(600)]
        assert max(counts) > 1

    @pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
    def test_what_a_handler_raises_is_logged_and_not_sent(
        self, error: type[BaseException], caplog: pytest.LogCaptureFixture
    ) -> None:
        def handler(data: dict[str, Any]) -> None:
            raise error("the secret")

        server = make_server()
        server.register_synapse_handler("bad", handler)
        server.register_synapse_handler("good", lambda data: data)
        with serving(server) as axon, connected(axon) as client:
            with pytest.raises(HandlerError) as raised:
                client.query(axon, "bad")
            assert client.query(axon, "good", {"n": 1})["data"] == {"n": 1}
        assert "secret" not in str(raised.value)
        [record] = [r for r in caplog.records if r.name == "btlightning"]
        assert record.levelno == logging.ERROR
        assert "'bad'" in record.getMessage()
        assert record.exc_info is not None
        assert record.exc_info[0] is error
        assert "the secret" in str(record.exc_info[1])
        assert record.exc_info[2] is not None

    @pytest.mark.parametrize("result", [7, "text", [1], {1: 2}, {"x": object()}])
    def test_a_result_that_cannot_be_sent_is_a_failure(
        self, result: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        server = make_server()
        server.register_synapse_handler("odd", lambda data: result)  # type: ignore[arg-type,return-value]
        with (
            serving(server) as axon,
            connected(axon) as client,
            pytest.raises(HandlerError, match="request processing failed"),
        ):
            client.query(axon, "odd")
        assert any(r.name == "btlightning" and r.exc_info for r in caplog.records)

    def test_buffers(self) -> None:
        kinds: list[type] = []

        def handler(data: dict[str, Any]) -> dict[str, Any]:
            kinds.append(type(data["blob"]))
            return {"blob": bytes(data["blob"])}

        server = make_server()
        server.register_synapse_handler("plain", handler)
        server.register_synapse_handler("buffers", handler, buffers=True)
        blob = os.urandom(200_000)
        with serving(server) as axon, connected(axon) as client:
            assert client.query(axon, "plain", {"blob": blob})["data"] == {"blob": blob}
            assert client.query(axon, "buffers", {"blob": blob})["data"] == {"blob": blob}
        assert [kind.__name__ for kind in kinds] == ["bytes", "Buffer"]

    def test_the_last_handler_of_a_type_serves(self) -> None:
        server = make_server()
        server.register_synapse_handler("v", lambda data: {"v": 1})
        with serving(server) as axon, connected(axon) as client:
            assert client.query(axon, "v")["data"] == {"v": 1}
            server.register_synapse_handler("v", lambda data: {"v": 2})
            assert client.query(axon, "v")["data"] == {"v": 2}


class TestGenerators:
    def test_chunks_of_every_kind(self) -> None:
        def handler(data: dict[str, Any]) -> Iterator[Any]:
            yield b"bytes"
            yield bytearray(b"bytearray")
            yield memoryview(b"-memoryview-")[1:-1]
            yield b"x" * 100_000

        server = make_server()
        server.register_streaming_handler("s", handler)
        with serving(server) as axon, connected(axon) as client:
            stream = client.query_axon_stream(axon, {"synapse_type": "s"})
            assert list(stream) == [b"bytes", b"bytearray", b"memoryview", b"x" * 100_000]

    def test_a_list_and_a_context(self) -> None:
        server = make_server()
        server.register_streaming_handler(
            "s", lambda data, context: [context.hotkey.encode(), data["x"]], context=True
        )
        with serving(server) as axon, connected(axon) as client:
            request = {"synapse_type": "s", "data": {"x": b"x"}}
            assert list(client.query_axon_stream(axon, request)) == [VALIDATOR.encode(), b"x"]

    def test_an_exception_comes_behind_the_chunks(self, caplog: pytest.LogCaptureFixture) -> None:
        def handler(data: dict[str, Any]) -> Iterator[bytes]:
            yield b"first"
            raise ValueError("the secret")

        server = make_server()
        server.register_streaming_handler("s", handler)
        with serving(server) as axon, connected(axon) as client:
            stream = client.query_axon_stream(axon, {"synapse_type": "s"})
            assert next(stream) == b"first"
            with pytest.raises(StreamError) as raised:
                next(stream)
        assert "secret" not in str(raised.value)
        assert any(r.name == "btlightning" and r.exc_info for r in caplog.records)

    @pytest.mark.parametrize("chunk", ["text", 7, None])
    def test_a_chunk_that_is_not_bytes_like_closes_the_generator(
        self, chunk: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        closed = threading.Event()

        def handler(data: dict[str, Any]) -> Iterator[Any]:
            try:
                yield chunk
            finally:
                closed.set()

        server = make_server()
        server.register_streaming_handler("s", handler)
        with serving(server) as axon, connected(axon) as client:
            with pytest.raises(StreamError):
                list(client.query_axon_stream(axon, {"synapse_type": "s"}))
            assert closed.wait(30)
        assert "bytes-like" in caplog.text

    def test_a_handler_that_returns_no_iterable(self, caplog: pytest.LogCaptureFixture) -> None:
        server = make_server()
        server.register_streaming_handler("s", lambda data: 7)  # type: ignore[arg-type,return-value]
        with serving(server) as axon, connected(axon) as client, pytest.raises(StreamError):
            list(client.query_axon_stream(axon, {"synapse_type": "s"}))
        assert "iterable" in caplog.text

    def test_a_caller_that_gives_up_closes_the_generator(self) -> None:
        closed = threading.Event()
        produced = 0

        def handler(data: dict[str, Any]) -> Iterator[bytes]:
            nonlocal produced
            try:
                while True:
                    produced += 1
                    yield b"x" * 65_536
            finally:
                closed.set()

        server = make_server()
        server.register_streaming_handler("s", handler)
        with serving(server) as axon, connected(axon) as client:
            stream = client.query_axon_stream(axon, {"synapse_type": "s"})
            next(stream)
            # Held back: what the generator may be ahead is a few chunks and QUIC's windows.
            stream.close()
            assert closed.wait(30)
            wait_for(lambda: server.stats()["requests_in_flight"] == 0)
            assert server.stats()["requests_cancelled"] == 1

    def test_a_generator_waits_for_a_slow_reader(self) -> None:
        size, total = 1 << 20, 400
        produced = 0

        def handler(data: dict[str, Any]) -> Iterator[bytes]:
            nonlocal produced
            for _ in range(total):
                produced += 1
                yield bytes(size)

        server = make_server()
        server.register_streaming_handler("s", handler)
        with serving(server) as axon, connected(axon) as client:
            stream = client.query_axon_stream(axon, {"synapse_type": "s"})
            next(stream)
            count = -1
            while count != produced:
                count = produced
                time.sleep(0.2)
            assert produced < total / 2
            assert sum(1 for _ in stream) == total - 1
        assert produced == total


class TestLife:
    def test_settings_are_checked(self) -> None:
        with pytest.raises(LightningConfigError, match="max_connections"):
            make_server(max_connections=0)
        with pytest.raises(LightningConfigError, match="32 bytes"):
            make_server().set_miner_keypair(b"short")

    def test_before_the_start(self) -> None:
        server = make_server()
        with pytest.raises(LightningConfigError, match="start"):
            server.serve_forever()
        with pytest.raises(LightningConfigError, match="start"):
            server.local_addr()
        assert server.get_connection_stats() == {
            "total_connections": "0",
            "verified_connections": "0",
        }
        assert server.stats()["requests"] == 0
        server.cleanup_stale_connections()
        server.stop()

    def test_a_server_starts_once_and_again_after_it_was_stopped(self) -> None:
        server = make_server()
        server.register_synapse_handler("echo", lambda data: data)
        for n in range(2):
            with serving(server) as axon, connected(axon) as client:
                with pytest.raises(LightningConfigError, match="already"):
                    server.start()
                assert client.query(axon, "echo", {"n": n})["data"] == {"n": n}

    def test_a_start_that_fails_leaves_the_server_as_it_was(self) -> None:
        first = make_server()
        first.start()
        port = first.local_addr()[1]
        second = RustLightningServer(MINER, "127.0.0.1", port)
        for _ in range(2):
            with pytest.raises(LightningConfigError):
                second.start()
        first.stop()
        second.start()
        assert second.local_addr() == ("127.0.0.1", port)
        second.stop()

    def test_stopping_before_serving(self) -> None:
        server = make_server()
        server.start()
        server.stop()
        server.serve_forever()

    def test_statistics(self) -> None:
        server = make_server()
        server.register_synapse_handler("echo", lambda data: data)
        with serving(server) as axon, connected(axon) as client:
            client.query(axon, "echo")
            stats = server.stats()
            text = server.get_connection_stats()
            assert stats["requests"] == 1
            assert stats["handshakes"] == 1
            assert stats["handshakes_refused"] == {}
            [caller] = stats["callers"]
            assert caller["hotkey"] == VALIDATOR
            assert caller["rtt_secs"] > 0
            assert text == {
                "total_connections": "1",
                "verified_connections": "1",
                f"connection_{VALIDATOR}": caller["connection_id"],
            }
            server.cleanup_stale_connections(300)
            assert server.get_connection_stats()["total_connections"] == "1"

    def test_several_servers_in_one_process(self) -> None:
        servers = []
        for n in range(3):
            server = RustLightningServer(MINER, "127.0.0.1", 0)
            server.set_miner_keypair(list(MINER_SEED))
            server.register_synapse_handler("n", lambda data, n=n: {"n": n})
            servers.append(server)
        with contextlib.ExitStack() as stack:
            axons = [stack.enter_context(serving(server)) for server in servers]
            client = stack.enter_context(connected(*axons))
            assert [client.query(axon, "n")["data"]["n"] for axon in axons] == [0, 1, 2]

    def test_a_handler_may_go_on_while_the_server_stops(self) -> None:
        began, go_on = threading.Event(), threading.Event()

        def handler(data: dict[str, Any]) -> dict[str, Any]:
            began.set()
            go_on.wait(30)
            return {"done": True}

        server = make_server()
        server.register_synapse_handler("slow", handler)
        answers = []
        with serving(server) as axon, connected(axon) as client:
            query = threading.Thread(target=lambda: answers.append(client.query(axon, "slow")))
            query.start()
            assert began.wait(30)
            stop = threading.Thread(target=server.stop)
            stop.start()
            go_on.set()
            query.join()
            stop.join()
        assert answers[0]["data"] == {"done": True}

    def test_a_resolver_says_who_may_connect(self, caplog: pytest.LogCaptureFixture) -> None:
        permitted: list[set[str]] = [set()]
        server = make_server(require_validator_permit=True, validator_permit_refresh_secs=1)
        server.register_synapse_handler("echo", lambda data: data)
        server.start()
        with pytest.raises(LightningConfigError, match="set_validator_permit_resolver"):
            server.serve_forever()
        server.stop()
        server.set_validator_permit_resolver(lambda: permitted[0])
        with serving(server) as axon:
            with connected(axon) as client, pytest.raises(ConnectionError):
                client.query(axon, "echo")
            assert server.stats()["handshakes_refused"]["no_permit"] >= 1
        permitted[0] = {VALIDATOR}
        with serving(server) as axon, connected(axon) as client:
            assert client.query(axon, "echo", {"n": 1})["data"] == {"n": 1}

        def failing() -> list[str]:
            raise ValueError("no chain")

        server.set_validator_permit_resolver(failing)
        with serving(server) as axon, connected(axon) as client, pytest.raises(ConnectionError):
            client.query(axon, "echo")
        assert "no chain" in caplog.text

    def test_a_signer_in_python(self, caplog: pytest.LogCaptureFixture) -> None:
        def failing(message: bytes) -> bytes:
            assert isinstance(message, bytes)
            raise ValueError("the key is elsewhere")

        server = make_server()
        server.set_python_signer(failing)
        with (
            serving(server) as axon,
            connected(axon) as client,
            pytest.raises(ConnectionError) as raised,
        ):
            client.query(axon, "echo")
        assert "elsewhere" not in str(raised.value)
        assert "the key is elsewhere" in caplog.text
