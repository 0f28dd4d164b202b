"""The dictionaries that requests, answers and addresses are made of, and `Answer`."""

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict


class AxonInfo(TypedDict):
    """Where a miner listens, and the hotkey that it has to prove."""

    hotkey: str
    ip: str
    port: int
    protocol: NotRequired[int]
    """The protocol number that the chain states; 4 if left out. Connecting does not need it."""


class SynapseRequest(TypedDict):
    """What `Lightning.query_axon` sends."""

    synapse_type: str
    data: NotRequired[dict[str, Any]]
    """Empty if left out."""


class SynapseResponse(TypedDict):
    """What `Lightning.query_axon` returns."""

    success: bool
    data: dict[str, Any]
    latency_ms: float
    error: str | None


class ClientConnectionStats(TypedDict):
    """Counts, as text. A further entry `connection_{addr}` stands for each connection."""

    total_connections: str
    active_miners: str


class ServerConnectionStats(TypedDict):
    """Counts, as text. A further entry `connection_{hotkey}` stands for each caller."""

    total_connections: str
    verified_connections: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A miner's answer to one query."""

    data: dict[str, Any]
    """What the handler returned."""
    latency_ms: float
    """Milliseconds from sending the request to having the whole answer."""


__all__ = [
    "Answer",
    "AxonInfo",
    "ClientConnectionStats",
    "ServerConnectionStats",
    "SynapseRequest",
    "SynapseResponse",
]
