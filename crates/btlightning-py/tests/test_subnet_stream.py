"""Streaming synapses, written as public subnets write them."""

# Annotations are looked at, also those that name local classes: no postponed evaluation here.

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import pytest

import btlightning
from btlightning.subnet import Axon, Dendrite, StreamingSynapse
from btlightning.subnet.streaming import StreamReader
from conftest import Miner
from keys import MINER, VALIDATOR
from subnet_parties import Wallet


class Prompt(StreamingSynapse):
    """Messages, and a completion that comes in pieces."""

    messages: list[str]
    completion: str = ""

    async def process_streaming_response(self, response: Any) -> AsyncIterator[Any]:
        """Yields the tokens of each chunk and adds them up."""
        async for chunk in response.content.iter_any():
            tokens = chunk.decode("utf-8").split("\n")
            self.completion += "".join(tokens)
            yield tokens

    def deserialize(self) -> str:
        """The completion."""
        return self.completion

    def extract_response_json(self, response: Any) -> dict[str, Any]:
        """Reads the headers where aiohttp keeps them."""
        headers = {k.decode(): v.decode() for k, v in response.__dict__["_raw_headers"]}

        def extract(prefix: str) -> dict[str, str]:
            ends = {k: v for k, v in headers.items() if k.startswith(prefix)}
            return {key.split("_")[-1]: value for key, value in ends.items()}

        return {
            "name": headers.get("name", ""),
            "timeout": float(headers.get("timeout", 0)),
            "total_size": int(headers.get("total_size", 0)),
            "header_size": int(headers.get("header_size", 0)),
            "dendrite": extract("bt_header_dendrite"),
            "axon": extract("bt_header_axon"),
            "messages": self.messages,
            "completion": self.completion,
        }


async def send_words(words: list[str], send: Any) -> None:
    """Sends each word as a chunk, as a token streamer does."""
    for word in words:
        body = {"type": "http.response.body", "body": word.encode(), "more_body": True}
        await send(body)


def prompt(synapse: Prompt) -> StreamingSynapse.BTStreamingResponse:
    """A plain forward function that answers in chunks."""
    return synapse.create_streaming_response(partial(send_words, synapse.messages))


async def prompt_async(synapse: Prompt) -> StreamingSynapse.BTStreamingResponse:
    """A coroutine function that does the same."""
    return prompt(synapse)


@pytest.fixture
def axons() -> Iterator[list[Axon]]:
    """Axons to be stopped after the test."""
    axons: list[Axon] = []
    yield axons
    for axon in axons:
        axon.stop()


def serving(axons: list[Axon], *functions: Any) -> Axon:
    """An axon with these functions."""
    axons.append(Axon(Wallet(MINER), port=0, ip="127.0.0.1").attach(*functions).start())
    return axons[-1]


@pytest.fixture
async def dendrite() -> AsyncIterator[Dendrite]:
    """A dendrite, closed after the test."""
    async with Dendrite(Wallet(VALIDATOR)) as dendrite:
        yield dendrite


@pytest.mark.parametrize("forward", [prompt, prompt_async])
async def test_chunks_then_the_synapse(axons: list[Axon], dendrite: Dendrite, forward: Any) -> None:
    axon = serving(axons, forward)
    words = ["one ", "two\n", "", "three"]
    stream = await dendrite(axon, Prompt(messages=words), deserialize=False, streaming=True)
    items = [item async for item in stream]
    # An empty chunk is no chunk.
    assert items[:-1] == [["one "], ["two", ""], ["three"]]
    answer = items[-1]
    assert isinstance(answer, Prompt) and answer.completion == "one twothree"
    assert answer.is_success and answer.axon is not None and answer.dendrite is not None
    assert answer.axon.hotkey == MINER.hotkey and answer.dendrite.process_time is not None
    assert (answer.timeout, answer.name) == (12.0, "Prompt")


async def test_lists_give_a_stream_each(axons: list[Axon], dendrite: Dendrite) -> None:
    axon = serving(axons, prompt)
    streams = await dendrite([axon, axon], Prompt(messages=["a", "b"]), streaming=True)
    ends = [[item async for item in stream][-1] for stream in streams]
    assert ends == ["ab", "ab"]


async def test_a_refused_stream_says_why(axons: list[Axon], dendrite: Dendrite) -> None:
    def blacklist(synapse: Prompt) -> tuple[bool, str]:
        return True, "not today"

    axon = serving(axons, prompt, blacklist)
    stream = dendrite.call_stream(axon, Prompt(messages=["a"]), deserialize=False)
    (answer,) = [item async for item in stream]
    assert answer.is_blacklist and "not today" in answer.dendrite.status_message
    # To a plain client, which knows nothing of statuses, the stream breaks off.
    async with btlightning.AsyncLightning(wallet=Wallet(VALIDATOR)) as client:
        target = {"hotkey": MINER.hotkey, "ip": "127.0.0.1", "port": axon.port}
        await client.connect([target])
        with pytest.raises(btlightning.StreamError):
            [chunk async for chunk in client.stream(target, "Prompt", {"messages": ["a"]})]


