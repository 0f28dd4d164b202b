"""Handlers with annotations."""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
import pydantic
import pytest

from btlightning import (
    AsyncLightning,
    AsyncLightningServer,
    HandlerError,
    Lightning,
    LightningServer,
    RequestContext,
)
from btlightning._convert import Mismatch, converter, to_wire
from keys import MINER, VALIDATOR


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


Uid = NewType("Uid", int)


@dataclass
class Point:
    x: float
    y: float = 0.0


@dataclass
class Tree:
    name: str
    children: list[Tree] = field(default_factory=list)


class Options(TypedDict):
    depth: int
    label: NotRequired[str | None]


class Model(pydantic.BaseModel):
    prompt: str
    top_k: int = pydantic.Field(default=5, gt=0)


@dataclass
class Everything:
    uid: Uid
    color: Color
    points: list[Point]
    by_name: dict[str, Point]
    pair: tuple[int, str]
    many: tuple[int, ...]
    mode: Literal["fast", "slow", 3]
    maybe: Point | None
    either: Point | int | str
    blob: bytes
    array: npt.NDArray[np.float32]
    options: Options
    model: Model
    anything: Any
    tags: Annotated[set[str], "sorted"]
    numbers: Sequence[float]
    extra: Mapping[str, int] = field(default_factory=dict)


def everything() -> dict[str, Any]:
    return {
        "uid": 7,
        "color": "blue",
        "points": [{"x": 1}, {"x": 2.5, "y": 3.0}],
        "by_name": {"a": {"x": 1.0, "y": 1.0}},
        "pair": [1, "one"],
        "many": [1, 2, 3],
        "mode": 3,
        "maybe": None,
        "either": {"x": 1.0},
        "blob": memoryview(b"\x00\x01"),
        "array": np.ones(2, np.float32),
        "options": {"depth": 1, "unknown": True},
        "model": {"prompt": "hi"},
        "anything": [1, {"b": 2}],
        "tags": ["b", "a"],
        "numbers": [1, 2.5],
        "ignored": "a field that the class lacks",
    }


def test_everything_is_converted() -> None:
    value = converter(Everything)(everything())
    array, value.array = value.array, None
    assert np.array_equal(array, np.ones(2, np.float32))
    assert value == Everything(
        uid=Uid(7),
        color=Color.BLUE,
        points=[Point(1.0), Point(2.5, 3.0)],
        by_name={"a": Point(1.0, 1.0)},
        pair=(1, "one"),
        many=(1, 2, 3),
        mode=3,
        maybe=None,
        either=Point(1.0),
        blob=b"\x00\x01",
        array=None,  # type: ignore[arg-type]
        options={"depth": 1, "unknown": True},  # type: ignore[typeddict-unknown-key]
        model=Model(prompt="hi", top_k=5),
        anything=[1, {"b": 2}],
        tags={"a", "b"},
        numbers=[1.0, 2.5],
        extra={},
    )
    assert isinstance(value.points[0].x, float)
    wire = to_wire(value)
    assert wire["color"] == "blue"
    assert wire["points"] == [{"x": 1.0, "y": 0.0}, {"x": 2.5, "y": 3.0}]
    assert wire["pair"] == [1, "one"]
    assert wire["model"] == {"prompt": "hi", "top_k": 5}
    assert sorted(wire["tags"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("uid", "7", "uid: expected int, got str"),
        ("uid", True, "uid: expected int, got bool"),
        ("color", "green", "color: not a value of Color"),
        ("points", {}, "points: expected a list, got dict"),
        ("points", [{"x": 1}, {"y": 1}], "points.1.x: missing"),
        ("points", [{"x": "1"}], "points.0.x: expected float, got str"),
        ("by_name", {"a": 5}, "by_name.a: expected a map for Point, got int"),
        ("by_name", {5: {"x": 1}}, "by_name.5: expected str, got int"),
        ("pair", [1], "pair: expected 2 items, got 1"),
        ("pair", ["1", "one"], "pair.0: expected int, got str"),
        ("mode", "medium", "mode: expected one of 'fast', 'slow', 3"),
        ("mode", [], "mode: expected one of"),
        ("maybe", 5, "maybe: expected Point or NoneType, got int"),
        ("either", 2.5, "either: expected Point or int or str, got float"),
        ("blob", "text", "blob: expected bytes, got str"),
        ("blob", [1, 2], "blob: expected bytes, got list"),
        ("blob", 5, "blob: expected bytes, got int"),
        ("array", b"bytes", "array: expected ndarray, got bytes"),
        ("options", {}, "options.depth: missing"),
        ("options", {"depth": 1, "label": 5}, "options.label: expected str or NoneType, got int"),
        ("extra", {"a": None}, "extra.a: expected int, got NoneType"),
    ],
)
def test_what_does_not_fit_is_named(key: str, value: Any, text: str) -> None:
    with pytest.raises(Mismatch) as mismatch:
        converter(Everything)({**everything(), key: value})
    assert str(mismatch.value).startswith(text)


def test_a_missing_field_is_named() -> None:
    request = everything()
    del request["uid"]
    with pytest.raises(Mismatch, match="^uid: missing$"):
        converter(Everything)(request)


