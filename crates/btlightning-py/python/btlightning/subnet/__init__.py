"""Bittensor's axon, dendrite and synapse, over QUIC.

Code written for bittensor up to version 10 runs with its imports changed. See the guide
`docs/python/moving-from-bittensor.md` for what differs. Needs pydantic: install
`btlightning[subnet]`.

- `Synapse` and `StreamingSynapse` are what a request and its answer are made of.
- `Axon` serves them, with `attach(forward_fn, blacklist_fn, priority_fn, verify_fn)`.
- `Dendrite` sends them, to one axon or to many.
"""

from btlightning.subnet.axon import Axon
from btlightning.subnet.axon_info import AxonInfo
from btlightning.subnet.dendrite import Dendrite
from btlightning.subnet.log import logging
from btlightning.subnet.priority import PriorityGate, QueueFullError
from btlightning.subnet.route import SignatureError
from btlightning.subnet.streaming import (
    BTStreamingResponseModel,
    StreamingAnswer,
    StreamingReply,
    StreamingSynapse,
    StreamReader,
)
from btlightning.subnet.synapse import Synapse
from btlightning.subnet.terminal import TerminalInfo

__all__ = [
    "Axon",
    "AxonInfo",
    "BTStreamingResponseModel",
    "Dendrite",
    "PriorityGate",
    "QueueFullError",
    "SignatureError",
    "StreamReader",
    "StreamingAnswer",
    "StreamingReply",
    "StreamingSynapse",
    "Synapse",
    "TerminalInfo",
    "logging",
]