async def test_a_plain_client_gets_the_chunks_alone(axons: list[Axon]) -> None:
    axon = serving(axons, prompt)
    target = {"hotkey": MINER.hotkey, "ip": "127.0.0.1", "port": axon.port}
    async with btlightning.AsyncLightning(wallet=Wallet(VALIDATOR)) as client:
        await client.connect([target])
        stream = client.stream(target, "Prompt", {"messages": ["a", "b"]})
        assert [bytes(chunk) async for chunk in stream] == [b"a", b"b"]


async def test_a_plain_miner_streams_to_a_dendrite(start_miner: Any, dendrite: Dendrite) -> None:
    def register(server: btlightning.LightningServer) -> None:
        def words(data: dict[str, Any]) -> Iterator[bytes]:
            yield from (word.encode() for word in data["messages"])

        server.register_streaming_handler("Prompt", words)

    miner: Miner = start_miner(register)
    stream = dendrite.call_stream(miner.axon, Prompt(messages=["x", "y"]))
    assert [item async for item in stream] == [["x"], ["y"], "xy"]


async def test_a_stream_that_breaks_off_is_500(axons: list[Axon], dendrite: Dendrite) -> None:
    def break_off(synapse: Prompt) -> StreamingSynapse.BTStreamingResponse:
        async def send_one(send: Any) -> None:
            await send_words(["first"], send)
            raise RuntimeError("a secret of the handler")

        return synapse.create_streaming_response(send_one)

    stream = dendrite.call_stream(serving(axons, break_off), Prompt(messages=[]), deserialize=False)
    first, answer = [item async for item in stream]
    assert first == ["first"] and answer.dendrite.status_code == 500
    assert "secret" not in answer.dendrite.status_message


async def test_a_forward_without_a_stream_is_500(axons: list[Axon], dendrite: Dendrite) -> None:
    def wrong(synapse: Prompt) -> Any:
        return synapse

    stream = dendrite.call_stream(serving(axons, wrong), Prompt(messages=[]), deserialize=False)
    (answer,) = [item async for item in stream]
    assert answer.dendrite.status_code == 500


async def test_a_stream_of_a_class_that_is_not_served_is_404(
    axons: list[Axon], dendrite: Dendrite
) -> None:
    axons.append(Axon(Wallet(MINER), port=0, ip="127.0.0.1").start())
    stream = dendrite.call_stream(axons[0], Prompt(messages=[]), deserialize=False)
    (answer,) = [item async for item in stream]
    assert answer.dendrite.status_code == 404


class Endless:
    """A token streamer that never ends by itself."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def forward(self, synapse: Prompt) -> StreamingSynapse.BTStreamingResponse:
        """The forward function."""
        return synapse.create_streaming_response(self._stream)

    async def _stream(self, send: Any) -> None:
        try:
            await send_words(["first"], send)
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def test_leaving_a_stream_ends_it_at_the_axon(axons: list[Axon], dendrite: Dendrite) -> None:
    endless = Endless()
    stream = dendrite.call_stream(serving(axons, endless.forward), Prompt(messages=[]))
    assert await anext(stream) == ["first"]
    await stream.aclose()
    assert await asyncio.to_thread(endless.ended.wait, 20)


async def test_a_stream_has_to_end_in_time(axons: list[Axon], dendrite: Dendrite) -> None:
    endless = Endless()
    axon = serving(axons, endless.forward)
    stream = dendrite.call_stream(axon, Prompt(messages=[]), timeout=0.3, deserialize=False)
    first, answer = [item async for item in stream]
    assert first == ["first"] and answer.is_timeout
    assert await asyncio.to_thread(endless.ended.wait, 20)


async def body(*chunks: bytes) -> AsyncIterator[bytes]:
    """A body in chunks."""
    for chunk in chunks:
        yield chunk


async def test_a_body_can_be_read_in_every_way() -> None:
    def reader() -> StreamReader:
        return StreamReader(body(b"one\ntw", b"o\nthree"))

    assert [part async for part in reader().iter_any()] == [b"one\ntw", b"o\nthree"]
    assert [part async for part in reader().iter_chunks()] == [
        (b"one\ntw", True),
        (b"o\nthree", True),
    ]
    assert [part async for part in reader().iter_chunked(4)] == [b"one\n", b"tw", b"o\nth", b"ree"]
    assert [line async for line in reader()] == [b"one\n", b"two\n", b"three"]
    whole = reader()
    assert await whole.read() == b"one\ntwo\nthree" and whole.at_eof()
    assert await whole.read() == await whole.readline() == b""
