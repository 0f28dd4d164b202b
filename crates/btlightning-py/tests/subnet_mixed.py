"""Objects of bittensor 10.5 in axons and dendrites of this package; run as a program.

Its own process, since importing bittensor takes over the logging of the one it is in.
"""

import asyncio
import socket
import sys
import tempfile
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import bittensor as bt
import numpy as np
from bittensor.core.extrinsics.serving import serve_axon_extrinsic
from bittensor.core.tensor import dtypes
from bittensor.utils import networking

import btlightning.subnet as ours
from subnet_parties import NEURONS, PROTOCOL, changed, load

NETUID = 7


class Weights(bt.Synapse):
    """A synapse of bittensor's with one of its tensors."""

    weights: bt.Tensor | None = None
    total: float = 0.0


class Prompt(bt.StreamingSynapse):
    """A streaming synapse of bittensor's."""

    messages: list[str]
    completion: str = ""

    async def process_streaming_response(self, response):  # type: ignore[no-untyped-def]
        async for chunk in response.content.iter_any():
            self.completion += chunk.decode()
            yield chunk.decode()

    def deserialize(self) -> str:
        return self.completion

    def extract_response_json(self, response):  # type: ignore[no-untyped-def]
        headers = {k.decode(): v.decode() for k, v in response.__dict__["_raw_headers"]}
        assert headers["bt_header_axon_status_code"] == "200"
        return {"messages": self.messages, "completion": self.completion}


def wallet(folder: str, uri: str) -> bt.Wallet:
    """A wallet of bittensor's with known keys."""
    made = bt.Wallet(name=uri.strip("/"), hotkey="default", path=folder)
    keypair = bt.Keypair.create_from_uri(uri)
    made.set_hotkey(keypair, encrypt=False, overwrite=True)
    made.set_coldkeypub(keypair, overwrite=True)
    return made


def add(synapse: Weights) -> Weights:
    """Adds a tensor up, and sends it back doubled."""
    assert synapse.weights is not None and isinstance(synapse.dendrite, bt.TerminalInfo)
    numbers = synapse.weights.deserialize()
    synapse.total = float(numbers.sum())
    synapse.weights = bt.Tensor.serialize(numbers * 2)
    return synapse


def prompt(synapse: Prompt) -> bt.StreamingSynapse.BTStreamingResponse:
    """Answers with the messages, as chunks."""

    async def send_all(messages, send):  # type: ignore[no-untyped-def]
        for message in messages:
            body = {"type": "http.response.body", "body": message.encode(), "more_body": True}
            await send(body)

    return synapse.create_streaming_response(partial(send_all, synapse.messages))


def subnet(module: dict[str, Any], miner: bt.Wallet, validator: bt.Wallet, port: int) -> Any:
    """A miner of the subnet, and the metagraph that lists it and a validator."""
    settings = bt.Config()
    settings.axon.ip, settings.axon.port = "127.0.0.1", port
    settings.axon.external_ip = "127.0.0.1"
    settings.blacklist = SimpleNamespace(force_validator_permit=True)
    metagraph = SimpleNamespace(
        hotkeys=[miner.hotkey.ss58_address, validator.hotkey.ss58_address],
        validator_permit=[False, True],
        S=[0.0, 1.0],
        axons=[],
    )
    return module["Miner"](miner, settings, metagraph), metagraph


async def outcomes(module: dict[str, Any], miner: bt.Wallet, validator: bt.Wallet) -> Any:
    """Runs the subnet, and returns all that its code gets to see."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    neuron, metagraph = subnet(module, miner, validator, port)
    neuron.axon.start()
    try:
        info = neuron.axon.info()
        if isinstance(neuron.axon, bt.Axon):
            await until_it_listens(port)
        served = bt.AxonInfo(0, info.ip, info.port, 4, info.hotkey, info.coldkey)
        asking = module["Validator"](validator, metagraph)
        metagraph.axons = [served, served]
        answers = [await asking.forward([0, 1])]
        for wallet in (validator, miner, bt.Keypair.create_from_uri("//Stranger")):
            dendrite = type(asking.dendrite)(wallet)
            answer = await dendrite(served, module["Doubled"](number=4), deserialize=False)
            answers.append(told(answer))
            await dendrite.aclose_session()
        await asking.dendrite.aclose_session()
        return answers, neuron.seen
    finally:
        neuron.axon.stop()


def told(answer: Any) -> dict[str, Any]:
    """What a synapse says that is the same in every run."""
    terminals = {
        end: getattr(answer, end).model_dump(include={"status_code", "status_message", "hotkey"})
        for end in ("axon", "dendrite")
    }
    states = ("is_success", "is_failure", "is_timeout", "is_blacklist", "failed_verification")
    known = {state: getattr(answer, state) for state in states}
    assert answer.dendrite.process_time > 0 and answer.axon.process_time > 0
    return known | terminals | answer.model_dump(include={"number", "doubled", "name", "timeout"})


async def until_it_listens(port: int) -> None:
    """bittensor's axon starts without saying when it has."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0)
        else:
            writer.close()
            await writer.wait_closed()
            return


