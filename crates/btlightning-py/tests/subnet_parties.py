"""Wallets for the tests of `btlightning.subnet`, and a subnet's code as people write it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from keys import Key

COLD = Key(200)


@dataclass(frozen=True)
class Keypair:
    """What a wallet of bittensor returns as its hotkey."""

    key: Key

    @property
    def ss58_address(self) -> str:
        """The address."""
        return self.key.hotkey

    def sign(self, data: bytes) -> bytes:
        """Signs."""
        return self.key.sign(data)


@dataclass(frozen=True)
class Wallet:
    """A wallet of bittensor: two keys."""

    key: Key
    cold: Key = COLD

    @property
    def hotkey(self) -> Keypair:
        """The key that signs."""
        return Keypair(self.key)

    @property
    def coldkeypub(self) -> Keypair:
        """The public half of the other key."""
        return Keypair(self.cold)


PROTOCOL = '''
import typing
import bittensor as bt


class Doubled(bt.Synapse):
    """Asks a miner to double a number."""

    number: int
    doubled: typing.Optional[int] = None

    def deserialize(self) -> int:
        return self.doubled
'''
"""A subnet's protocol, as its template for bittensor 10.5 has it in a module of its own."""

NEURONS = '''
import typing
import bittensor as bt


class Miner:
    """Doubles numbers for those who are registered."""

    def __init__(self, wallet, config, metagraph):
        self.metagraph = metagraph
        self.config = config
        self.seen = []
        self.axon = bt.Axon(wallet=wallet, config=config)
        self.axon.attach(
            forward_fn=self.forward,
            blacklist_fn=self.blacklist,
            priority_fn=self.priority,
        )

    async def forward(self, synapse: Doubled) -> Doubled:
        self.seen.append(synapse.dendrite.hotkey)
        synapse.doubled = synapse.number * 2
        return synapse

    async def blacklist(self, synapse: Doubled) -> typing.Tuple[bool, str]:
        if synapse.dendrite is None or synapse.dendrite.hotkey is None:
            bt.logging.warning("a request without a dendrite or hotkey")
            return True, "Missing dendrite or hotkey"
        if synapse.dendrite.hotkey not in self.metagraph.hotkeys:
            bt.logging.trace(f"Blacklisting un-registered hotkey {synapse.dendrite.hotkey}")
            return True, "Unrecognized hotkey"
        uid = self.metagraph.hotkeys.index(synapse.dendrite.hotkey)
        if self.config.blacklist.force_validator_permit and not self.metagraph.validator_permit[uid]:
            bt.logging.warning(f"a request from non-validator hotkey {synapse.dendrite.hotkey}")
            return True, "Non-validator hotkey"
        return False, "Hotkey recognized!"

    async def priority(self, synapse: Doubled) -> float:
        if synapse.dendrite is None or synapse.dendrite.hotkey is None:
            return 0.0
        caller_uid = self.metagraph.hotkeys.index(synapse.dendrite.hotkey)
        priority = float(self.metagraph.S[caller_uid])
        bt.logging.trace(f"Prioritizing {synapse.dendrite.hotkey} with value: {priority}")
        return priority


class Validator:
    """Asks miners to double its step."""

    def __init__(self, wallet, metagraph):
        self.metagraph = metagraph
        self.step = 21
        self.dendrite = bt.Dendrite(wallet=wallet)

    async def forward(self, uids):
        responses = await self.dendrite(
            axons=[self.metagraph.axons[uid] for uid in uids],
            synapse=Doubled(number=self.step),
            deserialize=True,
        )
        return responses, self.rewards(responses)

    def rewards(self, responses):
        return [1.0 if response == self.step * 2 else 0.0 for response in responses]
'''
"""A subnet's miner and validator, in the manner of the same template."""

BEFORE = "import bittensor as bt"
AFTER = "import btlightning.subnet as bt"


def changed(source: str) -> str:
    """The source with its import line changed, and nothing else."""
    assert source.count("bittensor") == source.count(BEFORE) == 1
    return source.replace(BEFORE, AFTER)


def load(*sources: str) -> dict[str, Any]:
    """Runs sources as one module, and returns its names."""
    module = ModuleType("subnet_under_test")
    # pydantic looks there for the names in annotations.
    sys.modules[module.__name__] = module
    for source in sources:
        code = compile(source, module.__name__, "exec", dont_inherit=True)
        exec(code, module.__dict__)
    return module.__dict__
