"""The blocking server."""

import inspect
import ipaddress
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, cast, overload

from btlightning._native import RustLightningServer
from btlightning._typed import Handler, name_of, prepare
from btlightning._wallet import Seed, Signer, WalletLike, identify
from btlightning.types import AxonInfo, ServerConnectionStats

F = TypeVar("F", bound=Callable[..., Any])


class ServerSettings:
    """What `LightningServer` and `AsyncLightningServer` share."""

    miner_hotkey: str
    """The miner's hotkey, as an SS58 address."""

    def __init__(
        self,
        miner_hotkey: str | None = None,
        host: str = "0.0.0.0",
        port: int = 8443,
        max_signature_age_secs: int | None = None,
        idle_timeout_secs: int | None = None,
        keep_alive_interval_secs: int | None = None,
        nonce_cleanup_interval_secs: int | None = None,
        max_nonce_entries: int | None = None,
        max_frame_payload_bytes: int | None = None,
        *,
        wallet: WalletLike | None = None,
        seed: Seed | None = None,
        signer: Signer | None = None,
        max_connections: int | None = None,
        handshake_timeout_secs: int | None = None,
        handler_timeout_secs: int | None = None,
        max_handshake_attempts_per_minute: int | None = None,
        max_concurrent_bidi_streams: int | None = None,
        require_validator_permit: bool | None = None,
        validator_permit_refresh_secs: int | None = None,
        require_address_validation: bool | None = None,
    ) -> None:
        """Makes a server, which listens on nothing yet.

        Args:
            miner_hotkey: The miner's hotkey, as an SS58 address. May be left out when it follows
                from `wallet` or `seed`.
            host: The address to listen on; `"0.0.0.0"` is every IPv4 one, `"::"` every one.
            port: The UDP port; 0 takes a free one, which `axon` tells after the start.
            max_signature_age_secs: Oldest handshake signature that is accepted; 300 by default.
            idle_timeout_secs: After this long without a packet a connection is closed; 150 by
                default.
            keep_alive_interval_secs: How often an idle connection is kept open; 30 by default.
            nonce_cleanup_interval_secs: How often old nonces are forgotten; 60 by default.
            max_nonce_entries: Most nonces that are remembered; 100,000 by default.
            max_frame_payload_bytes: Largest message; 64 MiB by default.
            wallet: Signs: a wallet object of bittensor 10 or 11, a keypair, a `WalletFolder`, or
                text `"NAME/HOTKEY"` for a hotkey in `~/.bittensor/wallets`.
            seed: Signs: the 32 bytes of an sr25519 mini secret key.
            signer: Signs: a callable from a message to its sr25519 signature. It is called on a
                thread of its own, once per handshake.
            max_connections: Most hotkeys connected at the same time; 128 by default.
            handshake_timeout_secs: Time for a caller to authenticate; 10 by default.
            handler_timeout_secs: Time for a handler to answer; 30 by default.
            max_handshake_attempts_per_minute: Most handshakes from one IP address; 30 by default.
            max_concurrent_bidi_streams: Most requests of one connection at the same time; 128 by
                default.
            require_validator_permit: Whether only hotkeys that the permit resolver names may call;
                False by default.
            validator_permit_refresh_secs: How often the resolver is asked; 1,800 by default.
            require_address_validation: Whether an unknown address has to answer a packet first, so
                that its owner cannot be flooded through this server; True by default.

        Raises:
            LightningConfigError: A setting out of its bounds, no hotkey, more than one key, or a
                key that belongs to another hotkey than the one given.
        """
        identity = identify(miner_hotkey, wallet, seed, signer)
        self._rust_server = RustLightningServer(
            identity.hotkey,
            host,
            port,
            max_signature_age_secs=max_signature_age_secs,
            idle_timeout_secs=idle_timeout_secs,
            keep_alive_interval_secs=keep_alive_interval_secs,
            nonce_cleanup_interval_secs=nonce_cleanup_interval_secs,
            max_nonce_entries=max_nonce_entries,
            max_frame_payload_bytes=max_frame_payload_bytes,
            max_connections=max_connections,
            handshake_timeout_secs=handshake_timeout_secs,
            handler_timeout_secs=handler_timeout_secs,
            max_handshake_attempts_per_minute=max_handshake_attempts_per_minute,
            max_concurrent_bidi_streams=max_concurrent_bidi_streams,
            require_validator_permit=require_validator_permit,
            validator_permit_refresh_secs=validator_permit_refresh_secs,
            require_address_validation=require_address_validation,
        )
        self.miner_hotkey = identity.hotkey
        identity.give_to(self.set_miner_keypair, self.set_python_signer, self.set_miner_wallet)

    def set_miner_keypair(self, keypair_seed: Seed) -> None:
        """Signs with the key made from these 32 bytes. Call it before the start."""
        self._rust_server.set_miner_keypair(keypair_seed)

    def set_python_signer(self, signer_callback: Callable[[bytes], bytes]) -> None:
        """Signs with a callable from a message to its signature. Call it before the start."""
        self._rust_server.set_python_signer(signer_callback)

    def set_miner_wallet(
        self,
        wallet_name: str = "default",
        wallet_path: str = "~/.bittensor/wallets",
        hotkey_name: str = "default",
    ) -> None:
        """Signs with a hotkey of a Bittensor wallet folder. Call it before the start."""
        self._rust_server.set_miner_wallet(wallet_name, wallet_path, hotkey_name)

    def set_validator_permit_resolver(self, resolver: Callable[[], Iterable[str]]) -> None:
        """Says who may call when `require_validator_permit` is set.

        The callable returns hotkeys. It is called on a thread of its own, at the start and every
        `validator_permit_refresh_secs`; when it raises, the last answer stays in force.
        """
        self._rust_server.set_validator_permit_resolver(resolver)

    def register_synapse_handler(
        self, synapse_type: str, handler: Callable[..., Any], *, buffers: bool = False
    ) -> None:
        """Answers requests of this type with what the handler returns.

        The handler takes the request's dictionary, and the `RequestContext` if it has a second
        argument; it returns a dictionary. Where its annotations name a dataclass or a pydantic
        model, it gets and returns that instead. What it raises is logged by the logger
        `btlightning`; the caller only learns that it failed.

        Args:
            synapse_type: The name that callers ask for; replaces an earlier handler of this name.
            handler: A function; see the class for where it runs.
            buffers: Whether binary values come as `Buffer`, without a copy, instead of bytes.

        Raises:
            TypeError: A handler of a kind that this server cannot run.
        """
        prepared = prepare(handler, stream=False, every_annotation=False)
        self._register(synapse_type, handler, prepared, buffers)

    def register_streaming_handler(
        self, synapse_type: str, handler: Callable[..., Any], *, buffers: bool = False
    ) -> None:
        """Answers requests of this type with a stream: the handler yields bytes.

        Everything else is as in `register_synapse_handler`. A handler whose caller has gone, or
        reads no further, is closed at its next `yield`.
        """
        prepared = prepare(handler, stream=True, every_annotation=False)
        self._register(synapse_type, handler, prepared, buffers)

    @overload
    def synapse(self, name: F, /) -> F: ...
    @overload
    def synapse(self, name: str | None = None, /, *, buffers: bool = False) -> Callable[[F], F]: ...
    def synapse(self, name: Any = None, /, *, buffers: bool = False) -> Any:
        """Registers the function below as a handler, under its own name unless one is given.

        ```python
        @server.synapse("echo")
        def echo(data: dict) -> dict:
            return data
        ```

        The first argument is the request: a dictionary, or what its annotation names: a dataclass,
        a TypedDict or a pydantic model, nested at will. The same goes for what it returns. A
        request that does not fit is logged and answered as a failure. A second argument gets the
        `RequestContext`.
        """
        return self._decorator(name, buffers, stream=False)

    @overload
    def stream(self, name: F, /) -> F: ...
    @overload
    def stream(self, name: str | None = None, /, *, buffers: bool = False) -> Callable[[F], F]: ...
    def stream(self, name: Any = None, /, *, buffers: bool = False) -> Any:
        """Registers the generator below as a streaming handler, under its own name by default.

        ```python
        @server.stream("tokens")
        def tokens(data: dict):
            for word in data["text"].split():
                yield word.encode()
        ```

        It yields bytes; its arguments are those of `synapse`.
        """
        return self._decorator(name, buffers, stream=True)

    @property
    def axon(self) -> AxonInfo:
        """Where the server listens, for clients. Only after the start.

        A server that listens on every address shows the loopback one, which is for clients on the
        same machine.
        """
        host, port = self._rust_server.local_addr()
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
        return {"hotkey": self.miner_hotkey, "ip": host, "port": port, "protocol": 4}

    def local_addr(self) -> tuple[str, int]:
        """Returns the IP address and the port that the server listens on. Only after the start."""
        return self._rust_server.local_addr()

    def get_connection_stats(self) -> ServerConnectionStats:
        """Returns counts as text, as the published package does; `stats` says more."""
        return cast(ServerConnectionStats, self._rust_server.get_connection_stats())

    def stats(self) -> dict[str, Any]:
        """Returns callers, requests in flight, served, failed and refused, and handshakes."""
        return self._rust_server.stats()

    def cleanup_stale_connections(self, max_idle_seconds: int = 300) -> None:
        """Closes connections without a request for this long."""
        self._rust_server.cleanup_stale_connections(max_idle_seconds)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.miner_hotkey!r})"

    def _decorator(self, name: Any, buffers: bool, *, stream: bool) -> Any:
        # Annotations may name classes that are local to the function that decorates.
        frame = inspect.currentframe()
        caller = frame.f_back.f_back if frame is not None and frame.f_back is not None else None
        scope: Mapping[str, Any] = dict(caller.f_locals) if caller is not None else {}
        del frame, caller

        def register(function: F, synapse_type: str | None = None) -> F:
            prepared = prepare(function, stream=stream, every_annotation=True, scope=scope)
            self._register(synapse_type or name_of(function), function, prepared, buffers)
            return function

        if callable(name):
            return register(name)
        if name is not None and not isinstance(name, str):
            raise TypeError(f"a handler's name is text, not {type(name).__name__}")
        return lambda function: register(function, name)

    def _register(
        self, synapse_type: str, function: Callable[..., Any], handler: Handler, buffers: bool
    ) -> None:
        register: Callable[..., None]
        if handler.kind == "sync":
            register = self._rust_server.register_synapse_handler
        elif handler.kind == "stream":
            register = self._rust_server.register_streaming_handler
        else:
            raise TypeError(
                f"the handler {synapse_type!r} is asynchronous and there is no event loop here: "
                "use AsyncLightningServer"
            )
        register(synapse_type, handler.call, context=handler.context, buffers=buffers)


