"""The serving side: functions attached to classes of synapses."""

import argparse
import atexit
import threading
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Self

from pydantic import BaseModel

from btlightning import AsyncLightningServer
from btlightning._wallet import WalletFolder
from btlightning.subnet.axon_info import AxonInfo, axon_info, outward_ip
from btlightning.subnet.keys import hotkey_of, key_arguments
from btlightning.subnet.loop_thread import LoopThread
from btlightning.subnet.route import Attached, route_of
from btlightning.subnet.serving import Serving
from btlightning.subnet.settings import add_axon_args, axon_settings, default_config, entry
from btlightning.subnet.synapse import Synapse
from btlightning.subnet.wire import new_identity

FORWARD_TIMEOUT_SECS: Final = 600
"""Longest time a request may take here, in the queue and in its forward function.

Dendrites give up, and cancel the request, after their own timeout.
"""

STOP_GRACE_SECS: Final = 5.0
"""How long `stop` waits for requests that still run."""

_IDLE_MARGIN_SECS: Final = 60


class Axon:
    """Serves synapses over QUIC.

    Attach functions, then `start`. For each request the `blacklist_fn`, the `verify_fn`
    and the `priority_fn` are asked in this order, then the request waits in a queue that is
    ordered by priority, and the `forward_fn` answers it. `synapse.dendrite.hotkey` is the
    hotkey that the connection has proven, whatever the message says.

    Coroutine functions run on one event loop, on a thread of the axon's; so do plain blacklist,
    verify and priority functions, which should therefore be quick. Plain forward functions run on
    up to `max_workers` threads.
    """

    def __init__(
        self,
        wallet: Any = None,
        config: Any = None,
        port: int | None = None,
        ip: str | None = None,
        external_ip: str | None = None,
        external_port: int | None = None,
        max_workers: int | None = None,
        *,
        forward_timeout: int = FORWARD_TIMEOUT_SECS,
    ) -> None:
        """Makes an axon that serves pings (`Synapse` itself) and nothing else yet.

        Args:
            wallet: A wallet or keypair of bittensor 10 or 11, a `btlightning.WalletFolder`, text
                `NAME/HOTKEY`, or the 32 bytes of a secret seed. By default the wallet that
                `config.wallet` names, else `default/default`.
            config: An object or mapping with `axon.port` and its like, for what is not given
                otherwise. Configs of bittensor fit.
            port: UDP port to listen on, 8091 by default; 0 lets the system choose one.
            ip: Address to listen on; all IPv4 addresses by default.
            external_ip: Address at which others reach this axon, if it is not the one listened on.
            external_port: Port that `info` states; by default the one listened on.
            max_workers: Threads for forward functions that are not coroutine functions; 10 by
                default. Use 1 for functions that must not run at the same time.
            forward_timeout: Seconds after which a request is given up.

        Raises:
            ValueError: When a setting is out of range, or the wallet has no usable key.
        """
        settings = axon_settings(config, ip, port, external_ip, external_port, max_workers)
        if forward_timeout < 1:
            raise ValueError(f"forward_timeout ({forward_timeout}) must be at least 1 second")
        self.wallet: Any = wallet if wallet is not None else _configured_wallet(config)
        self.hotkey = hotkey_of(self.wallet)
        self.uuid = new_identity()
        self.ip = settings.ip
        # None if it was not given: bittensor's `serve_axon` then asks the internet for it.
        self.external_ip = settings.external_ip
        self.max_workers = settings.max_workers
        self.forward_timeout = forward_timeout
        self._settings = settings
        self._bound_port: int | None = None
        self._lock = threading.RLock()
        self._thread: LoopThread | None = None
        self._server: AsyncLightningServer | None = None
        self._serving = Serving(self)
        self.attach(_ping)

    def attach(
        self,
        forward_fn: Attached,
        blacklist_fn: Attached | None = None,
        priority_fn: Attached | None = None,
        verify_fn: Attached | None = None,
    ) -> Self:
        """Serves the class of synapse with which the first argument of `forward_fn` is annotated.

        Each function takes the synapse, and may be a coroutine function. Attaching again for the
        same class replaces its functions.

        Args:
            forward_fn: Returns the answer: the synapse, another one, or `None` for the synapse
                as it was changed in place. For a `StreamingSynapse`, what
                `create_streaming_response` returned.
            blacklist_fn: Returns whether to refuse, and why: `(True, "not registered")`.
            priority_fn: Returns the importance; of waiting requests the one with the greatest
                number comes first.
            verify_fn: Raises to refuse. By default every request is accepted, since the connection
                has proven who sends it.

        Raises:
            SignatureError: When a function does not fit; it is a `TypeError`, a `ValueError`
                and an `AssertionError`.
        """
        route = route_of(forward_fn, blacklist_fn, priority_fn, verify_fn or self.default_verify)
        with self._lock:
            is_new = self._serving.add(route)
            if is_new and self._thread is not None and self._server is not None:
                self._thread.run(self._serving.register(self._server, [route]))
        return self

    async def default_verify(self, synapse: Any) -> None:
        """Accepts the request: its connection has proven the hotkey, and is encrypted."""

    def start(self) -> Self:
        """Listens, and returns when requests can come in.

        Raises:
            btlightning.LightningError: When the address is taken, or the key cannot be opened.
        """
        with self._lock:
            if self._thread is None:
                thread = LoopThread("btlightning-axon")
                try:
                    thread.run(self._open())
                except BaseException:
                    thread.stop()
                    self._serving.close()
                    raise
                self._thread = thread
                atexit.register(self.stop)
        return self

    def stop(self) -> Self:
        """Answers what still runs, for up to 5 seconds, and stops listening; again is harmless."""
        with self._lock:
            thread, self._thread = self._thread, None
            server, self._server = self._server, None
            if thread is not None:
                atexit.unregister(self.stop)
                try:
                    if server is not None:
                        thread.run(server.shutdown(STOP_GRACE_SECS))
                finally:
                    thread.stop()
                    self._serving.close()
                    self._bound_port = None
        return self

    @property
    def started(self) -> bool:
        """Whether the axon listens."""
        return self._thread is not None

    @property
    def port(self) -> int:
        """The port listened on; the one that was asked for as long as the axon is stopped."""
        return self._settings.port if self._bound_port is None else self._bound_port

    @property
    def external_port(self) -> int:
        """The port that `info` states."""
        return self._settings.external_port or self.port

    @property
    def full_address(self) -> str:
        """The address listened on, as text."""
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    def info(self) -> AxonInfo:
        """Returns where dendrites find this axon, and its keys.

        Where neither `external_ip` nor an address to listen on was given, the address is the one
        from which this machine reaches the internet, which behind NAT is a private one.
        """
        bound = outward_ip() if self.ip in ("0.0.0.0", "::") else self.ip
        coldkey = _coldkey(self.wallet)
        return axon_info(self.hotkey, coldkey, self.external_ip or bound, self.external_port)

    @property
    def forward_class_types(self) -> Mapping[str, type[BaseModel]]:
        """The classes of synapses that are served, by name."""
        return MappingProxyType({r.name: r.synapse_class for r in self._serving.routes})

    @property
    def forward_fns(self) -> Mapping[str, Attached]:
        """The attached forward functions, by the name of their class."""
        return MappingProxyType({r.name: r.forward for r in self._serving.routes})

    @property
    def blacklist_fns(self) -> Mapping[str, Attached | None]:
        """The attached blacklist functions, by the name of their class."""
        return MappingProxyType({r.name: r.blacklist for r in self._serving.routes})

    @property
    def priority_fns(self) -> Mapping[str, Attached | None]:
        """The attached priority functions, by the name of their class."""
        return MappingProxyType({r.name: r.priority for r in self._serving.routes})

    @property
    def verify_fns(self) -> Mapping[str, Attached | None]:
        """The attached verify functions, by the name of their class."""
        return MappingProxyType({r.name: r.verify for r in self._serving.routes})

    @classmethod
    def config(cls) -> Any:
        """Returns a config object with the defaults; environment variables change them."""
        return default_config()

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser, prefix: str | None = None) -> None:
        """Adds `--axon.port`, `--axon.ip` and their like to a parser."""
        add_axon_args(parser, prefix)

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Raises `ValueError` when a setting in `config.axon` is out of range."""
        axon_settings(config, None, None, None, None, None)

    def __enter__(self) -> Self:
        """Starts."""
        return self.start()

    def __exit__(self, *_: object) -> None:
        """Stops."""
        self.stop()

    def __repr__(self) -> str:
        """Shows the address, the hotkey, the state and the classes that are served."""
        state = "started" if self.started else "stopped"
        names = [route.name for route in self._serving.routes]
        return f"Axon({self.ip}, {self.port}, {self.hotkey}, {state}, {names})"

    async def _open(self) -> None:
        server = AsyncLightningServer(
            **key_arguments(self.wallet),
            host=self.ip,
            port=self._settings.port,
            handler_timeout_secs=self.forward_timeout,
            idle_timeout_secs=self.forward_timeout + _IDLE_MARGIN_SECS,
        )
        self._serving.open()
        await self._serving.register(server, self._serving.routes)
        await server.start()
        self._server = server
        self._bound_port = server.local_addr()[1]


def _ping(synapse: Synapse) -> Synapse:
    return synapse


def _configured_wallet(config: Any) -> WalletFolder:
    section = entry(config, "wallet")
    standard = WalletFolder()
    return WalletFolder(
        entry(section, "name") or standard.name,
        entry(section, "hotkey") or standard.hotkey,
        entry(section, "path") or standard.path,
    )


def _coldkey(wallet: Any) -> str:
    try:
        return str(wallet.coldkeypub.ss58_address)
    except Exception:  # noqa: BLE001
        # Keypairs have none, and a wallet's file may be missing in ways of its own: an axon needs
        # only its hotkey.
        return ""
