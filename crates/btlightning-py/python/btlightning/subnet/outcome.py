"""Which status a failed call gets at the dendrite."""

from pydantic import ValidationError

from btlightning.errors import (
    HandlerError,
    LightningConfigError,
    LightningConnectionError,
    SerializationError,
    StreamError,
)
from btlightning.subnet.axon_info import AxonInfo

# What a server answers without running a handler, or in its place.
_TOLD_BY_SERVER = {
    "unrecognized synapse type": 404,
    "handler timed out": 408,
    "deadline exceeded": 408,
    "authentication failed": 401,
    "server shutting down": 503,
    "invalid request format": 400,
}


def outcome_of(
    error: Exception, name: str, target: AxonInfo, timeout: float | None
) -> tuple[int, str]:
    """Returns the status code and the message for a call that ended with an exception.

    Args:
        error: What was raised.
        name: The class of the synapse.
        target: Where the request went.
        timeout: Seconds that the call had.
    """
    if isinstance(error, TimeoutError):
        return 408, f"Request timeout after {timeout} seconds"
    if isinstance(error, LightningConfigError) or (
        isinstance(error, LightningConnectionError) and error.phase in ("dial", "handshake", None)
    ):
        return 503, f"Service unavailable at {target.ip}:{target.port}/{name}"
    if isinstance(error, LightningConnectionError):
        return 503, f"Service disconnected: {error}"
    if isinstance(error, (HandlerError, StreamError)):
        text = str(error)
        known = (code for said, code in _TOLD_BY_SERVER.items() if said in text)
        return next(known, 500), text
    if isinstance(error, (SerializationError, ValidationError)):
        return 422, f"Failed to parse response: {error}"
    return 422, f"Failed to parse response: {type(error).__name__}: {error}"
