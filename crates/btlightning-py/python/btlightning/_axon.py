"""The forms in which the address of a miner may be given."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar

from btlightning._native import LightningConfigError, QuicAxonInfo
from btlightning.types import AxonInfo


class HasAxonFields(Protocol):
    """An object with the fields of an axon, such as an entry of bittensor's `metagraph.axons`."""

    @property
    def hotkey(self) -> str: ...
    @property
    def ip(self) -> str: ...
    @property
    def port(self) -> int: ...


AxonLike = AxonInfo | Mapping[str, Any] | QuicAxonInfo | HasAxonFields | str
"""A mapping with `hotkey`, `ip`, `port` and perhaps `protocol`; an object with those attributes;
or text such as `"5F4Gh5Bc…@192.0.2.7:8443"` (an IPv6 address in brackets)."""

A = TypeVar("A", bound=AxonLike)
"""The form in which a caller has its axons."""


def as_axon(axon: AxonLike) -> Any:
    """Brings an axon into a form that the compiled half takes, which is any but text.

    Raises:
        LightningConfigError: text that is not `HOTKEY@IP:PORT`.
    """
    return _parsed(axon) if isinstance(axon, str) else axon


def as_axons(axons: Iterable[AxonLike]) -> list[Any]:
    """Brings several axons into a form that the compiled half takes."""
    if isinstance(axons, (str, Mapping)):
        raise TypeError("a list of axons is wanted here, not one axon")
    return [as_axon(axon) for axon in axons]


def _parsed(text: str) -> dict[str, Any]:
    hotkey, at, address = text.partition("@")
    ip, colon, port = address.rpartition(":")
    if ip.startswith("[") and ip.endswith("]"):
        ip = ip[1:-1]
    elif ":" in ip:
        ip = ""
    if not (at and colon and hotkey and ip and port.isascii() and port.isdigit()):
        raise LightningConfigError(
            "an axon given as text is HOTKEY@IP:PORT, an IPv6 address in brackets"
        )
    return {"hotkey": hotkey, "ip": ip, "port": int(port)}
