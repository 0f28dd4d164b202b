"""The Python that the documentation shows, run as it stands there.

A document's blocks share one namespace and run in order, in an interpreter of their own. Blocks
that only make sense elsewhere are fenced as `text` or `diff`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import btlightning
from conftest import Axon, Miner
from keys import MINER, VALIDATOR

TESTS = Path(__file__).parent
ROOT = TESTS.parents[2]
DOCUMENTS = sorted([*ROOT.glob("docs/python/*.md"), TESTS.parent / "README.md"])

FENCED = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)

# Runs what it reads from stdin, top-level `await` included, in one event loop.
RUNNER = """
import ast, asyncio, inspect, sys

path = sys.argv[1]
code = compile(sys.stdin.read(), path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
names = {"__name__": "__main__", "__file__": path}
if code.co_flags & inspect.CO_COROUTINE:
    asyncio.run(eval(code, names))
else:
    exec(code, names)
"""

# The sample of the published package's front page. Only what follows it differs from the one there:
# the hotkeys and the address are replaced before it runs.
SAMPLE = """
from btlightning import Lightning

client = Lightning(wallet_hotkey="5GrwvaEF...")
client.set_python_signer(my_signer_callback)
client.initialize_connections([
    {"hotkey": "5FHneW46...", "ip": "192.168.1.1", "port": 8443}
])
response = client.query_axon(
    {"hotkey": "5FHneW46...", "ip": "192.168.1.1", "port": 8443},
    {"synapse_type": "MyQuery", "data": {"key": "value"}}
)
"""


def blocks(document: str) -> str:
    """The Python of a document, every line at its own number, so that tracebacks are right."""
    lines = [""] * document.count("\n")
    for match in FENCED.finditer(document):
        indent = len(match[1])
        first = document.count("\n", 0, match.start(2))
        for number, line in enumerate(match[2].splitlines(), first):
            lines[number] = line[indent:]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", [pytest.param(path, id=path.name) for path in DOCUMENTS])
def test_the_examples_of_a_document_run(path: Path, tmp_path: Path) -> None:
    source = blocks(path.read_text())
    assert source.strip(), f"{path.name} shows no Python"
    completed = subprocess.run(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", RUNNER, str(path)],
        check=False,
        input=source,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert completed.returncode == 0, f"{completed.stdout}\n{completed.stderr}"


def test_blocks_keep_their_lines() -> None:
    document = "# Title\n\n```python\na = 1\n```\ntext\n- item\n  ```python\n  b = 2\n  ```\n"
    document += "```text\nno code\n```\n"
    assert blocks(document).splitlines()[:9] == ["", "", "", "a = 1", "", "", "", "", "b = 2"]
    assert "no code" not in blocks(document)


def test_the_published_sample_runs_as_written(start_miner: Callable[..., Miner]) -> None:
    def answer(data: dict[str, Any]) -> dict[str, Any]:
        return {"answer to": data["key"]}

    axon: Axon = start_miner(lambda server: server.register_synapse_handler("MyQuery", answer)).axon
    sample = SAMPLE
    for placeholder, value in {
        "5GrwvaEF...": VALIDATOR.hotkey,
        "5FHneW46...": MINER.hotkey,
        "192.168.1.1": axon["ip"],
        "8443": str(axon["port"]),
    }.items():
        assert placeholder in sample
        sample = sample.replace(placeholder, value)
    names: dict[str, Any] = {"my_signer_callback": VALIDATOR.sign}
    eval(compile(sample, "sample", "exec"), names)
    assert isinstance(names["client"], btlightning.Lightning)
    assert names["response"]["success"] is True
    assert names["response"]["data"] == {"answer to": "value"}
    names["client"].close()
