"""Code of a subnet that was written for bittensor 10.5, with only its import lines changed."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from btlightning import LightningError, WalletFolder
from btlightning.subnet import Axon, AxonInfo, Dendrite, Synapse
from btlightning.subnet import logging as subnet_logging
from keys import MINER, STRANGER, VALIDATOR, Key
from subnet_parties import NEURONS, PROTOCOL, Wallet, changed, load

LESSER = Key(4)


def config(**blacklist: Any) -> SimpleNamespace:
    """A config object as bittensor makes them, with a free port of the loopback interface."""
    axon = SimpleNamespace(ip="127.0.0.1", port=0, external_ip=None, external_port=None)
    checks = {"force_validator_permit": False} | blacklist
    return SimpleNamespace(axon=axon, blacklist=SimpleNamespace(**checks))


@pytest.fixture
def subnet() -> dict[str, Any]:
    """The module of the subnet."""
    return load(changed(PROTOCOL), changed(NEURONS))


@pytest.fixture
def metagraph() -> SimpleNamespace:
    """Who is registered: a miner, a validator, and one without a permit."""
    return SimpleNamespace(
        hotkeys=[MINER.hotkey, VALIDATOR.hotkey, LESSER.hotkey],
        validator_permit=[False, True, False],
        S=[0.0, 1000.0, 1.0],
        axons=[],
    )


@pytest.fixture
def miner(subnet: dict[str, Any], metagraph: SimpleNamespace) -> Iterator[Any]:
    """A running miner, which the metagraph knows."""
    settings = config(force_validator_permit=True)
    miner = subnet["Miner"](Wallet(MINER), settings, metagraph)
    miner.axon.start()
    nobody = AxonInfo(0, "0.0.0.0", 0, 4, STRANGER.hotkey, "")
    metagraph.axons = [miner.axon.info(), nobody, miner.axon.info()]
    yield miner
    miner.axon.stop()


async def test_the_template_runs(
    subnet: dict[str, Any], metagraph: SimpleNamespace, miner: Any
) -> None:
    validator = subnet["Validator"](Wallet(VALIDATOR), metagraph)
    async with validator.dendrite:
        responses, rewards = await validator.forward([0, 1, 2])
    # In the order of the axons; the one that serves nowhere has no answer.
    assert responses == [42, None, 42]
    assert rewards == [1.0, 0.0, 1.0]
    assert miner.seen == [VALIDATOR.hotkey, VALIDATOR.hotkey]


@pytest.mark.parametrize(
    ("key", "reason"), [(STRANGER, "Unrecognized hotkey"), (LESSER, "Non-validator hotkey")]
)
async def test_the_blacklist_of_the_template_refuses(
    subnet: dict[str, Any], metagraph: SimpleNamespace, miner: Any, key: Key, reason: str
) -> None:
    validator = subnet["Validator"](Wallet(key), metagraph)
    async with validator.dendrite as dendrite:
        synapse = subnet["Doubled"](number=3)
        answer = await dendrite(metagraph.axons[0], synapse, deserialize=False)
    assert answer.is_blacklist and answer.is_failure and not answer.is_success
    assert answer.dendrite.status_code == answer.axon.status_code == 403
    assert answer.dendrite.status_message == f"Forbidden. Key is blacklisted: {reason}."
    assert answer.doubled is None and answer.number == 3
    assert miner.seen == []


def test_sync_code_may_query(
    subnet: dict[str, Any], metagraph: SimpleNamespace, miner: Any
) -> None:
    dendrite = subnet["Validator"](Wallet(VALIDATOR), metagraph).dendrite
    doubled = subnet["Doubled"]
    assert dendrite.query(miner.axon, doubled(number=4)) == 8
    assert dendrite.query([miner.axon], doubled(number=5)) == [10]
    dendrite.close_session()
    # Later calls connect anew.
    assert dendrite.query(miner.axon, doubled(number=6)) == 12
    dendrite.close_session()


def test_the_terminals_say_who_and_how_long(
    subnet: dict[str, Any], metagraph: SimpleNamespace, miner: Any
) -> None:
    dendrite = subnet["Validator"](Wallet(VALIDATOR), metagraph).dendrite
    answer = dendrite.query(miner.axon, subnet["Doubled"](number=1), deserialize=False, timeout=9)
    dendrite.close_session()
    assert answer.name == "Doubled" and answer.timeout == 9.0
    assert (answer.axon.hotkey, answer.axon.port) == (MINER.hotkey, miner.axon.port)
    assert answer.axon.uuid == miner.axon.uuid and answer.axon.nonce > 0
    assert (answer.dendrite.hotkey, answer.dendrite.uuid) == (VALIDATOR.hotkey, dendrite.uuid)
    assert answer.dendrite.status_message == answer.axon.status_message == "Success"
    assert 0 <= answer.axon.process_time <= answer.dendrite.process_time
    assert [known.dendrite.status_code for known in dendrite.synapse_history] == [200]


def test_every_axon_answers_pings() -> None:
    with Axon(Wallet(MINER), port=0, ip="127.0.0.1") as axon:
        dendrite = Dendrite(Wallet(VALIDATOR))
        answer = dendrite.query(axon)
        dendrite.close_session()
    assert type(answer) is Synapse and answer.is_success


def test_an_axon_describes_itself() -> None:
    axon = Axon(Wallet(MINER), port=9000, ip="127.0.0.1", external_ip="192.0.2.7", external_port=9)
    info = axon.info()
    assert (info.ip, info.port, info.ip_type, info.protocol) == ("192.0.2.7", 9, 4, 4)
    assert (info.hotkey, info.coldkey) == (MINER.hotkey, Key(200).hotkey)
    assert info.is_serving and info.ip_str() == "/ipv4/192.0.2.7:9"
    assert axon.full_address == "127.0.0.1:9000" and not axon.started
    assert list(axon.forward_class_types.values()) == [Synapse]


def test_stopping_and_starting_again() -> None:
    axon = Axon(Wallet(MINER), port=0, ip="127.0.0.1")
    assert axon.stop() is axon
    dendrite = Dendrite(Wallet(VALIDATOR))
    for _ in range(2):
        assert axon.start() is axon.start() and axon.started
        assert dendrite.query(axon.info()).is_success
        axon.stop()
        assert not axon.started
    assert dendrite.query(axon.info(), timeout=1).is_failure
    dendrite.close_session()


def test_settings_come_from_arguments_then_config(monkeypatch: pytest.MonkeyPatch) -> None:
    given = SimpleNamespace(axon=SimpleNamespace(ip="[::]", port=9100, max_workers=3))
    axon = Axon(Wallet(MINER), config=given)
    # bittensor listens on all IPv4 addresses, whatever its default says.
    assert (axon.ip, axon.port, axon.max_workers) == ("0.0.0.0", 9100, 3)
    assert Axon(Wallet(MINER), config=given, port=9200, max_workers=4).port == 9200
    assert Axon(Wallet(MINER), config={"axon": {"port": 9300}}).port == 9300
    standard = Axon(Wallet(MINER))
    assert (standard.port, standard.max_workers) == (8091, 10)
    monkeypatch.setenv("BT_AXON_PORT", "9400")
    assert Axon.config().axon.port == 9400


def test_arguments_can_be_added_to_a_parser() -> None:
    parser = argparse.ArgumentParser()
    Axon.add_args(parser)
    Axon.add_args(parser)  # as programs do that build their parser in several places
    given = vars(parser.parse_args(["--axon.port", "9500", "--axon.external_ip", "192.0.2.7"]))
    assert (given["axon.port"], given["axon.external_ip"]) == (9500, "192.0.2.7")
    assert given["axon.max_workers"] == 10


def test_wallets_of_every_kind(tmp_path: Path) -> None:
    for wallet in (Wallet(MINER), Wallet(MINER).hotkey, MINER.seed):
        assert Axon(wallet).hotkey == Dendrite(wallet).hotkey == MINER.hotkey
        assert Dendrite(wallet).keypair.ss58_address == MINER.hotkey
    folder = tmp_path / "cold" / "hotkeys"
    folder.mkdir(parents=True)
    key = {"secretSeed": f"0x{MINER.seed.hex()}", "ss58Address": MINER.hotkey}
    (folder / "hot").write_text(json.dumps(key))
    section = SimpleNamespace(name="cold", hotkey="hot", path=str(tmp_path))
    named = SimpleNamespace(wallet=section, axon=SimpleNamespace(ip="127.0.0.1", port=0))
    with Axon(config=named) as axon:
        dendrite = Dendrite(WalletFolder("cold", "hot", str(tmp_path)))
        assert dendrite.query(axon).is_success
        dendrite.close_session()
    with pytest.raises(ValueError, match="no hotkey"):
        Dendrite(WalletFolder("cold", "other", str(tmp_path)))


def test_log_lines_have_levels_and_parts(caplog: pytest.LogCaptureFixture) -> None:
    log = subnet_logging
    log.set_trace()
    try:
        log.trace("a", "before", "after")
        log.success("b")
        log.warning("c")
    finally:
        log.set_trace(False)
    log.debug("not shown")
    lines = [(r.levelname, r.getMessage(), r.funcName) for r in caplog.records]
    where = "test_log_lines_have_levels_and_parts"
    assert lines == [
        ("TRACE", "before - a - after", where),
        ("SUCCESS", "b", where),
        ("WARNING", "c", where),
    ]


def test_a_program_may_end_without_stopping_anything() -> None:
    program = f"""
from btlightning.subnet import Axon, Dendrite, Synapse
axon = Axon({MINER.seed!r}, ip="127.0.0.1", port=0).start()
dendrite = Dendrite({VALIDATOR.seed!r})
assert dendrite.query(axon).is_success
print("served")
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "served\n", "")


@pytest.mark.parametrize("wrong", [{"port": 65536}, {"external_port": -1}, {"max_workers": -1}])
def test_settings_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"^{name} \("):
        Axon(Wallet(MINER), **wrong)


def test_a_port_that_is_taken_is_an_error() -> None:
    with Axon(Wallet(MINER), port=0, ip="127.0.0.1") as first:
        second = Axon(Wallet(MINER), port=first.port, ip="127.0.0.1")
        with pytest.raises(LightningError, match="in use"):
            second.start()
        assert not second.started
