"""Where an axon can be reached."""

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

from btlightning.errors import LightningConfigError
from btlightning.subnet.wire import VERSION


@dataclass(frozen=True, slots=True)
class AxonInfo:
    """An axon's address and keys, as bittensor's class of the same name holds them."""

    version: int
    ip: str
    port: int
    ip_type: int
    hotkey: str
    coldkey: str
    protocol: int = 4
    placeholder1: int = 0
    placeholder2: int = 0

    @property
    def is_serving(self) -> bool:
        """Whether there is an address at all."""
        return self.ip != "0.0.0.0"

    def ip_str(self) -> str:
        """Returns the address as text, with the version of IP: `/ipv4/192.0.2.7:8091`."""
        return f"/ipv{self.ip_type}/{self.ip}:{self.port}"


def axon_info(hotkey: str, coldkey: str, ip: str, port: int) -> AxonInfo:
    """Returns what an axon of this package says about itself."""
    version = ipaddress.ip_address(ip).version
    return AxonInfo(VERSION, ip, port, version, hotkey, coldkey, protocol=version)


def target_of(axon: Any) -> AxonInfo:
    """Finds the address in whatever stands for an axon.

    Args:
        axon: An `Axon` or bittensor's, an `AxonInfo` of either, a
            mapping or any object with `hotkey`, `ip` and `port`.

    Raises:
        LightningConfigError: When it has no such entries.
    """
    info = axon.info() if callable(getattr(axon, "info", None)) else axon
    try:
        if isinstance(info, dict):
            hotkey, ip, port = info["hotkey"], info["ip"], info["port"]
        else:
            hotkey, ip, port = info.hotkey, info.ip, info.port
    except (KeyError, AttributeError) as error:
        raise LightningConfigError(
            f"an axon has hotkey, ip and port, this {type(info).__name__} lacks one"
        ) from error
    coldkey = str(getattr(info, "coldkey", ""))
    return AxonInfo(VERSION, str(ip), int(port), 6 if ":" in str(ip) else 4, str(hotkey), coldkey)


def outward_ip() -> str:
    """Returns the address from which this machine would reach the internet; sends nothing.

    Behind NAT that is a private one. Without a route it is the loopback address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a UDP socket only looks up the route. 192.0.2.0/24 is for documentation.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
