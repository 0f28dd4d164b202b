"""Who signs: a seed, a callback, a wallet folder, or a wallet object of bittensor."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from btlightning._native import LightningConfigError, hotkey_from_seed

Seed = bytes | bytearray | Sequence[int]
"""The 32 bytes of an sr25519 mini secret key."""

Signer = Callable[[bytes], bytes]
"""Takes a message and returns the 64 bytes of its sr25519 signature."""


class Keypair(Protocol):
    """A key of `bittensor_wallet`, `bittensor_core` or `substrate-interface`."""

    @property
    def ss58_address(self) -> str: ...
    def sign(self, data: Any, /) -> Any: ...


class HasHotkey(Protocol):
    """A wallet of bittensor: `bittensor.Wallet` of version 11, `bittensor_wallet.Wallet` of 10."""

    @property
    def hotkey(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class WalletFolder:
    """A hotkey in a Bittensor wallet folder, for `wallet=`.

    The file is `{path}/{name}/hotkeys/{hotkey}`. An encrypted one is opened with the password in
    the environment variable that the Bittensor tools use for it.
    """

    name: str = "default"
    hotkey: str = "default"
    path: str = "~/.bittensor/wallets"


WalletLike = HasHotkey | Keypair | WalletFolder | str
"""A wallet object of bittensor 10 or 11, a keypair, a `WalletFolder`, or text `"NAME/HOTKEY"` for
a hotkey in `~/.bittensor/wallets`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A hotkey and what signs for it; at most one of the three is set."""

    hotkey: str
    seed: Seed | None = None
    signer: Signer | None = None
    folder: WalletFolder | None = None

    def give_to(
        self,
        set_seed: Callable[[Seed], None],
        set_signer: Callable[[Signer], None],
        set_folder: Callable[[str, str, str], None],
    ) -> None:
        """Hands the key to a client or a server; does nothing when there is none yet."""
        if self.seed is not None:
            set_seed(self.seed)
        elif self.signer is not None:
            set_signer(self.signer)
        elif self.folder is not None:
            set_folder(self.folder.name, self.folder.path, self.folder.hotkey)


def identify(
    hotkey: str | None,
    wallet: WalletLike | None,
    seed: Seed | None,
    signer: Signer | None,
) -> Identity:
    """Works out the hotkey and its signer from the arguments of a constructor.

    Raises:
        LightningConfigError: more than one kind of key, none from which the hotkey follows, a key
            that belongs to another hotkey than the one given, or a key that is not sr25519.
    """
    if sum(given is not None for given in (wallet, seed, signer)) > 1:
        raise LightningConfigError("give one of wallet, seed and signer")
    if seed is not None:
        found = Identity(hotkey_from_seed(seed), seed=seed)
    elif wallet is not None:
        found = _from_wallet(wallet, hotkey)
    elif hotkey is None:
        raise LightningConfigError("give a hotkey with a signer, or a wallet, or a seed")
    else:
        return Identity(hotkey, signer=signer)
    if hotkey is not None and hotkey != found.hotkey:
        raise LightningConfigError(f"the key given is that of {found.hotkey}, not of {hotkey}")
    return found


def _from_wallet(wallet: WalletLike, hotkey: str | None) -> Identity:
    if isinstance(wallet, str):
        name, _, key = wallet.partition("/")
        wallet = WalletFolder(name or "default", key or "default")
    if isinstance(wallet, WalletFolder):
        return Identity(hotkey or _address_in(wallet), folder=wallet)
    # Reading the attribute may open the key file, and ask for its password.
    keypair: Any = wallet if hasattr(wallet, "sign") else getattr(wallet, "hotkey", None)
    address = getattr(keypair, "ss58_address", None)
    if not isinstance(address, str) or not callable(getattr(keypair, "sign", None)):
        raise LightningConfigError(
            "wallet is a bittensor wallet, a keypair, a WalletFolder or text NAME/HOTKEY, "
            f"not {type(wallet).__name__}"
        )
    # 1 is sr25519 in every one of those packages.
    if getattr(keypair, "crypto_type", 1) != 1:
        raise LightningConfigError(f"the key of {address} is not an sr25519 key")
    return Identity(address, signer=_Signing(keypair))


class _Signing:
    """Signs with a keypair of bittensor."""

    __slots__ = ("_keypair",)

    def __init__(self, keypair: Keypair) -> None:
        self._keypair = keypair

    def __call__(self, message: bytes) -> bytes:
        signature = self._keypair.sign(message)
        if isinstance(signature, str):  # as old versions of substrate-interface return it
            return bytes.fromhex(signature.removeprefix("0x"))
        return bytes(signature)


def _address_in(folder: WalletFolder) -> str:
    """Reads the address of a hotkey, which stands in plain text beside an encrypted key too."""
    keys = Path(folder.path).expanduser() / folder.name / "hotkeys"
    for file in (keys / folder.hotkey, keys / f"{folder.hotkey}pub.txt"):
        try:
            address = json.loads(file.read_bytes())["ss58Address"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(address, str):
            return address
    raise LightningConfigError(
        f"no address of the hotkey {folder.hotkey!r} in {keys}: give it as the first argument"
        if (keys / folder.hotkey).exists()
        else f"there is no hotkey {folder.hotkey!r} in {keys}"
    )
