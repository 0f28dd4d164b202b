"""Mixed with bittensor 10.5: its synapses, wallets, configs and axon infos are accepted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("subnet_mixed.py")


@pytest.mark.timeout(180)
def test_objects_of_bittensor_are_accepted(tmp_path: Path) -> None:
    # Any interpreter that has both packages; bittensor is large.
    python = os.environ.get("LIGHTNING_BITTENSOR_PYTHON", sys.executable)
    # It writes folders into the home directory when it is imported.
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, SCRIPT], env=environment, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("all is well\n")
