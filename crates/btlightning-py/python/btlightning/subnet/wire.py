"""How a synapse travels: its own fields as they are, and one entry about the call."""

import uuid
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, Final, get_args

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from btlightning.subnet.synapse import Synapse
from btlightning.subnet.terminal import TerminalInfo

CALL: Final = "bt-call"
"""Entry of a request that holds what a dendrite says about the call. No field can have this name."""

STATUS: Final = "bt-status"
"""Entry of an answer that holds what became of the call at the axon."""

VERSION: Final = 10_005_000
"""The bittensor version whose interface this package follows (10.5.0), as bittensor writes it."""

CALL_FIELDS: Final = frozenset(Synapse.model_fields) | {"required_hash_fields"}
"""What describes a call, and so is neither sent as a field nor taken from a message."""

_SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})


def is_synapse_class(value: object) -> bool:
    """Whether a class can be served: a Synapse, or one that looks like it (bittensor's own)."""
    return (
        isinstance(value, type)
        and issubclass(value, BaseModel)
        and {"name", "timeout", "dendrite", "axon"} <= value.model_fields.keys()
        and callable(getattr(value, "deserialize", None))
    )


def is_streaming_class(value: object) -> bool:
    """Whether a synapse's answer comes in chunks."""
    return is_synapse_class(value) and hasattr(value, "process_streaming_response")


def fields_of(synapse: BaseModel) -> dict[str, Any]:
    """Returns the synapse's own fields as values that MessagePack has, and arrays as they are."""
    dumped = synapse.model_dump(exclude=set(CALL_FIELDS), warnings=False)
    return {name: _plain(value) for name, value in dumped.items()}


def build(synapse_class: type[BaseModel], data: Mapping[str, Any]) -> Any:
    """Makes a synapse from a message; entries that would describe the call are left out."""
    return synapse_class(**_own(data))


def merge(synapse: BaseModel, data: Mapping[str, Any]) -> None:
    """Takes an answer's fields over into the synapse that was sent; frozen fields stay.

    Fields that the answer does not have keep their value.

    Raises:
        pydantic.ValidationError: When the answer does not fit; the synapse is then unchanged.
    """
    declared = type(synapse).model_fields
    own = _own(data)
    kept = {k: v for k, v in synapse.__dict__.items() if k not in CALL_FIELDS and k not in own}
    answer = type(synapse)(**kept, **own)
    for name, value in answer.__dict__.items():
        field = declared.get(name)
        if name in own and not (field is not None and field.frozen):
            synapse.__dict__[name] = value
    if answer.__pydantic_extra__ and synapse.__pydantic_extra__ is not None:
        synapse.__pydantic_extra__.update(answer.__pydantic_extra__)


def set_end(synapse: BaseModel, end: str, **values: Any) -> Any:
    """Gives the synapse a new terminal, of the class that its field has, and returns it."""
    terminal = _terminal_class(type(synapse), end)(**values)
    synapse.__dict__[end] = terminal
    return terminal


def call_entry(timeout: float | None, caller: str, nonce: int) -> dict[str, Any]:
    """Returns what a request says about its call."""
    return {"timeout": timeout, "version": VERSION, "uuid": caller, "nonce": nonce}


def read_entry(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Returns the part of a message about its call; what is not well-formed is not there."""
    entry = data.get(key)
    if not isinstance(entry, Mapping):
        return {}
    kinds: dict[str, tuple[type, ...]] = {
        "timeout": (int, float),
        "process_time": (int, float),
        "version": (int,),
        "nonce": (int,),
        "status_code": (int,),
        "uuid": (str,),
        "status_message": (str,),
    }
    return {k: entry[k] for k, kind in kinds.items() if isinstance(entry.get(k), kind)}


def new_identity() -> str:
    """Returns a name for one dendrite or axon."""
    return str(uuid.uuid4())


def _own(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in data.items()
        if key not in CALL_FIELDS and key != CALL and key != STATUS
    }


@cache
def _terminal_class(synapse_class: type[BaseModel], end: str) -> type[BaseModel]:
    annotation = synapse_class.model_fields[end].annotation
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return TerminalInfo


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is list:
        # Long lists of numbers are common, and need no look at each in Python.
        return value if _SCALARS.issuperset(map(type, value)) else [_plain(v) for v in value]
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, Mapping):
        return {_key(k): _plain(v) for k, v in value.items()}
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(warnings=False))
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in value]
    if isinstance(value, (bytes, bytearray, memoryview)):
        return value
    for scalar in (int, float, str):
        if isinstance(value, scalar):
            return scalar(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return _plain(value.item())
    if hasattr(value, "__array_interface__") or hasattr(value, "__dlpack__"):
        return value
    # Dates, UUIDs, decimals, paths: as JSON would have them, and as pydantic reads them back.
    return to_jsonable_python(value)


def _key(key: Any) -> str:
    return key if type(key) is str else str(_plain(key))
