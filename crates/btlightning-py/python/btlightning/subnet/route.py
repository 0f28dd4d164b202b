"""One kind of synapse that an axon serves, and the functions attached for it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from btlightning.subnet.wire import is_streaming_class, is_synapse_class

Attached = Callable[..., Any]
"""A function of one synapse, or a coroutine function."""


class SignatureError(TypeError, ValueError, AssertionError):
    """A function that cannot be attached.

    Also what bittensor raises in its place: `AssertionError`, or `ValueError` for a function
    without arguments.
    """


class Refusal(Exception):
    """Ends a request with a status that the caller is told."""

    def __init__(self, code: int, message: str) -> None:
        """Keeps the status."""
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Route:
    """What happens to requests for one class of synapse."""

    name: str
    synapse_class: type[BaseModel]
    forward: Attached
    blacklist: Attached | None
    priority: Attached | None
    verify: Attached | None

    @property
    def streaming(self) -> bool:
        """Whether answers come in chunks."""
        return is_streaming_class(self.synapse_class)

    @property
    def runs_on_loop(self) -> bool:
        """Whether the forward function is a coroutine function; others run on threads."""
        return is_coroutine_function(self.forward)

    async def admit(self, synapse: Any) -> float:
        """Asks the attached functions whether the request may run, and how important it is.

        Raises:
            Refusal: 403 from the blacklist, 401 from the verification, 408 when the priority
                function ran out of time.
        """
        if self.blacklist is not None:
            verdict = await called(self.blacklist, synapse)
            refused, reason = (
                verdict if isinstance(verdict, tuple) else (verdict, "no reason given")
            )
            if refused:
                raise Refusal(403, f"Forbidden. Key is blacklisted: {reason}.")
        if self.verify is not None:
            try:
                await called(self.verify, synapse)
            except Exception as error:
                raise Refusal(401, f"Not Verified with error: {error}") from error
        if self.priority is None:
            return 0.0
        try:
            return float(await called(self.priority, synapse))
        except TimeoutError as error:
            raise Refusal(408, f"Response timeout after: {synapse.timeout}s") from error


def route_of(
    forward: Attached,
    blacklist: Attached | None,
    priority: Attached | None,
    verify: Attached | None,
) -> Route:
    """Checks functions that are to be attached, and finds the class of synapse they are for.

    Raises:
        SignatureError: When the forward function's first argument is not annotated with a class of
            synapse, or another function's first argument with an unrelated one.
    """
    synapse_class = _argument_class(forward, "forward_fn")
    if not is_synapse_class(synapse_class):
        raise SignatureError(
            "annotate the first argument of forward_fn with a subclass of Synapse, "
            f"not {synapse_class!r}"
        )
    for name, function in (
        ("blacklist_fn", blacklist),
        ("priority_fn", priority),
        ("verify_fn", verify),
    ):
        if function is None:
            continue
        taken = _argument_class(function, name)
        if is_synapse_class(taken) and not issubclass(synapse_class, taken):
            raise SignatureError(
                f"the first argument of {name} is {taken!r}, that of forward_fn {synapse_class!r}"
            )
    return Route(synapse_class.__name__, synapse_class, forward, blacklist, priority, verify)


async def called(function: Attached, synapse: Any) -> Any:
    """Calls a function, and waits for what it returns if that has to be waited for."""
    result = function(synapse)
    return await result if inspect.isawaitable(result) else result


def is_coroutine_function(function: Attached) -> bool:
    """Whether calling a function, a method or an object gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004
    )


def _argument_class(function: Attached, name: str) -> Any:
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError as error:
        raise SignatureError(f"an annotation of {name} cannot be resolved: {error}") from error
    first = next(iter(signature.parameters.values()), None)
    if first is None:
        raise SignatureError(f"{name} takes no argument, it has to take the synapse")
    return first.annotation
