"""The blocking client."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self, cast

from btlightning._axon import A, AxonLike, as_axon, as_axons
from btlightning._native import LightningError, PyStreamingResponse, QueryMany, RustLightning
from btlightning._wallet import Seed, Signer, WalletLike, identify
from btlightning.types import (
    Answer,
    AxonInfo,
    ClientConnectionStats,
    SynapseRequest,
    SynapseResponse,
)


class ClientSettings:
    """What `Lightning` and `AsyncLightning` share: their arguments and their key."""

    wallet_hotkey: str
    """The validator's hotkey, as an SS58 address."""

    def __init__(
        self,
        wallet_hotkey: str | None = None,
        connect_timeout_secs: float | None = None,
        idle_timeout_secs: float | None = None,
        keep_alive_interval_secs: float | None = None,
        reconnect_initial_backoff_secs: float | None = None,
        reconnect_max_backoff_secs: float | None = None,
        reconnect_max_retries: int | None = None,
        max_frame_payload_bytes: int | None = None,
        max_stream_payload_bytes: int | None = None,
        *,
        wallet: WalletLike | None = None,
        seed: Seed | None = None,
        signer: Signer | None = None,
    ) -> None:
        """Makes a client, which dials nobody yet.

        Args:
            wallet_hotkey: The validator's hotkey, as an SS58 address. May be left out when it
                follows from `wallet` or `seed`.
            connect_timeout_secs: Time for dialling and authenticating; 10 by default.
            idle_timeout_secs: After this long without a packet a connection is closed; 150 by
                default.
            keep_alive_interval_secs: How often an idle connection is kept open; 30 by default.
            reconnect_initial_backoff_secs: Pause after the first failed attempt; 1 by default.
            reconnect_max_backoff_secs: Longest pause between attempts; 60 by default.
            reconnect_max_retries: Attempts until only one a minute is made; 5 by default.
            max_frame_payload_bytes: Largest message; 64 MiB by default.
            max_stream_payload_bytes: Most bytes that one stream of chunks may bring; 64 MiB by
                default.
            wallet: Signs: a wallet object of bittensor 10 or 11, a keypair, a `WalletFolder`, or
                text `"NAME/HOTKEY"` for a hotkey in `~/.bittensor/wallets`.
            seed: Signs: the 32 bytes of an sr25519 mini secret key.
            signer: Signs: a callable from a message to its sr25519 signature. It is called on a
                thread of its own, once per handshake, never for a query.

        Raises:
            LightningConfigError: A setting out of its bounds, no hotkey, more than one key, or a
                key that belongs to another hotkey than the one given.
        """
        identity = identify(wallet_hotkey, wallet, seed, signer)
        self._rust_client = RustLightning(
            identity.hotkey,
            connect_timeout_secs=connect_timeout_secs,
            idle_timeout_secs=idle_timeout_secs,
            keep_alive_interval_secs=keep_alive_interval_secs,
            reconnect_initial_backoff_secs=reconnect_initial_backoff_secs,
            reconnect_max_backoff_secs=reconnect_max_backoff_secs,
            reconnect_max_retries=reconnect_max_retries,
            max_frame_payload_bytes=max_frame_payload_bytes,
            max_stream_payload_bytes=max_stream_payload_bytes,
        )
        self.wallet_hotkey = identity.hotkey
        identity.give_to(self.set_validator_keypair, self.set_python_signer, self.set_wallet)

    def set_validator_keypair(self, keypair_seed: Seed) -> None:
        """Signs with the key made from these 32 bytes. Call it before connecting."""
        self._rust_client.set_validator_keypair(keypair_seed)

    def set_python_signer(self, signer_callback: Callable[[bytes], bytes]) -> None:
        """Signs with a callable from a message to its signature. Call it before connecting."""
        self._rust_client.set_python_signer(signer_callback)

    def set_wallet(
        self,
        wallet_name: str = "default",
        wallet_path: str = "~/.bittensor/wallets",
        hotkey_name: str = "default",
    ) -> None:
        """Signs with a hotkey of a Bittensor wallet folder. Call it before connecting."""
        self._rust_client.set_wallet(wallet_name, wallet_path, hotkey_name)

    def get_connection_stats(self) -> ClientConnectionStats:
        """Returns counts as text, as the published package does; `stats` says more."""
        return cast(ClientConnectionStats, self._rust_client.get_connection_stats())

    def stats(self) -> dict[str, Any]:
        """Returns the state of every connection: hotkeys, version, round trip, bytes, losses."""
        return self._rust_client.stats()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.wallet_hotkey!r})"


