"""A TCP proxy in front of a sandbox that tells of each step of an exchange before it lets it go on. Loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from typing import Self

HOST = "127.0.0.1"
PATIENCE = 60.0
"""Seconds, for its own beginning and end."""
STEPS: Mapping[bytes, tuple[str, str]] = {
    b"POST /api/v1/flux_2": ("create sent", "create answered"),
    b"GET /api/v1/flux_2": ("poll sent", "poll answered"),
    b"GET /results": ("fetch sent", "fetch streaming"),
}


class Proxy:
    """Passes bytes both ways.

    `hook(step)` runs before the bytes of that step are passed on, and may block; a ConnectionError from it cuts both
    connections. `seen(data, port)` is told of every
    request, with the port of the client's end. Each piece of a picture waits `trickle` seconds.
    """

    def __init__(
        self,
        upstream: int,
        hook: Callable[[str], None] | None = None,
        seen: Callable[[bytes, int], None] | None = None,
        *,
        trickle: float = 0.0,
    ) -> None:
        self._upstream = upstream
        self._hook = hook or (lambda _: None)
        self._seen = seen or (lambda *_: None)
        self._trickle = trickle
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE)
        self._loop.close()

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    async def _start(self) -> int:
        while True:
            self._server = await asyncio.start_server(self._connected, HOST, 0)
            port: int = self._server.sockets[0].getsockname()[1]
            if len(str(port)) == len(str(self._upstream)):  # addresses in answers are rewritten in place
                return port
            self._server.close()

    async def _end(self) -> None:
        self._server.close()
        open_ = asyncio.all_tasks() - {asyncio.current_task()}
        for task in open_:
            task.cancel()
        await asyncio.gather(*open_, return_exceptions=True)
        await self._loop.shutdown_default_executor()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(HOST, self._upstream)
        ours, theirs = f":{self.port}/".encode(), f":{self._upstream}/".encode()
        pending: list[str] = []
        fetching = False

        async def outward() -> None:
            nonlocal fetching
            while data := await reader.read(65536):
                if data.startswith((b"GET /api", b"POST /api")):
                    self._seen(data, writer.get_extra_info("peername")[1])
                fetching = data.startswith(b"GET /results")
                for start, (sent, answered) in STEPS.items():
                    if data.startswith(start):
                        pending.append(answered)
                        await asyncio.to_thread(self._hook, sent)
                up_writer.write(data)
                await up_writer.drain()
            up_writer.close()

        async def inward() -> None:
            while data := await up_reader.read(65536):
                if pending:
                    await asyncio.to_thread(self._hook, pending.pop())
                if fetching and self._trickle:
                    await asyncio.sleep(self._trickle)
                writer.write(data.replace(theirs, ours))
                await writer.drain()
            writer.close()

        try:
            with contextlib.suppress(ConnectionError):
                await asyncio.gather(outward(), inward())
        finally:
            writer.close()
            up_writer.close()