class LightningServer(ServerSettings):
    """A miner's server whose handlers are ordinary functions, run on threads.

    ```python
    server = LightningServer(wallet=wallet, port=8443)

    @server.synapse("echo")
    def echo(data: dict, context: RequestContext) -> dict:
        return {"you are": context.hotkey, "you said": data}

    server.start()
    server.serve_forever()
    ```

    Used as a context manager it serves in the background instead, until the block ends.

    Threads: every method may be called from any thread; handlers run on several threads at the same
    time. Ctrl-C ends `serve_forever`. When a caller gives up, a running function is not
    interrupted, but `RequestContext.cancelled` becomes true, and a generator is closed.

    Forks: a server does not survive `os.fork`. A child that uses this package after its parent did
    gets a `RuntimeError`; use the start method `spawn` with multiprocessing.

    For `async def` handlers, use `btlightning.AsyncLightningServer`.
    """

    _background: threading.Thread | None = None

    def start(self) -> None:
        """Opens the socket; `serve_forever` then accepts callers.

        Raises:
            LightningConnectionError: The address cannot be listened on.
            LightningConfigError: There is no key to sign with.
        """
        self._rust_server.start()

    def serve_forever(self) -> None:
        """Serves until `stop` is called from another thread, or Ctrl-C. The GIL is released."""
        self._rust_server.serve_forever()

    def stop(self) -> None:
        """Ends `serve_forever` and closes all connections; calling it again does nothing."""
        self._rust_server.stop()

    def __enter__(self) -> Self:
        self.start()
        self._background = threading.Thread(
            target=self.serve_forever, name="btlightning-server", daemon=True
        )
        self._background.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
        if self._background is not None:
            self._background.join()
            self._background = None
