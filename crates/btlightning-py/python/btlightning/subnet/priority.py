"""The bounded queue in which requests wait for their turn, the most important first."""

import asyncio
import math
from bisect import insort
from dataclasses import dataclass, field
from typing import Final

MAX_WAITING: Final = 1024
"""Requests that may wait for a turn; one more is refused, or takes the place of a lesser one."""


class QueueFullError(Exception):
    """Too many requests are waiting, and none of them is less important than this one."""


@dataclass(order=True, slots=True)
class _Waiter:
    priority: float
    order: int
    """Falls with every arrival, so that of equal requests the older one comes first."""
    turn: asyncio.Future[None] = field(compare=False)


class PriorityGate:
    """Lets `slots` requests run at a time, and others wait in the order of their priority.

    Of two requests with the same priority the older one goes first. When `max_waiting` requests
    wait, the least important of them, or the one that arrives, is refused: many requests with a low
    priority cannot shut out one with a high priority. For use in one event loop.
    """

    def __init__(self, slots: int, max_waiting: int = MAX_WAITING) -> None:
        """Makes a gate.

        Args:
            slots: Requests that may run at a time; at least 1.
            max_waiting: Requests that may wait.

        Raises:
            ValueError: When `slots` is less than 1 or `max_waiting` negative.
        """
        if slots < 1:
            raise ValueError(f"slots ({slots}) must be at least 1")
        if max_waiting < 0:
            raise ValueError(f"max_waiting ({max_waiting}) must not be negative")
        self._free = slots
        self._max_waiting = max_waiting
        self._waiting: list[_Waiter] = []
        self._arrivals = 0

    @property
    def waiting(self) -> int:
        """How many requests wait for a turn."""
        return len(self._waiting)

    async def enter(self, priority: float) -> None:
        """Waits for a turn, which `leave` gives back.

        Cancelling leaves the queue.

        Raises:
            QueueFullError: When there is no room, at once or because of a more important request.
        """
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        # A priority that is not a number would spoil the order of all others.
        weight = 0.0 if math.isnan(priority) else priority
        waiter = _Waiter(weight, -self._arrivals, turn)
        insort(self._waiting, waiter)
        if len(self._waiting) > self._max_waiting:
            self._waiting.pop(0).turn.set_exception(QueueFullError)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                # The turn came in the same moment: it is the next one's.
                self.leave()
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise

    def leave(self) -> None:
        """Gives the turn to the most important request that waits."""
        if self._waiting:
            self._waiting.pop().turn.set_result(None)
        else:
            self._free += 1
