"""A way to the HTTP server for test tools that can't send headers: adds the bearer token, and is called by its own name.

What the server judges passes through as it came: a Host or an Origin that is not its own stays what it is. Where a test
tool calls tools that only its own test servers have, stand-ins answer: a call of the one becomes a call of the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

HOST = "127.0.0.1"
HEAD_END = b"\r\n\r\n"
Header = tuple[bytes, bytes]


@dataclass(frozen=True)
class StandIn:
    """The tool that is called instead. `{arguments}` in an argument becomes what the tool was called with, as JSON."""

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict)

    def call(self, arguments: object) -> dict[str, Any]:
        text = json.dumps(arguments)
        given = {name: value.replace("{arguments}", text) for name, value in self.arguments.items()}
        return {"name": self.name, "arguments": given}


class Usher:
    """Loopback only. One call a connection, so that only the first message of each need be read.

    Args:
        port: The server's.
        token: Its bearer token.
        stand_ins: By the names of the tools that they stand in for.
    """

    def __init__(self, port: int, token: str, stand_ins: Mapping[str, StandIn] | None = None) -> None:
        self._upstream = port
        self._token = token.encode()
        self._stand_ins = stand_ins or {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="usher", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}/mcp"

    async def _open(self) -> int:
        self._server = await asyncio.start_server(self._connected, HOST, 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _shut(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # what was closed is gone only a turn later

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                request, headers = _read(await reader.readuntil(HEAD_END))
                length = next((int(value) for name, value in headers if name.lower() == b"content-length"), 0)
                body = await reader.readexactly(length)
                up_reader, up_writer = await asyncio.open_connection(HOST, self._upstream)
                ends.append(up_writer)
                up_writer.write(self._ours(request, headers, body))
                ways = [_passed(reader, up_writer), _passed(up_reader, writer)]
                # Who hangs up, on either side, hangs up on both: a cancelled call must look cancelled.
                await asyncio.wait(map(asyncio.ensure_future, ways), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.close()

    def _ours(self, request: bytes, headers: list[Header], body: bytes) -> bytes:
        named, body = self._stood_in(body)
        here, there = f":{self.port}".encode(), f":{self._upstream}".encode()
        ours = [b"Authorization: Bearer " + self._token, b"Connection: close", b"Content-Length: %d" % len(body)]
        for name, value in headers:
            lower = name.lower()
            if lower in {b"connection", b"content-length"}:
                continue
            passed = value.replace(here, there) if lower in {b"host", b"origin"} else value
            ours.append(name + b": " + (named.get(passed, passed) if lower == b"mcp-name" else passed))
        return b"\r\n".join([request, *ours]) + HEAD_END + body

    def _stood_in(self, body: bytes) -> tuple[dict[bytes, bytes], bytes]:
        """The body with its tool replaced, and how to replace it in headers; as it was where nothing stands in."""
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            message = json.loads(body)
            params = message["params"]
            name = params["name"]
            if message["method"] == "tools/call" and name in self._stand_ins:
                params |= self._stand_ins[name].call(params.get("arguments"))
                return {name.encode(): params["name"].encode()}, json.dumps(message).encode()
        return {}, body


def _read(head: bytes) -> tuple[bytes, list[Header]]:
    request, *lines = head.removesuffix(HEAD_END).split(b"\r\n")
    return request, [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]


async def _passed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
