"""What a handler is, from its signature: its kind, its second argument, its types."""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from btlightning._convert import Converter, Mismatch, converter, is_model, is_record, to_wire
from btlightning._native import RequestContext

Kind = Literal["sync", "async", "stream", "async stream"]

_PASSED_ON: tuple[Any, ...] = (inspect.Parameter.empty, Any, object, dict, Mapping)


@dataclass(frozen=True, slots=True)
class Handler:
    """A handler as the compiled half takes it."""

    kind: Kind
    call: Callable[..., Any]
    """Takes the request's map, and the context if `context`; returns what goes on the wire."""
    context: bool
    """Whether it takes a `RequestContext` as its second argument."""


def prepare(
    function: Callable[..., Any],
    *,
    stream: bool,
    every_annotation: bool,
    scope: Mapping[str, Any] | None = None,
) -> Handler:
    """Looks at a handler and wraps it if its annotations ask for a conversion.

    Args:
        function: The handler.
        stream: Whether it answers with a stream of chunks.
        every_annotation: Whether a TypedDict is checked too, and an annotation that cannot be used
            is refused. Otherwise only dataclasses and pydantic models count, since a handler
            written for the published package may carry any annotation.
        scope: The names that annotations may use besides those of the function's module.

    Raises:
        TypeError: a handler that cannot be called with a request, is of the wrong kind, or has an
            annotation that cannot be used.
    """
    if not callable(function):
        raise TypeError(f"a handler is a function, not {type(function).__name__}")
    kind = _kind(function, stream=stream)
    parameters = _parameters(function)
    context = len(parameters) > 1 and _is_context(function, parameters[1])
    load, dump = _conversions(function, parameters, stream, every_annotation, scope)
    call = function
    if load is not None or dump is not None:
        call = _converting(call, load, dump, awaits=kind == "async", context=context)
    return Handler(kind, call, context)


def name_of(function: Callable[..., Any]) -> str:
    """The name under which a decorated handler is registered by default."""
    name = getattr(function, "__name__", None)
    if not isinstance(name, str) or name == "<lambda>":
        raise TypeError("this handler has no name: give one to the decorator")
    return name


def _kind(function: Callable[..., Any], *, stream: bool) -> Kind:
    called = _called(function)
    if inspect.isasyncgenfunction(called):
        if not stream:
            raise TypeError(
                f"{_shown(function)} is an async generator: register it as a streaming handler"
            )
        return "async stream"
    if not stream and inspect.isgeneratorfunction(called):
        raise TypeError(f"{_shown(function)} is a generator: register it as a streaming handler")
    if inspect.iscoroutinefunction(called):
        return "async stream" if stream else "async"
    return "stream" if stream else "sync"


def _called(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that runs: `__call__` for an instance of a class that has one."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.isroutine(function) or inspect.isclass(function):
        return function
    return typing.cast("Callable[..., Any]", getattr(function, "__call__"))  # noqa: B004, B009


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some builtins have none
        return []
    parameters = list(signature.parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if not positional and not any(p.kind == p.VAR_POSITIONAL for p in parameters):
        raise TypeError(f"{_shown(function)} has to take the request's data as its argument")
    needed = [p for p in positional[2:] if p.default is p.empty]
    needed += [p for p in parameters if p.kind == p.KEYWORD_ONLY and p.default is p.empty]
    if needed:
        raise TypeError(
            f"{_shown(function)} has to do with the request's data and a RequestContext, "
            f"but needs {needed[0].name} too"
        )
    return positional


def _is_context(function: Callable[..., Any], second: inspect.Parameter) -> bool:
    """Whether the second parameter is for the context: a default value says that it is not."""
    annotated = second.annotation is RequestContext or (
        isinstance(second.annotation, str) and RequestContext.__name__ in second.annotation
    )
    return annotated or second.default is second.empty


def _conversions(
    function: Callable[..., Any],
    parameters: list[inspect.Parameter],
    stream: bool,
    every_annotation: bool,
    scope: Mapping[str, Any] | None,
) -> tuple[Converter | None, Converter | None]:
    hints = _hints(function, scope, strict=every_annotation)
    wanted = hints.get(parameters[0].name, inspect.Parameter.empty) if parameters else Any
    load = _conversion(wanted, "request", function, every_annotation)
    if stream:
        return load, None
    returned = hints.get("return", inspect.Parameter.empty)
    check = _conversion(returned, "answer", function, every_annotation)
    if check is None:
        # A typed handler may leave out its return annotation.
        return load, to_wire if load is not None else None
    return load, lambda value: to_wire(check(value))


def _conversion(
    annotation: Any, part: str, function: Callable[..., Any], every_annotation: bool
) -> Converter | None:
    if annotation in _PASSED_ON or typing.get_origin(annotation) in _PASSED_ON:
        return None
    if is_model(annotation) or (every_annotation and is_record(annotation)):
        convert = converter(annotation)
    elif every_annotation:
        raise TypeError(
            f"the {part} of {_shown(function)} is annotated with {annotation!r}: use a dataclass, "
            "a TypedDict, a pydantic model, or dict"
        )
    else:
        return None

    def at_part(value: Any) -> Any:
        try:
            return convert(value)
        except Mismatch as error:
            raise error.within(part) from None

    return at_part


def _hints(
    function: Callable[..., Any], scope: Mapping[str, Any] | None, *, strict: bool
) -> dict[str, Any]:
    called = _called(function)
    try:
        return typing.get_type_hints(called, localns=dict(scope) if scope else None)
    except Exception as error:
        # Whatever is in an annotation may be evaluated here.
        if not strict:
            return {}
        raise TypeError(
            f"an annotation of {_shown(function)} cannot be resolved ({error}): "
            "define its type at the module's top level"
        ) from error


def _converting(
    function: Callable[..., Any],
    load: Converter | None,
    dump: Converter | None,
    *,
    awaits: bool,
    context: bool,
) -> Callable[..., Any]:
    before: Converter = load if load is not None else _same
    after: Converter = dump if dump is not None else _same
    if awaits and context:

        async def call_async_with_context(data: Any, context: RequestContext) -> Any:
            return after(await function(before(data), context))

        return call_async_with_context
    if awaits:

        async def call_async(data: Any) -> Any:
            return after(await function(before(data)))

        return call_async
    if context:
        return lambda data, context: after(function(before(data), context))
    return lambda data: after(function(before(data)))


def _same(value: Any) -> Any:
    return value


def _shown(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", None) or repr(function))