async def template(miner: bt.Wallet, validator: bt.Wallet) -> None:
    """The same code gets the same from bittensor, from this package, and from both mixed."""
    expected = await outcomes(load(PROTOCOL, NEURONS), miner, validator)
    assert expected[0][0] == ([42, 42], [1.0, 1.0])
    moved = load(changed(PROTOCOL), changed(NEURONS))
    assert issubclass(moved["Doubled"], ours.Synapse)
    assert await outcomes(moved, miner, validator) == expected
    # Only where neurons are made has changed: the synapses are bittensor's.
    mixed = load(PROTOCOL, changed(NEURONS))
    assert issubclass(mixed["Doubled"], bt.Synapse)
    assert await outcomes(mixed, miner, validator) == expected


async def either_class(miner: bt.Wallet, validator: bt.Wallet) -> None:
    """A synapse of either package is answered by an axon that serves the other's."""
    stays, moved = load(PROTOCOL)["Doubled"], load(changed(PROTOCOL))["Doubled"]
    for module in (load(PROTOCOL, changed(NEURONS)), load(changed(PROTOCOL), changed(NEURONS))):
        neuron, _ = subnet(module, miner, validator, 0)
        with neuron.axon:
            async with ours.Dendrite(validator) as dendrite:
                for doubled, kind in ((stays, bt.TerminalInfo), (moved, ours.TerminalInfo)):
                    answer = await dendrite(neuron.axon, doubled(number=4), deserialize=False)
                    assert type(answer) is doubled and answer.doubled == 8
                    assert type(answer.axon) is type(answer.dendrite) is kind


async def tensors_and_streams(miner_wallet: bt.Wallet, validator_wallet: bt.Wallet) -> None:
    """Synapses of bittensor's beyond plain fields."""
    axon = ours.Axon(miner_wallet, port=0, ip="127.0.0.1").attach(add).attach(prompt)
    with axon:
        async with ours.Dendrite(validator_wallet) as dendrite:
            # Its tensors ask for torch unless they believe they have seen it.
            dtypes.torch = True
            numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
            sent = Weights(weights=bt.Tensor.serialize(numbers))
            answer = await dendrite(axon, sent, deserialize=False)
            assert answer.is_success, answer.dendrite
            assert answer.total == 15.0 and isinstance(answer.weights, bt.Tensor)
            assert np.array_equal(answer.weights.numpy(), numbers * 2)

            stream = await dendrite(axon, Prompt(messages=["a", "b"]), streaming=True)
            assert [item async for item in stream] == ["a", "b", "ab"]
            assert (await dendrite(axon, bt.Synapse(), deserialize=False)).is_success


def serving_on_chain(miner_wallet: bt.Wallet) -> None:
    """bittensor's own call publishes the address of an axon of this package."""
    axon = ours.Axon(miner_wallet, external_ip="192.0.2.7", external_port=9000)
    subtensor = MagicMock()
    subtensor.get_neuron_for_pubkey_and_subnet.return_value.is_null = True
    serve_axon_extrinsic(subtensor=subtensor, netuid=NETUID, axon=axon, raise_error=True)
    told = subtensor.compose_call.call_args.kwargs["call_params"]
    assert (told["port"], told["netuid"], told["protocol"]) == (9000, NETUID, 4)
    assert told["ip"] == int.from_bytes(bytes([192, 0, 2, 7]), "big")


async def main() -> None:
    """Runs all of it."""
    networking.get_external_ip = lambda: "192.0.2.1"  # it would ask the internet
    with tempfile.TemporaryDirectory() as folder:
        wallets = wallet(folder, "//Miner"), wallet(folder, "//Validator")
        await template(*wallets)
        await either_class(*wallets)
        await tensors_and_streams(*wallets)
        serving_on_chain(wallets[0])


if __name__ == "__main__":
    sys.argv = sys.argv[:1]  # bittensor reads the arguments of whatever program imports it
    asyncio.run(main())
    print("all is well")
