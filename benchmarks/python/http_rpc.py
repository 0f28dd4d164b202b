"""Echo over signed HTTP as bittensor 11 has it: http_auth, FastAPI, uvicorn and httpx.

What is signed is the method, the path, the body's SHA-256, a nonce, and both hotkeys; the server
verifies it and refuses what it has seen before. Answers are not signed. There is no TLS.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import tempfile
import threading
from typing import Any

import closed_loop

PATH = "/echo"


def application(bt: Any, miner: Any) -> Any:
    """The miner: verifies each request and sends its body back."""
    from fastapi import FastAPI, Request, Response

    app = FastAPI()

    # FastAPI looks at the annotations, and so they cannot be text here.
    async def echo(request):  # type: ignore[no-untyped-def]
        body = await request.body()
        try:
            bt.http_auth.verify(
                request.headers,
                body,
                method="POST",
                path=PATH,
                self_hotkey_ss58=miner.ss58_address,
            )
        except bt.http_auth.AuthError:
            return Response(status_code=401)
        return Response(body, media_type="application/octet-stream")

    echo.__annotations__ = {"request": Request}
    app.post(PATH)(echo)
    return app


def serve(app: Any, listener: socket.socket) -> Any:
    """Serves on a thread; the socket listens already, so nobody has to wait."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    threading.Thread(target=server.run, args=([listener],), daemon=True).start()
    return server


async def run(bt: Any, size: int, in_flight: int, seconds: float) -> None:
    """Measures callers in tasks of one event loop."""
    import httpx

    miner, validator = (
        bt.sp_core.Keypair.create_from_uri(uri) for uri in ("//miner", "//validator")
    )
    payload = bytes(index % 251 for index in range(size))
    # asyncio switches Nagle's algorithm off only where the protocol is given.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}{PATH}"
        server = serve(application(bt, miner), listener)
        limits = httpx.Limits(max_connections=in_flight, max_keepalive_connections=in_flight)
        async with httpx.AsyncClient(limits=limits, timeout=30, trust_env=False) as client:

            async def call() -> None:
                headers = bt.http_auth.sign(
                    validator,
                    method="POST",
                    path=PATH,
                    body=payload,
                    receiver_ss58=miner.ss58_address,
                )
                answer = await client.post(url, content=payload, headers=headers)
                if answer.status_code != 200 or answer.content != payload:
                    raise RuntimeError(f"not answered: {answer.status_code}")

            await closed_loop.on_tasks(call, in_flight, seconds)
        server.should_exit = True


def main() -> None:
    """Reads the options and measures."""
    parser = closed_loop.arguments("Measures echo requests over signed HTTP.")
    parser.add_argument("--in-flight", type=int, default=32, help="callers, each in a task")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # It may write into the home directory and read the arguments when it is imported.
        os.environ["HOME"] = folder
        sys.argv = sys.argv[:1]
        import bittensor as bt

        asyncio.run(run(bt, options.size, options.in_flight, options.seconds))


if __name__ == "__main__":
    main()
