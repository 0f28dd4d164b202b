"""What becomes of calls: statuses, fields, identities, concurrency."""

# Annotations are looked at, also those that name local classes: no postponed evaluation here.

import asyncio
import datetime
import enum
import functools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
import pydantic
import pytest

import btlightning
from btlightning.subnet import Axon, AxonInfo, Dendrite, SignatureError, Synapse, TerminalInfo
from conftest import Miner
from keys import MINER, STRANGER, VALIDATOR
from subnet_parties import Wallet


class Echo(Synapse):
    """Text there and back."""

    text: str = ""
    reply: str | None = None

    def deserialize(self) -> str | None:
        """The reply."""
        return self.reply


class Colour(enum.Enum):
    """A choice."""

    RED = "red"


class Inner(pydantic.BaseModel):
    """A model within a model."""

    numbers: list[float]
    when: datetime.datetime


class Everything(Synapse):
    """Fields of every kind."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    required_hash_fields: ClassVar[tuple[str, ...]] = ("prompt",)

    prompt: Annotated[str, pydantic.Field(frozen=True)]
    blob: bytes = b""
    array: np.ndarray[Any, Any] | None = None
    inner: Inner | None = None
    colour: Colour | None = None
    table: dict[int, tuple[str, int]] = pydantic.Field(default_factory=dict)
    unique: set[int] = pydantic.Field(default_factory=set)
    big: int = 0


Attach = Callable[..., Axon]


@pytest.fixture
def serve() -> Iterator[Attach]:
    """Starts axons with one set of functions each."""
    axons: list[Axon] = []

    def start(*functions: Any, **options: Any) -> Axon:
        named = {k: options.pop(k) for k in list(options) if k.endswith("_fn")}
        axon = Axon(Wallet(MINER), port=0, ip="127.0.0.1", **options)
        axons.append(axon.attach(*functions, **named).start())
        return axon

    yield start
    for axon in axons:
        axon.stop()


@pytest.fixture
async def dendrite() -> AsyncIterator[Dendrite]:
    """A dendrite, closed after the test."""
    async with Dendrite(Wallet(VALIDATOR)) as dendrite:
        yield dendrite


def reply(synapse: Echo) -> Echo:
    """A plain forward function."""
    synapse.reply = f"{synapse.text}!"
    return synapse


async def reply_async(synapse: Echo) -> Echo:
    """A coroutine function that does the same."""
    return reply(synapse)


class Replier:
    """Objects and methods that do the same."""

    def plain(self, synapse: Echo) -> Echo:
        """A method."""
        return reply(synapse)

    async def __call__(self, synapse: Echo) -> Echo:
        """The object itself."""
        return reply(synapse)


def in_place(synapse: Echo) -> None:
    """Changes the synapse and returns nothing."""
    synapse.reply = f"{synapse.text}!"


def with_prefix(prefix: str, synapse: Echo) -> Echo:
    """Takes one argument more, for a partial."""
    return reply(synapse)


@pytest.mark.parametrize(
    "forward",
    [
        reply,
        reply_async,
        Replier().plain,
        Replier(),
        in_place,
        functools.partial(with_prefix, "x"),
    ],
    ids=["function", "coroutine", "method", "object", "in place", "partial"],
)
async def test_any_callable_may_serve(serve: Attach, dendrite: Dendrite, forward: Any) -> None:
    axon = serve(forward)
    assert await dendrite(axon, Echo(text="hello")) == "hello!"


async def test_forms_of_an_axon(serve: Attach, dendrite: Dendrite) -> None:
    axon = serve(reply)
    info = axon.info()
    mapping = {"hotkey": info.hotkey, "ip": info.ip, "port": info.port}
    quic = btlightning.QuicAxonInfo(info.hotkey, info.ip, info.port)
    answers = await dendrite([axon, info, mapping, quic], Echo(text="a"))
    assert answers == ["a!"] * 4
    with pytest.raises(ValueError, match="hotkey, ip and port"):
        await dendrite({"hotkey": info.hotkey, "ip": info.ip}, Echo())


@pytest.mark.parametrize("run_async", [True, False])
async def test_lists_stay_lists_in_order(
    serve: Attach, dendrite: Dendrite, run_async: bool
) -> None:
    axon = serve(reply)
    nobody = AxonInfo(0, "127.0.0.1", 1, 4, STRANGER.hotkey, "")
    sent = Echo(text="a")
    answers = await dendrite.forward(
        [axon, nobody, axon], sent, deserialize=False, run_async=run_async, timeout=0.5
    )
    assert [a.is_success for a in answers] == [True, False, True]
    assert [a.reply for a in answers] == ["a!", None, "a!"]
    assert answers[1].axon.hotkey == STRANGER.hotkey
    # Copies were sent: the caller's synapse is as it was.
    assert sent.reply is None and sent.dendrite == TerminalInfo()
    assert await dendrite.forward([axon], sent) == ["a!"]
    assert await dendrite.aquery(axon, sent) == "a!"
    assert await dendrite.forward([], sent) == []


async def test_call_fills_the_synapse_itself(serve: Attach, dendrite: Dendrite) -> None:
    sent = Echo(text="b")
    assert await dendrite.call(serve(reply), sent, deserialize=False) is sent
    assert sent.reply == "b!" and sent.is_success


@pytest.mark.parametrize("address", [("127.0.0.1", 1), ("0.0.0.0", 0), ("nowhere", 9), ("", 9)])
async def test_an_axon_that_is_not_there_is_503(
    dendrite: Dendrite, address: tuple[str, int]
) -> None:
    target = {"hotkey": MINER.hotkey, "ip": address[0], "port": address[1]}
    one = await dendrite(target, Echo(), timeout=0.5, deserialize=False)
    many = await dendrite([target, target], Echo(), timeout=0.5, deserialize=False)
    for answer in (one, *many):
        assert answer.dendrite.status_code == 503, answer.dendrite
        assert answer.dendrite.process_time is None


@pytest.mark.parametrize("timeout", [None, 0])
async def test_there_may_be_no_timeout(serve: Attach, dendrite: Dendrite, timeout: Any) -> None:
    answer = await dendrite(serve(reply), Echo(text="a"), timeout, deserialize=False)
    assert answer.reply == "a!" and answer.timeout is None


async def test_an_axon_with_another_hotkey_is_503(serve: Attach, dendrite: Dendrite) -> None:
    axon = serve(reply)
    target = {"hotkey": STRANGER.hotkey, "ip": "127.0.0.1", "port": axon.port}
    answer = await dendrite(target, Echo(), timeout=2, deserialize=False)
    assert answer.dendrite.status_code == 503
    assert answer.dendrite.status_message.startswith("Service unavailable at 127.0.0.1:")


async def test_a_timeout_is_408_and_cancels_the_handler(serve: Attach, dendrite: Dendrite) -> None:
    cancelled = threading.Event()

    async def forever(synapse: Echo) -> Echo:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return synapse

    axon = serve(forever)
    one = await dendrite(axon, Echo(), timeout=0.2, deserialize=False)
    many = await dendrite([axon], Echo(), timeout=0.2, deserialize=False)
    for answer in (one, *many):
        assert answer.is_timeout and answer.dendrite.process_time is None
        assert answer.dendrite.status_message == "Request timeout after 0.2 seconds"
    assert await asyncio.to_thread(cancelled.wait, 20)


async def test_cancelling_cancels_the_handler(serve: Attach, dendrite: Dendrite) -> None:
    loop = asyncio.get_running_loop()
    began, cancelled = asyncio.Event(), asyncio.Event()

    async def forever(synapse: Echo) -> Echo:
        loop.call_soon_threadsafe(began.set)
        try:
            await asyncio.Event().wait()
        finally:
            loop.call_soon_threadsafe(cancelled.set)
        return synapse

    task = asyncio.ensure_future(dendrite(serve(forever), Echo()))
    await began.wait()
    task.cancel()
    await cancelled.wait()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_handler_that_raises_is_500(
    serve: Attach, dendrite: Dendrite, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(synapse: Echo) -> Echo:
        raise RuntimeError("a secret of the handler")

    answer = await dendrite(serve(fail), Echo(text="kept"), deserialize=False)
    assert answer.dendrite.status_code == 500 and answer.text == "kept"
    message = answer.dendrite.status_message
    assert message.startswith("Internal Server Error #") and "secret" not in message
    # Its own log has both: what went wrong, and the number that the caller was told.
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert message.rpartition("#")[2] in record.getMessage()
    assert record.exc_info is not None and "secret" in str(record.exc_info[1])


async def test_a_status_set_by_the_handler_counts(serve: Attach, dendrite: Dendrite) -> None:
    def busy(synapse: Echo) -> Echo:
        assert synapse.axon is not None
        synapse.reply = "not sent"
        synapse.axon.status_code = 429
        synapse.axon.status_message = "later"
        return synapse

    answer = await dendrite(serve(busy), Echo(), deserialize=False)
    assert answer.dendrite.status_code == 429 and answer.dendrite.status_message == "later"
    assert answer.reply is None and answer.dendrite.process_time is not None


async def test_what_is_returned_must_be_a_synapse(serve: Attach, dendrite: Dendrite) -> None:
    def wrong(synapse: Echo) -> Any:
        return {"reply": "x"}

    answer = await dendrite(serve(wrong), Echo(), deserialize=False)
    assert answer.dendrite.status_code == 500


async def test_a_class_that_is_not_served_is_404(serve: Attach, dendrite: Dendrite) -> None:
    answer = await dendrite(serve(reply), Everything(prompt="x"), deserialize=False)
    assert answer.dendrite.status_code == 404


async def test_a_request_that_does_not_fit_is_422(serve: Attach, dendrite: Dendrite) -> None:
    # As an older validator would have it: the same name, another field.
    other = pydantic.create_model("Echo", __base__=Synapse, text=(list[int], [1, 2]))
    answer = await dendrite(serve(reply), other(), deserialize=False)
    assert answer.dendrite.status_code == 422
    assert "text: Input should be a valid string" in answer.dendrite.status_message


async def test_an_answer_that_does_not_fit_is_422(serve: Attach, dendrite: Dendrite) -> None:
    other = pydantic.create_model("Echo", __base__=Synapse, text=(str, ""), reply=(int, 7))
    answer = await dendrite(serve(reply), other(text="no number"), deserialize=False)
    assert answer.dendrite.status_code == 422 and answer.reply == 7


async def test_verification_refuses_with_401(serve: Attach, dendrite: Dendrite) -> None:
    async def verify(synapse: Echo) -> None:
        if synapse.text != "sesame":
            raise ValueError("say the word")

    axon = serve(reply, verify_fn=verify)
    assert await dendrite(axon, Echo(text="sesame")) == "sesame!"
    answer = await dendrite(axon, Echo(text="please"), deserialize=False)
    assert answer.failed_verification
    assert answer.dendrite.status_message == "Not Verified with error: say the word"


async def test_a_priority_function_that_fails_is_no_success(
    serve: Attach, dendrite: Dendrite
) -> None:
    def late(synapse: Echo) -> float:
        raise TimeoutError

    answer = await dendrite(serve(reply, priority_fn=late), Echo(), deserialize=False)
    assert answer.is_timeout and answer.dendrite.status_message == "Response timeout after: 12.0s"


async def test_the_hotkey_comes_from_the_connection(serve: Attach) -> None:
    seen: list[tuple[str | None, str | None, str | None]] = []

    def look(synapse: Echo) -> tuple[bool, str]:
        assert synapse.dendrite is not None and synapse.axon is not None
        seen.append((synapse.dendrite.hotkey, synapse.dendrite.ip, synapse.axon.hotkey))
        return False, ""

    axon = serve(reply, look)
    # A plain client can claim anything in its message.
    claim = {"hotkey": STRANGER.hotkey, "ip": "192.0.2.1", "status_code": 200}
    lie = {"text": "a", "dendrite": claim, "axon": claim, "bt-call": claim, "timeout": "x"}
    async with btlightning.AsyncLightning(wallet=Wallet(VALIDATOR)) as client:
        await client.connect([vars_of(axon)])
        answer = await client.query(vars_of(axon), "Echo", lie)
    assert seen == [(VALIDATOR.hotkey, "127.0.0.1", MINER.hotkey)]
    # And it gets the fields, and what became of the call.
    assert (answer.data["text"], answer.data["reply"]) == ("a", "a!")
    assert answer.data["bt-status"]["status_code"] == 200
    assert set(answer.data) == {"text", "reply", "bt-status"}


async def test_a_miner_without_an_axon_is_understood(
    start_miner: Callable[..., Miner], dendrite: Dendrite
) -> None:
    def serve_plainly(server: btlightning.LightningServer) -> None:
        server.register_synapse_handler("Echo", lambda data: {"reply": data["text"] + "?"})

    axon = start_miner(serve_plainly).axon
    answer = await dendrite(axon, Echo(text="really"), deserialize=False)
    assert answer.is_success and (answer.text, answer.reply) == ("really", "really?")


async def test_fields_of_every_kind_travel(serve: Attach, dendrite: Dendrite) -> None:
    received: list[Everything] = []

    def keep(synapse: Everything) -> Everything:
        received.append(synapse)
        assert synapse.array is not None
        synapse.array = synapse.array * 2
        synapse.blob = synapse.blob[::-1]
        return synapse

    when = datetime.datetime(2026, 11, 20, 12, tzinfo=datetime.UTC)
    sent = Everything(
        prompt="p",
        blob=bytes(range(256)),
        array=np.arange(6, dtype=np.float32).reshape(2, 3),
        inner=Inner(numbers=[0.5, 1.0], when=when),
        colour=Colour.RED,
        table={1: ("one", 1)},
        unique={3},
        big=2**64 - 1,
    )
    answer = await dendrite(serve(keep), sent, deserialize=False)
    assert answer.is_success, answer.dendrite
    (got,) = received
    assert isinstance(got.inner, Inner) and got.inner == sent.inner and got.colour is Colour.RED
    assert got.table == {1: ("one", 1)} and got.unique == {3} and got.big == 2**64 - 1
    assert answer.blob == bytes(range(256))[::-1] and answer.prompt == "p"
    assert answer.array.dtype == np.float32
    assert np.array_equal(answer.array, np.arange(6).reshape(2, 3) * 2)


async def test_a_field_that_cannot_travel_is_422(serve: Attach, dendrite: Dendrite) -> None:
    class Opaque(Synapse):
        thing: Any = None

    answers = await dendrite([serve(reply)] * 2, Opaque(thing=object()), deserialize=False)
    assert [a.dendrite.status_code for a in answers] == [422, 422]


async def test_dendrites_work_in_many_loops_and_threads(serve: Attach) -> None:
    axon = serve(reply)
    dendrite = Dendrite(Wallet(VALIDATOR))
    blocking = asyncio.to_thread(dendrite.query, axon, Echo(text="blocking"))
    elsewhere = asyncio.to_thread(lambda: asyncio.run(dendrite(axon, Echo(text="elsewhere"))))
    here = dendrite(axon, Echo(text="here"))
    assert await asyncio.gather(blocking, elsewhere, here) == ["blocking!", "elsewhere!", "here!"]
    # Within a loop it blocks, but works.
    assert dendrite.query(axon, Echo(text="inside")) == "inside!"
    dendrite.close_session()


async def test_many_calls_at_a_time(serve: Attach, dendrite: Dendrite) -> None:
    axon = serve(reply_async)
    answers = await dendrite([axon] * 500, Echo(text="x"), timeout=40)
    assert answers == ["x!"] * 500


def test_functions_that_do_not_fit_cannot_be_attached() -> None:
    axon = Axon(Wallet(MINER), port=0, ip="127.0.0.1")

    def nothing() -> None: ...
    def unannotated(synapse): ...  # type: ignore[no-untyped-def]
    def other_class(synapse: Everything) -> tuple[bool, str]:
        return False, ""

    for refused in (nothing, unannotated):
        with pytest.raises(SignatureError):
            axon.attach(refused)
    with pytest.raises(SignatureError, match="first argument of blacklist_fn"):
        axon.attach(reply, other_class)
    # What code for bittensor catches.
    assert issubclass(SignatureError, AssertionError) and issubclass(SignatureError, ValueError)


async def test_attaching_while_serving(serve: Attach, dendrite: Dendrite) -> None:
    axon = serve(reply)

    async def louder(synapse: Echo) -> Echo:
        synapse.reply = synapse.text.upper()
        return synapse

    def keep(synapse: Everything) -> Everything:
        return synapse

    axon.attach(louder).attach(keep)
    assert await dendrite(axon, Echo(text="a")) == "A"
    assert (await dendrite(axon, Everything(prompt="p"))).is_success
    assert set(axon.forward_fns) == {"Synapse", "Echo", "Everything"}


def vars_of(axon: Axon) -> dict[str, Any]:
    """The axon as a plain client takes it."""
    return {"hotkey": axon.hotkey, "ip": "127.0.0.1", "port": axon.port}
