"""From values of the wire to values of an annotation, and back."""

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

Converter = Callable[[Any], Any]
"""Takes a value of the wire and returns the annotation's, or raises `Mismatch`."""


class Mismatch(TypeError):
    """A value that does not fit its annotation. The text says where and which types, no values."""

    def __init__(self, problem: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(problem, path)
        self._problem = problem
        self._path = path

    def within(self, key: object) -> "Mismatch":
        """The same, seen from what holds the value under this key."""
        return Mismatch(self._problem, (str(key), *self._path))

    def __str__(self) -> str:
        return f"{'.'.join(self._path)}: {self._problem}" if self._path else self._problem


def is_record(annotation: Any) -> bool:
    """Whether it is a dataclass, a TypedDict or a pydantic model."""
    kind = typing.get_origin(annotation) or annotation
    return is_model(kind) or _is_typed_dict(kind)


def is_model(annotation: Any) -> bool:
    """Whether it is a dataclass or a pydantic model, so that a dict is none of it."""
    kind = typing.get_origin(annotation) or annotation
    return isinstance(kind, type) and (dataclasses.is_dataclass(kind) or _is_pydantic(kind))


def converter(annotation: Any) -> Converter:
    """Builds what converts to this annotation.

    Raises:
        TypeError: an annotation of a kind that is not supported.
    """
    return _Builder().build(annotation)


def to_wire(value: Any) -> Any:
    """Turns dataclasses, pydantic models, enums, tuples and sets within into what can be sent."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return {key: to_wire(item) for key, item in value.items()}
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        return [to_wire(item) for item in value]
    if dataclasses.is_dataclass(kind):
        return {f.name: to_wire(getattr(value, f.name)) for f in dataclasses.fields(kind)}
    if isinstance(value, enum.Enum):
        return to_wire(value.value)
    if _is_pydantic(kind):
        return to_wire(value.model_dump())
    if isinstance(value, Mapping):
        return {key: to_wire(item) for key, item in value.items()}
    return value


class _Builder:
    """Builds converters; a class that holds itself is built once."""

    def __init__(self) -> None:
        self._records: dict[Any, _Dataclass | _TypedDict] = {}

    def build(self, annotation: Any) -> Converter:
        if annotation is Any or annotation is object:
            return _anything
        if annotation is None or annotation is type(None):
            return _exactly(type(None), "None")
        if annotation in _SCALARS:
            return _SCALARS[annotation]
        origin = typing.get_origin(annotation)
        if origin is not None:
            return self._build_generic(annotation, origin, typing.get_args(annotation))
        if isinstance(annotation, typing.TypeVar):
            return self.build(annotation.__bound__) if annotation.__bound__ else _anything
        if hasattr(annotation, "__supertype__"):  # typing.NewType
            return self.build(annotation.__supertype__)
        if hasattr(annotation, "__value__"):  # type X = ...
            return self.build(annotation.__value__)
        if _is_typed_dict(annotation) or dataclasses.is_dataclass(annotation):
            return self._build_record(annotation)
        if not isinstance(annotation, type):
            raise TypeError(f"the annotation {annotation!r} is not supported")
        if _is_pydantic(annotation):
            return _pydantic(annotation)
        if issubclass(annotation, enum.Enum):
            return _enum(annotation)
        if annotation in _BARE:
            return self.build(_BARE[annotation])
        return _exactly(annotation, annotation.__name__)

    def _build_generic(self, annotation: Any, origin: Any, args: tuple[Any, ...]) -> Converter:
        if origin is typing.Union or origin is types.UnionType:
            return _union(args, [self.build(arg) for arg in args])
        if origin is typing.Literal:
            return _literal(args)
        if not args:  # typing.List
            return self.build(_BARE.get(origin, origin))
        # typing_extensions has a ReadOnly of its own.
        if origin in _WRAPPERS or getattr(origin, "_name", None) == "ReadOnly":
            return self.build(args[0])
        if origin is tuple and not (len(args) == 2 and args[1] is ...):
            return _fixed_tuple([self.build(arg) for arg in args])
        if origin in _COLLECTIONS:
            return _collection(_COLLECTIONS[origin], self.build(args[0]))
        if origin in _MAPPINGS:
            return _mapping(self.build(args[0]), self.build(args[1]))
        if is_record(origin):
            return self.build(origin)
        if hasattr(origin, "__value__"):  # type X[T] = ...
            return self.build(origin.__value__)
        if isinstance(origin, type):  # numpy.typing.NDArray[...] and the like
            return _exactly(origin, origin.__name__)
        raise TypeError(f"the annotation {annotation!r} is not supported")

    def _build_record(self, record: Any) -> Converter:
        if record not in self._records:
            built = _TypedDict(record) if _is_typed_dict(record) else _Dataclass(record)
            self._records[record] = built
            built.fill(typing.get_type_hints(record, include_extras=True), self)
        return self._records[record]


class _Dataclass:
    """Converts maps to a dataclass; keys that it lacks are ignored."""

    def __init__(self, record: Any) -> None:
        self._record = record
        self._fields: list[tuple[str, Converter, bool]] = []

    def fill(self, hints: Mapping[str, Any], builder: _Builder) -> None:
        for field in dataclasses.fields(self._record):
            if field.init:
                required = (
                    field.default is dataclasses.MISSING
                    and field.default_factory is dataclasses.MISSING
                )
                self._fields.append((field.name, builder.build(hints[field.name]), required))

    def __call__(self, value: Any) -> Any:
        if isinstance(value, self._record):
            return value
        if not isinstance(value, Mapping):
            raise _wrong(f"a map for {self._record.__name__}", value)
        given: dict[str, Any] = {}
        for name, convert, required in self._fields:
            if name in value:
                given[name] = _at(name, convert, value[name])
            elif required:
                raise Mismatch("missing", (name,))
        return self._record(**given)


class _TypedDict:
    """Converts maps to a TypedDict; keys that it lacks are kept."""

    def __init__(self, record: Any) -> None:
        self._record = record
        self._fields: dict[str, Converter] = {}
        self._required: list[str] = []

    def fill(self, hints: Mapping[str, Any], builder: _Builder) -> None:
        for name, hint in hints.items():
            self._fields[name] = builder.build(hint)
            # `__required_keys__` is wrong where annotations are strings.
            mark = typing.get_origin(hint)
            if mark is typing.Required or (
                mark is not typing.NotRequired and name in self._record.__required_keys__
            ):
                self._required.append(name)

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong(f"a map for {self._record.__name__}", value)
        for name in self._required:
            if name not in value:
                raise Mismatch("missing", (name,))
        fields = self._fields
        return {
            key: _at(key, fields[key], item) if key in fields else item
            for key, item in value.items()
        }


def _at(key: object, convert: Converter, value: Any) -> Any:
    try:
        return convert(value)
    except Mismatch as error:
        raise error.within(key) from None


def _wrong(wanted: str, value: Any) -> Mismatch:
    return Mismatch(f"expected {wanted}, got {type(value).__name__}")


def _anything(value: Any) -> Any:
    return value


def _exactly(kind: type, name: str) -> Converter:
    def convert(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        raise _wrong(name, value)

    return convert


def _int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _wrong("int", value)


def _float(value: Any) -> float:
    if isinstance(value, (float, int)) and not isinstance(value, bool):
        return float(value)
    raise _wrong("float", value)


def _binary(kind: type[bytes] | type[bytearray] | type[memoryview]) -> Converter:
    def convert(value: Any) -> Any:
        if isinstance(value, kind):
            return value
        if isinstance(value, (str, int, Sequence)) and not isinstance(value, _BYTES_LIKE):
            raise _wrong(kind.__name__, value)
        try:
            return kind(memoryview(value))
        except TypeError:
            raise _wrong(kind.__name__, value) from None

    return convert


def _enum(kind: type[enum.Enum]) -> Converter:
    def convert(value: Any) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise Mismatch(f"not a value of {kind.__name__}") from None

    return convert


def _pydantic(model: Any) -> Converter:
    def convert(value: Any) -> Any:
        return value if isinstance(value, model) else model.model_validate(value)

    return convert


def _literal(options: tuple[Any, ...]) -> Converter:
    allowed = {(type(option), option): option for option in options}

    def convert(value: Any) -> Any:
        for option in options:
            if isinstance(option, enum.Enum) and value == option.value:
                return option
        try:
            return allowed[type(value), value]
        except (KeyError, TypeError):
            raise Mismatch(f"expected one of {', '.join(map(repr, options))}") from None

    return convert


def _union(members: tuple[Any, ...], converters: list[Converter]) -> Converter:
    exact = {m: c for m, c in zip(members, converters, strict=True) if isinstance(m, type)}
    names = " or ".join(getattr(member, "__name__", str(member)) for member in members)

    def convert(value: Any) -> Any:
        # 1 for `float | int` stays an int.
        chosen = exact.get(type(value))
        if chosen is not None:
            return chosen(value)
        for attempt in converters:
            try:
                return attempt(value)
            except (Mismatch, ValueError):  # pydantic's ValidationError is a ValueError
                continue
        raise _wrong(names, value)

    return convert


def _fixed_tuple(converters: list[Converter]) -> Converter:
    def convert(value: Any) -> Any:
        items = _items(value)
        if len(items) != len(converters):
            raise Mismatch(f"expected {len(converters)} items, got {len(items)}")
        return tuple(
            _at(index, convert, item)
            for index, (convert, item) in enumerate(zip(converters, items, strict=True))
        )

    return convert


def _collection(make: Callable[[Iterable[Any]], Any], convert_item: Converter) -> Converter:
    if convert_item is _anything:
        return lambda value: make(_items(value))

    def convert(value: Any) -> Any:
        return make(_at(index, convert_item, item) for index, item in enumerate(_items(value)))

    return convert


def _mapping(convert_key: Converter, convert_item: Converter) -> Converter:
    def convert(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise _wrong("a map", value)
        return {
            _at(key, convert_key, key): _at(key, convert_item, item) for key, item in value.items()
        }

    return convert


def _items(value: Any) -> Collection[Any]:
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    raise _wrong("a list", value)


def _is_pydantic(kind: Any) -> bool:
    # By its methods, so that pydantic is imported only by those who use it.
    return (
        isinstance(kind, type) and hasattr(kind, "model_validate") and hasattr(kind, "model_dump")
    )


def _is_typed_dict(kind: Any) -> bool:
    # By its attributes, since typing_extensions has a TypedDict of its own.
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__required_keys__")


_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
_BYTES_LIKE = (bytes, bytearray, memoryview)
_SCALARS: dict[Any, Converter] = {
    bool: _exactly(bool, "bool"),
    int: _int,
    float: _float,
    str: _exactly(str, "str"),
    bytes: _binary(bytes),
    bytearray: _binary(bytearray),
    memoryview: _binary(memoryview),
}
_BARE: dict[Any, Any] = {
    list: list[Any],
    tuple: tuple[Any, ...],
    set: set[Any],
    frozenset: frozenset[Any],
    dict: dict[Any, Any],
}
_COLLECTIONS: dict[Any, Callable[[Iterable[Any]], Any]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    Sequence: list,
    Collection: list,
    Iterable: list,
}
_MAPPINGS = frozenset({dict, Mapping, MutableMapping})
_WRAPPERS = frozenset(
    {
        typing.Annotated,
        typing.ClassVar,
        typing.Final,
        typing.Required,
        typing.NotRequired,
    }
)
