"""Where an axon's settings come from: arguments, a config object, the environment, defaults."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final

DEFAULT_PORT: Final = 8091
DEFAULT_MAX_WORKERS: Final = 10

# What bittensor has as its default, although it listens on all IPv4 addresses whatever is set.
_ALL_ADDRESSES: Final = frozenset({"[::]", ""})


@dataclass(frozen=True, slots=True)
class AxonSettings:
    """Where an axon listens, what it announces, and on how many threads it works."""

    ip: str
    port: int
    external_ip: str | None
    external_port: int | None
    max_workers: int


def axon_settings(
    config: Any,
    ip: str | None,
    port: int | None,
    external_ip: str | None,
    external_port: int | None,
    max_workers: int | None,
) -> AxonSettings:
    """Takes each setting from the arguments, else from `config.axon`, else its default.

    Raises:
        ValueError: When a number is out of range.
    """
    section = entry(config, "axon") if config is not None else default_config().axon

    def chosen(given: Any, name: str) -> Any:
        return given if given is not None else entry(section, name)

    port = chosen(port, "port")
    settings = AxonSettings(
        ip=_bind_address(chosen(ip, "ip")),
        port=DEFAULT_PORT if port is None else int(port),
        external_ip=chosen(external_ip, "external_ip") or None,
        external_port=_number(chosen(external_port, "external_port")),
        max_workers=_number(chosen(max_workers, "max_workers")) or DEFAULT_MAX_WORKERS,
    )
    for name, number in (("port", settings.port), ("external_port", settings.external_port)):
        if number is not None and not 0 <= number <= 65535:
            raise ValueError(f"{name} ({number}) must be in the range 0 to 65535")
    if settings.max_workers < 1:
        raise ValueError(f"max_workers ({settings.max_workers}) must be at least 1")
    return settings


def default_config() -> SimpleNamespace:
    """Returns a config object with the defaults, and what bittensor's environment variables say."""
    parser = argparse.ArgumentParser()
    add_axon_args(parser)
    flat = vars(parser.parse_args([]))
    axon = {name.removeprefix("axon."): value for name, value in flat.items()}
    return SimpleNamespace(axon=SimpleNamespace(**axon))


def add_axon_args(parser: argparse.ArgumentParser, prefix: str | None = None) -> None:
    """Adds `--axon.port` and its like to a parser; arguments that it has already stay."""
    start = f"--{prefix}.axon." if prefix else "--axon."
    environment = os.environ.get
    for name, kind, default, text in (
        ("port", int, environment("BT_AXON_PORT") or DEFAULT_PORT, "port to listen on"),
        ("ip", str, environment("BT_AXON_IP") or "[::]", "address to listen on; [::] means all"),
        ("external_port", int, environment("BT_AXON_EXTERNAL_PORT") or None, "port to announce"),
        ("external_ip", str, environment("BT_AXON_EXTERNAL_IP") or None, "address to announce"),
        (
            "max_workers",
            int,
            environment("BT_AXON_MAX_WORKERS") or DEFAULT_MAX_WORKERS,
            "threads for forward functions that are not coroutines",
        ),
    ):
        try:
            parser.add_argument(start + name, type=kind, default=default, help=text)
        except argparse.ArgumentError:
            continue


def entry(holder: Any, name: str) -> Any:
    """Returns an entry of a mapping or an attribute of an object; `None` if there is none."""
    if isinstance(holder, Mapping):
        return holder.get(name)
    return getattr(holder, name, None)


def _number(value: Any) -> int | None:
    return None if value is None or value == "" else int(value)


def _bind_address(ip: str | None) -> str:
    return "0.0.0.0" if ip is None or ip in _ALL_ADDRESSES else ip.strip("[]")