def test_classes_may_hold_themselves() -> None:
    tree = converter(Tree)({"name": "a", "children": [{"name": "b", "children": [{"name": "c"}]}]})
    assert tree == Tree("a", [Tree("b", [Tree("c")])])
    assert to_wire(tree)["children"][0]["children"][0] == {"name": "c", "children": []}


def test_the_exact_type_of_a_union_wins() -> None:
    assert converter(float | int)(1) == 1
    assert type(converter(float | int)(1)) is int
    assert type(converter(float | str)(1)) is float


def server_of(kind: type[LightningServer | AsyncLightningServer]) -> Any:
    return kind(None, "127.0.0.1", 0, seed=MINER.seed)


def test_handlers_get_and_return_what_their_annotations_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server: LightningServer = server_of(LightningServer)

    @dataclass
    class Local:
        value: int

    @server.synapse("dataclass")
    def with_dataclass(point: Point, context: RequestContext) -> Tree:
        assert isinstance(point, Point)
        return Tree(context.hotkey, [Tree(str(point.x))])

    @server.synapse("typed dict")
    def with_typed_dict(options: Options) -> Options:
        return {"depth": options["depth"] + 1}

    @server.synapse("pydantic")
    def with_pydantic(model: Model) -> Model:
        return Model(prompt=model.prompt.upper(), top_k=model.top_k + 1)

    @server.synapse("local")
    def with_local(value: Local) -> Local:
        return Local(value.value * 2)

    @server.synapse("wrong answer")
    def with_wrong_answer(data: dict[str, Any]) -> Options:
        return {"depth": "deep"}  # type: ignore[typeddict-item]

    @server.synapse("no return annotation")
    def without_return_annotation(point: Point):  # type: ignore[no-untyped-def]
        return {"points": [point]}

    @server.stream("stream")
    def with_stream(point: Point) -> Iterator[bytes]:
        yield str(point).encode()

    def registered(model: Model) -> Model:
        return model

    server.register_synapse_handler("registered", registered)

    with server, Lightning(seed=VALIDATOR.seed) as client:
        axon = server.axon
        client.connect([axon])

        def ask(synapse_type: str, data: dict[str, Any]) -> dict[str, Any]:
            return client.query(axon, synapse_type, data).data

        assert ask("dataclass", {"x": 1}) == {
            "name": VALIDATOR.hotkey,
            "children": [{"name": "1.0", "children": []}],
        }
        assert ask("typed dict", {"depth": 1}) == {"depth": 2}
        assert ask("pydantic", {"prompt": "a"}) == {"prompt": "A", "top_k": 6}
        assert ask("local", {"value": 4}) == {"value": 8}
        assert ask("no return annotation", {"x": 1}) == {"points": [{"x": 1.0, "y": 0.0}]}
        assert ask("registered", {"prompt": "a"}) == {"prompt": "a", "top_k": 5}
        assert list(client.stream(axon, "stream", {"x": 1})) == [b"Point(x=1.0, y=0.0)"]
        for synapse_type, data, logged in (
            ("dataclass", {"x": "1"}, "request.x: expected float, got str"),
            ("typed dict", {}, "request.depth: missing"),
            ("pydantic", {"prompt": "a", "top_k": 0}, "greater than 0"),
            ("registered", {}, "Field required"),
            ("wrong answer", {}, "answer.depth: expected int, got str"),
        ):
            caplog.clear()
            with pytest.raises(HandlerError, match="request processing failed"):
                ask(synapse_type, data)
            assert logged in caplog.text


async def test_asynchronous_handlers_are_typed_too(caplog: pytest.LogCaptureFixture) -> None:
    server: AsyncLightningServer = server_of(AsyncLightningServer)

    @server.synapse
    async def move(point: Point) -> Point:
        return Point(point.x + 1, point.y)

    @server.synapse
    async def who(point: Point, context: RequestContext) -> Tree:
        return Tree(context.hotkey)

    @server.stream
    async def shown(model: Model) -> AsyncIterator[bytes]:
        yield model.prompt.encode()

    async with server, AsyncLightning(seed=VALIDATOR.seed) as client:
        axon = server.axon
        await client.connect([axon])
        assert (await client.query(axon, "move", {"x": 1})).data == {"x": 2.0, "y": 0.0}
        answer = await client.query(axon, "who", {"x": 1})
        assert answer.data == {"name": VALIDATOR.hotkey, "children": []}
        assert [c async for c in client.stream(axon, "shown", {"prompt": "a"})] == [b"a"]
        with pytest.raises(HandlerError, match="request processing failed"):
            await client.query(axon, "move", {})
        assert "request.x: missing" in caplog.text


def test_annotations_that_cannot_be_used() -> None:
    server: LightningServer = server_of(LightningServer)

    def of_int(value: int) -> dict[str, Any]:
        return {}

    def to_int(data: dict[str, Any]) -> int:
        return 5

    def unresolved(data: Nowhere) -> dict[str, Any]:  # type: ignore[name-defined]  # noqa: F821
        return {}

    with pytest.raises(TypeError, match="the request of .*of_int is annotated with"):
        server.synapse(of_int)
    with pytest.raises(TypeError, match="the answer of .*to_int is annotated with"):
        server.synapse(to_int)
    with pytest.raises(TypeError, match="cannot be resolved"):
        server.synapse(unresolved)
    # Handlers written for the published package may carry any annotation.
    for handler in (of_int, to_int, unresolved):
        server.register_synapse_handler("x", handler)
