"""The queue in which requests wait: its order and its bound."""

# Annotations are looked at, also those that name local classes: no postponed evaluation here.

import asyncio
import threading

import pytest

from btlightning.subnet import Axon, Dendrite, PriorityGate, QueueFullError, Synapse
from btlightning.subnet.priority import MAX_WAITING
from keys import MINER, VALIDATOR
from subnet_parties import Wallet


class Ranked(Synapse):
    """A request that says how important it is."""

    rank: float = 0.0


async def enter(gate: PriorityGate, priority: float) -> asyncio.Task[None]:
    """Has a task wait at the gate, and returns when it does."""
    task = asyncio.ensure_future(gate.enter(priority))
    await asyncio.sleep(0)
    return task


async def served(gate: PriorityGate, tasks: dict[str, asyncio.Task[None]]) -> str:
    """Gives one turn, and returns who got it."""
    before = {name for name, task in tasks.items() if task.done()}
    gate.leave()
    await asyncio.sleep(0)
    (name,) = {name for name, task in tasks.items() if task.done()} - before
    return name


async def test_the_most_important_goes_first_then_the_oldest() -> None:
    gate = PriorityGate(1)
    await gate.enter(0)
    ranks = {"a": 1.0, "b": 5.0, "c": 1.0, "d": -2.0, "e": float("nan"), "f": 5.0}
    tasks = {name: await enter(gate, rank) for name, rank in ranks.items()}
    assert gate.waiting == 6
    order = [await served(gate, tasks) for _ in tasks]
    assert order == ["b", "f", "a", "c", "e", "d"] and gate.waiting == 0


async def test_slots_are_taken_and_given_back() -> None:
    gate = PriorityGate(2, max_waiting=0)
    await gate.enter(0)
    await gate.enter(0)
    with pytest.raises(QueueFullError):
        await gate.enter(9)
    gate.leave()
    await gate.enter(0)


async def test_a_full_queue_refuses_the_least_important() -> None:
    gate = PriorityGate(1, max_waiting=2)
    await gate.enter(0)
    low, middle = await enter(gate, 1), await enter(gate, 2)
    with pytest.raises(QueueFullError):
        await gate.enter(0.5)
    # Of equal ones the newer is refused.
    with pytest.raises(QueueFullError):
        await gate.enter(1)
    high = await enter(gate, 3)
    with pytest.raises(QueueFullError):
        await low
    assert not middle.done() and not high.done()
    gate.leave()
    await high
    gate.leave()
    await middle


async def test_cancelling_leaves_the_queue() -> None:
    gate = PriorityGate(1)
    await gate.enter(0)
    waits, overtaken = await enter(gate, 1), await enter(gate, 2)
    overtaken.cancel()
    await asyncio.wait([overtaken])
    assert gate.waiting == 1
    # One that is cancelled in the moment of its turn passes it on.
    late = await enter(gate, 3)
    gate.leave()
    late.cancel()
    await asyncio.wait([late])
    await waits
    gate.leave()
    await gate.enter(0)


@pytest.mark.parametrize(("slots", "waiting"), [(0, 1), (1, -1)])
def test_limits_are_checked(slots: int, waiting: int) -> None:
    with pytest.raises(ValueError, match="must"):
        PriorityGate(slots, waiting)


class Worker:
    """A forward function that holds its thread, and a priority function."""

    def __init__(self) -> None:
        self.served: list[float] = []
        self.began = threading.Event()
        self.go_on = threading.Event()

    def forward(self, synapse: Ranked) -> Ranked:
        """Blocks until it may go on."""
        self.served.append(synapse.rank)
        self.began.set()
        assert self.go_on.wait(30)
        return synapse

    def priority(self, synapse: Ranked) -> float:
        """As the caller says; a real one looks at stakes."""
        return synapse.rank


async def test_requests_are_served_in_order_of_priority() -> None:
    worker = Worker()
    axon = Axon(Wallet(MINER), port=0, ip="127.0.0.1", max_workers=1)
    axon.attach(worker.forward, priority_fn=worker.priority)
    with axon:
        async with Dendrite(Wallet(VALIDATOR)) as dendrite:
            first = asyncio.ensure_future(dendrite(axon, Ranked(rank=0)))
            assert await asyncio.to_thread(worker.began.wait, 30)
            gate = axon._serving._thread_gate
            others = []
            for count, rank in enumerate([1.0, 3.0, 2.0], start=1):
                others.append(asyncio.ensure_future(dendrite(axon, Ranked(rank=rank))))
                while gate.waiting < count:
                    await asyncio.sleep(0)
            worker.go_on.set()
            answers = await asyncio.gather(first, *others)
    assert all(answer.is_success for answer in answers)
    assert worker.served == [0.0, 3.0, 2.0, 1.0]


async def test_more_than_the_queue_holds_is_503() -> None:
    worker = Worker()
    axon = Axon(Wallet(MINER), port=0, ip="127.0.0.1", max_workers=1)
    axon.attach(worker.forward, priority_fn=worker.priority)
    with axon:
        async with Dendrite(Wallet(VALIDATOR)) as dendrite:
            first = asyncio.ensure_future(dendrite(axon, Ranked(rank=0)))
            assert await asyncio.to_thread(worker.began.wait, 30)
            # A smaller queue than MAX_WAITING, so that few requests fill it.
            gate = axon._serving._thread_gate
            gate._max_waiting = 1
            waits = asyncio.ensure_future(dendrite(axon, Ranked(rank=2)))
            while gate.waiting < 1:
                await asyncio.sleep(0)
            refused = await dendrite(axon, Ranked(rank=1))
            worker.go_on.set()
            assert (await first).is_success and (await waits).is_success
    assert refused.dendrite.status_code == 503 and not refused.is_success
    assert "too many requests are waiting" in refused.dendrite.status_message
    assert MAX_WAITING == 1024


async def test_cancelled_requests_leave_the_queue() -> None:
    worker = Worker()
    axon = Axon(Wallet(MINER), port=0, ip="127.0.0.1", max_workers=1)
    axon.attach(worker.forward, priority_fn=worker.priority)
    with axon:
        async with Dendrite(Wallet(VALIDATOR)) as dendrite:
            first = asyncio.ensure_future(dendrite(axon, Ranked(rank=0)))
            assert await asyncio.to_thread(worker.began.wait, 30)
            gate = axon._serving._thread_gate
            waits = asyncio.ensure_future(dendrite(axon, Ranked(rank=2)))
            while gate.waiting < 1:
                await asyncio.sleep(0)
            waits.cancel()
            while gate.waiting:
                await asyncio.sleep(0)
            worker.go_on.set()
            assert (await first).is_success
    assert worker.served == [0.0]
