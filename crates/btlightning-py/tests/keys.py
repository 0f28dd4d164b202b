"""Keys of the tests, made by another implementation of sr25519."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import sr25519


@dataclass(frozen=True)
class Key:
    """An sr25519 key pair with a seed of 32 equal bytes."""

    number: int

    @property
    def seed(self) -> bytes:
        """The secret seed."""
        return bytes([self.number]) * 32

    @property
    def hotkey(self) -> str:
        """The SS58 address, of the network prefix 42."""
        public, _ = sr25519.pair_from_seed(self.seed)
        content = bytes([42]) + public
        checksum = hashlib.blake2b(b"SS58PRE" + content).digest()[:2]
        return _base58(content + checksum)

    def sign(self, message: bytes) -> bytes:
        """Signs as a wallet does."""
        signature: bytes = sr25519.sign(sr25519.pair_from_seed(self.seed), message)
        return signature


def _base58(content: bytes) -> str:
    # The first byte is never 0 here, and so no digit is lost.
    number = int.from_bytes(content, "big")
    digits = ""
    while number:
        number, digit = divmod(number, 58)
        digits = _ALPHABET[digit] + digits
    return digits


_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

MINER = Key(1)
VALIDATOR = Key(2)
STRANGER = Key(3)