class Lightning(ClientSettings):
    """A validator's client that blocks the calling thread while it waits.

    ```python
    with Lightning(wallet=wallet) as client:
        client.connect([axon])
        answer = client.query(axon, "echo", {"text": "hello"}, timeout=5.0)
        print(answer.data)
    ```

    One connection per address carries all hotkeys and requests; a lost one is dialled again at the
    next query. `query_axon` and its neighbours are those of the published package; `query` and its
    neighbours take plain arguments and raise `HandlerError` where the miner failed.

    Threads: any number may share a client; the GIL is released while one waits. Ctrl-C interrupts
    every call of the main thread, and the request that it interrupts is cancelled at the miner.

    Forks: a client does not survive `os.fork`. A child that uses this package after its parent did
    gets a `RuntimeError`; use the start method `spawn` with multiprocessing.

    In asyncio, use `btlightning.AsyncLightning`.
    """

    def initialize_connections(self, miners: Iterable[AxonInfo | Mapping[str, Any]]) -> None:
        """Dials these miners and authenticates with each; the published name of `connect`."""
        self._rust_client.initialize_connections(list(miners))

    def update_miner_registry(self, miners: Iterable[AxonInfo | Mapping[str, Any]]) -> None:
        """Makes these the known miners; the published name of `update`."""
        self._rust_client.update_miner_registry(list(miners))

    def query_axon(
        self,
        axon_info: AxonInfo | Mapping[str, Any],
        request: SynapseRequest | Mapping[str, Any],
        timeout_secs: float | None = None,
    ) -> SynapseResponse:
        """Sends a request and returns a dictionary that also says whether the miner failed.

        Args:
            axon_info: The miner.
            request: A dictionary with `synapse_type` and `data`.
            timeout_secs: How long to wait for the answer.

        Raises:
            ConnectionError: The miner cannot be reached or is not who it should be.
            KeyError: `axon_info` or `request` lacks a key.
            ValueError: A timeout or a value that cannot be used.
        """
        return cast(SynapseResponse, self._rust_client.query_axon(axon_info, request, timeout_secs))

    def query_axon_stream(
        self,
        axon_info: AxonInfo | Mapping[str, Any],
        request: SynapseRequest | Mapping[str, Any],
    ) -> PyStreamingResponse:
        """Sends a request and returns an iterator over the chunks of the answer."""
        return self._rust_client.query_axon_stream(axon_info, request)

    def connect(self, axons: Iterable[AxonLike]) -> None:
        """Dials these miners and authenticates with each, at the same time.

        Those that cannot be reached are dialled again when they are queried. Replaces the known
        miners, as `update` does.
        """
        self._rust_client.initialize_connections(as_axons(axons))

    def update(self, axons: Iterable[AxonLike]) -> None:
        """Makes these the known miners: connects to new ones, drops those that are gone."""
        self._rust_client.update_miner_registry(as_axons(axons))

    def query(
        self,
        axon: AxonLike,
        synapse_type: str,
        data: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        buffers: bool = False,
    ) -> Answer:
        """Sends one request and returns the answer.

        Args:
            axon: The miner: a dictionary, a `QuicAxonInfo`, an object with `hotkey`, `ip` and
                `port`, or text `HOTKEY@IP:PORT`.
            synapse_type: The handler's name.
            data: None, bool, int, float, str, bytes-like, list, dict and arrays, nested at will.
            timeout: Seconds to wait for the answer once the request is sent.
            priority: From 0 to 255; higher ones overtake lower ones that wait to be sent.
            buffers: Whether binary values come as `Buffer`, without a copy, instead of bytes.

        Raises:
            HandlerError: The miner answered that it failed.
            QueryTimeoutError: No answer in time.
            LightningConnectionError: The miner cannot be reached or is not who it should be.
            LightningError: Everything else; see `btlightning.errors`.
        """
        answer = self._rust_client.query(
            as_axon(axon), synapse_type, data, timeout, priority, buffers
        )
        return Answer(answer["data"], answer["latency_ms"])

    def stream(
        self, axon: AxonLike, synapse_type: str, data: Mapping[str, Any] | None = None
    ) -> PyStreamingResponse:
        """Sends one request and returns an iterator over the chunks of the answer.

        Iterating raises `StreamError` if the miner breaks the stream off. Closing the iterator, or
        dropping it half read, stops the handler.
        """
        request = {"synapse_type": synapse_type, "data": data if data is not None else {}}
        return self._rust_client.query_axon_stream(as_axon(axon), request)

    def query_many(
        self,
        axons: Iterable[A],
        synapse_type: str,
        data: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        connect_timeout: float | None = None,
        deadline: float | None = None,
        concurrency: int = 256,
        wanted: int | None = None,
        hedge_after: float | None = None,
        buffers: bool = False,
    ) -> Iterator[tuple[A, Answer | LightningError]]:
        """Sends one request to many miners and yields their answers as they come.

        The request is encoded once. A miner that fails yields its exception in place of an answer,
        so one dead miner costs the others nothing. Closing the iterator, or dropping it, cancels
        what is still under way.

        Args:
            axons: The miners.
            synapse_type: The handler's name.
            data: As in `query`.
            timeout: Seconds that each miner has to answer once its request is sent.
            connect_timeout: Seconds for dialling and authenticating where there is no connection.
            deadline: Seconds for all of it; miners without an answer by then yield a timeout.
            concurrency: How many requests may be under way at the same time.
            wanted: Ends after this many answers, and cancels the rest.
            hedge_after: Seconds after which a request without an answer is sent a second time;
                the first answer counts. Only for handlers that may run twice.
            buffers: As in `query`.
        """
        wanted_axons = list(axons)
        many = self._rust_client.query_many(
            as_axons(wanted_axons),
            synapse_type,
            data,
            timeout=timeout,
            connect_timeout=connect_timeout,
            deadline=deadline,
            concurrency=concurrency,
            wanted=wanted,
            hedge_after=hedge_after,
            buffers=buffers,
        )
        return _answers(many, wanted_axons)

    def close(self) -> None:
        """Closes all connections; calling it again does nothing."""
        self._rust_client.close_all_connections()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def answer_or_error(result: dict[str, Any] | LightningError) -> Answer | LightningError:
    """What `query_many` yields for a miner."""
    if isinstance(result, LightningError):
        return result
    return Answer(result["data"], result["latency_ms"])


def _answers(many: QueryMany, axons: list[A]) -> Iterator[tuple[A, Answer | LightningError]]:
    try:
        for position, result in many:
            yield axons[position], answer_or_error(result)
    finally:
        many.close()
