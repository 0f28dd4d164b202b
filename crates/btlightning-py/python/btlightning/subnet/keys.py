"""The key of an axon or a dendrite."""

from typing import Any, TypedDict

from btlightning._wallet import WalletLike, identify


class KeyArguments(TypedDict, total=False):
    """How clients and servers of this package take a key."""

    seed: bytes
    wallet: WalletLike


def key_arguments(wallet: Any) -> KeyArguments:
    """Tells a secret seed from everything else that stands for a key."""
    if isinstance(wallet, (bytes, bytearray)):
        return {"seed": bytes(wallet)}
    return {"wallet": wallet}


def hotkey_of(wallet: Any) -> str:
    """Returns the SS58 address of a key.

    Raises:
        LightningConfigError: When it is not a key that can be used; it is a `ValueError`.
    """
    key = key_arguments(wallet)
    return identify(None, key.get("wallet"), key.get("seed"), None).hotkey
