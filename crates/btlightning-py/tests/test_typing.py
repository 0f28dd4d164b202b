"""What type checkers tell users: correct programs pass `mypy --strict`, wrong ones do not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CORRECT = """
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, assert_type

from btlightning import (
    Answer,
    AsyncLightning,
    AsyncLightningServer,
    AxonInfo,
    Lightning,
    LightningError,
    LightningServer,
    QueryTimeoutError,
    RequestContext,
    SynapseResponse,
)

axon: AxonInfo = {"hotkey": "5F4G", "ip": "192.0.2.1", "port": 8443}


@dataclass
class Question:
    text: str


def published() -> str | None:
    client = Lightning("5CoD", connect_timeout_secs=5)
    client.initialize_connections([axon])
    response = client.query_axon(axon, {"synapse_type": "echo", "data": {"key": 1}}, 12.0)
    assert_type(response, SynapseResponse)
    assert_type(response["success"], bool)
    for chunk in client.query_axon_stream(axon, {"synapse_type": "tokens"}):
        assert_type(chunk, bytes)
    stats = client.get_connection_stats()
    assert_type(stats["total_connections"], str)
    client.close()
    return response["error"]


def blocking() -> None:
    with Lightning(seed=bytes(32)) as client:
        client.connect([axon, "5F4G@192.0.2.1:8443"])
        try:
            answer = client.query(axon, "echo", {"key": 1}, timeout=1.5, priority=7)
        except QueryTimeoutError as error:
            assert_type(error.retry_safe, bool)
            return
        assert_type(answer, Answer)
        assert_type(answer.data, dict[str, Any])
        for _, result in client.query_many([axon], "echo", wanted=1):
            assert_type(result, Answer | LightningError)


async def asynchronous() -> None:
    async with AsyncLightning(seed=bytes(32)) as client:
        await client.connect([axon])
        assert_type(await client.query(axon, "echo"), Answer)
        async for chunk in client.stream(axon, "tokens"):
            assert_type(chunk, bytes)
        async for _, result in client.query_many([axon], "echo"):
            assert_type(result, Answer | LightningError)


server = LightningServer(seed=bytes(32))
twin = AsyncLightningServer(seed=bytes(32))


@server.synapse("greet")
def greet(question: Question, context: RequestContext) -> dict[str, str]:
    return {question.text: context.hotkey}


@server.stream("tokens")
def tokens(data: dict[str, Any]) -> Iterator[bytes]:
    yield b"one"


@twin.synapse
async def ask(data: dict[str, Any]) -> dict[str, Any]:
    return data


@twin.stream(buffers=True)
async def count(data: dict[str, Any]) -> AsyncIterator[bytes]:
    yield b"one"


def direct(context: RequestContext) -> None:
    # A decorated function keeps its type.
    assert_type(greet(Question("hello"), context), dict[str, str])
"""

# A program for each line, and the code of what mypy says about it.
WRONG = {
    "Lightning(5)": "arg-type",
    'Lightning("5CoD", no_such_setting=1)': "call-arg",
    'client.query_axon(axon, {"synapse_type": "echo"})["succes"]': "typeddict-item",
    'client.query(axon, "echo", {1: 2})': "dict-item",
    'client.query(axon, "echo", timeout="soon")': "arg-type",
    'client.query(axon, "echo").no_such_field': "attr-defined",
    "client.query(axon)": "call-arg",
    'async_client.query(axon, "echo").data': "attr-defined",
    'client.set_validator_keypair("a text")': "arg-type",
}


def errors_of(tmp_path: Path, program: str) -> list[str]:
    """What mypy says about a program that uses the package as it is installed."""
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    completed = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary", "program.py"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert completed.returncode in (0, 1), completed.stderr
    return completed.stdout.splitlines()


@pytest.mark.timeout(300)
def test_a_correct_program_passes(tmp_path: Path) -> None:
    assert errors_of(tmp_path, CORRECT) == []


@pytest.mark.timeout(300)
def test_mistakes_are_found(tmp_path: Path) -> None:
    program = [
        "from btlightning import AsyncLightning, Lightning",
        'axon = "5F4G@192.0.2.1:8443"',
        'client = Lightning("5CoD")',
        'async_client = AsyncLightning("5CoD")',
        *WRONG,
    ]
    found = {}
    for error in errors_of(tmp_path, "\n".join(program) + "\n"):
        match = re.fullmatch(r"program\.py:(\d+): error: .*\[([a-z-]+)\]", error)
        if match:
            found[program[int(match[1]) - 1]] = match[2]
    assert found == WRONG
