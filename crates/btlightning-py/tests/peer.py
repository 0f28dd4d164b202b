"""A miner or a validator as a process of its own, written for the published package.

The tests run it under the published package and under ours, and it does not know which. It reads
commands from stdin and writes their outcomes to stdout, a pickle in base64 on each line.
"""

import base64
import pickle
import socket
import sys
import threading

from btlightning import Lightning, LightningServer


def echo(data):
    return data


def fail(data):
    raise ValueError("a secret of the handler")


def not_a_dict(data):
    return ["no", "dict"]


def count(data):
    for number in range(data["count"]):
        yield b"%d" % number * data.get("size", 1)


def fail_half_way(data):
    yield b"first"
    raise ValueError("a secret of the handler")


def not_bytes(data):
    yield b"first"
    yield {"no": "bytes"}


class Peer:
    def __init__(self):
        self.server = None
        self.client = None

    def serve(self, hotkey, seed):
        """Serves on a free port and returns it: this package does not tell which one it got."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.server = LightningServer(hotkey, "127.0.0.1", port)
        self.server.set_miner_keypair(seed)
        for handler in (echo, fail, not_a_dict):
            self.server.register_synapse_handler(handler.__name__, handler)
        for handler in (count, fail_half_way, not_bytes):
            self.server.register_streaming_handler(handler.__name__, handler)
        self.server.start()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return port

    def make_client(self, hotkey, seed=None, signer=None, **options):
        self.client = Lightning(hotkey, **options)
        if seed is not None:
            self.client.set_validator_keypair(seed)
        if signer == "raises":
            self.client.set_python_signer(raise_instead_of_signing)
        if signer == "short":
            self.client.set_python_signer(lambda message: b"short")

    def connect(self, miners):
        self.client.initialize_connections(miners)

    def update(self, miners):
        self.client.update_miner_registry(miners)

    def query(self, axon, request, timeout_secs=None):
        return self.client.query_axon(axon, request, timeout_secs)

    def stream(self, axon, request):
        """Returns the chunks, and how the stream ended."""
        chunks = []
        try:
            for chunk in self.client.query_axon_stream(axon, request):
                chunks.append(chunk)
        except Exception as error:
            return chunks, described(error)
        return chunks, None

    def client_stats(self):
        return self.client.get_connection_stats()

    def server_stats(self):
        return self.server.get_connection_stats()

    def cleanup(self, max_idle_seconds):
        self.server.cleanup_stale_connections(max_idle_seconds)

    def close(self):
        self.client.close()


def raise_instead_of_signing(message):
    raise OSError("the wallet is locked")


def described(error):
    """The builtin exceptions that catch it, and its text."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    return kinds, str(error)


def main():
    # What a library prints must not get between the answers.
    answers = sys.stdout
    sys.stdout = sys.stderr
    peer = Peer()
    for line in sys.stdin:
        name, arguments, options = pickle.loads(base64.b64decode(line))
        try:
            outcome = "returned", getattr(peer, name)(*arguments, **options)
        except Exception as error:
            outcome = "raised", described(error)
        answers.write(base64.b64encode(pickle.dumps(outcome)).decode() + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
