"""Requests in a closed loop, and what is said of them: one line of JSON.

Each of the callers sends its next request as soon as its last one is answered. What is under way
when the time is over is waited for and counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

Latencies = list[float]


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that all the programs have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", type=int, default=1024, help="bytes in a request")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long to measure")
    return parser


def on_threads(call: Callable[[], None], callers: int, seconds: float) -> None:
    """Measures calls that block, each caller on a thread of its own, and prints the result.

    Args:
        call: Sends a request and checks its answer.
        callers: How many threads.
        seconds: How long, after a quarter of that to warm up.
    """
    _call_until(call, time.perf_counter())
    with ThreadPoolExecutor(callers) as pool:
        for duration in (seconds / 4, seconds):
            ready = threading.Barrier(callers + 1)
            stop = _Stop()
            runs = [pool.submit(_call_together, call, ready, stop) for _ in range(callers)]
            cpu, started = time.process_time(), time.perf_counter()
            stop.at = started + duration
            ready.wait()
            latencies = [latency for run in runs for latency in run.result()]
            elapsed = time.perf_counter() - started
            cpu = time.process_time() - cpu
    _print(latencies, elapsed, cpu)


async def on_tasks(call: Callable[[], Awaitable[None]], callers: int, seconds: float) -> None:
    """Measures calls that are awaited, each caller in a task of its own, and prints the result.

    Args:
        call: Sends a request and checks its answer.
        callers: How many tasks.
        seconds: How long, after a quarter of that to warm up.
    """
    await call()
    for duration in (seconds / 4, seconds):
        cpu, started = time.process_time(), time.perf_counter()
        runs = [_await_until(call, started + duration) for _ in range(callers)]
        latencies = [latency for run in await asyncio.gather(*runs) for latency in run]
        elapsed = time.perf_counter() - started
        cpu = time.process_time() - cpu
    _print(latencies, elapsed, cpu)


class _Stop:
    """When to stop; known once all threads are there."""

    at = 0.0


def _call_together(call: Callable[[], None], ready: threading.Barrier, stop: _Stop) -> Latencies:
    ready.wait()
    return _call_until(call, stop.at)


def _call_until(call: Callable[[], None], stop: float) -> Latencies:
    latencies: Latencies = []
    sent = time.perf_counter()
    # At least one each, however short the time.
    while not latencies or sent < stop:
        call()
        answered = time.perf_counter()
        latencies.append(answered - sent)
        sent = answered
    return latencies


async def _await_until(call: Callable[[], Awaitable[None]], stop: float) -> Latencies:
    latencies: Latencies = []
    sent = time.perf_counter()
    while not latencies or sent < stop:
        await call()
        answered = time.perf_counter()
        latencies.append(answered - sent)
        sent = answered
    return latencies


def _print(latencies: Latencies, elapsed: float, cpu: float) -> None:
    latencies.sort()
    sample = {
        "requests": len(latencies),
        "seconds": elapsed,
        "per_second": len(latencies) / elapsed,
        "p50_us": _percentile(latencies, 50) * 1e6,
        "p95_us": _percentile(latencies, 95) * 1e6,
        "p99_us": _percentile(latencies, 99) * 1e6,
        "cpu_us_per_request": cpu * 1e6 / len(latencies),
    }
    print(json.dumps(sample), flush=True)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    """The smallest value that this share does not exceed."""
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[rank - 1]
