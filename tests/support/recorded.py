"""A loopback HTTP server that plays recorded bytes, one play for each request, and keeps what was sent."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, Self

Then = Literal["keep", "close", "reset", "stall"]


@dataclass(frozen=True)
class Sent:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Play:
    """Bytes to answer with, and what becomes of the connection then; `stall` leaves the client waiting."""

    data: bytes
    then: Then = "keep"


def answer(
    status: int,
    body: bytes | str = b"",
    *,
    content_type: str = "application/json",
    then: Then = "keep",
    cut: int = 0,
    **headers: str,
) -> Play:
    """An HTTP answer; `cut` bytes are missing at its end, header names are given with underscores."""
    data = body.encode() if isinstance(body, str) else body
    fields = {"Content-Type": content_type, "Content-Length": str(len(data))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items())
    return Play((head.encode() + b"\r\n" + data)[: -cut or None], then)


class Recorded:
    """`async with Recorded(plays) as server`: `server.url`, and afterwards `server.sent`; over TLS where `tls` is given."""

    def __init__(self, *plays: Play | Sequence[Play], tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.plays = [play for item in plays for play in ([item] if isinstance(item, Play) else item)]
        self.sent: list[Sent] = []
        self.connections = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20, ssl=self._tls)
        host, self.port = self._server.sockets[0].getsockname()
        self.url = f"{'http' if self._tls is None else 'https'}://{host}:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Take no more connections, and close those there are."""
        self._server.close()
        for writer in list(self._writers):
            writer.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while (request := await _request(reader)) is not None:
                self.sent.append(request)
                play = self.plays.pop(0) if self.plays else Play(b"", "close")
                writer.write(play.data)
                await writer.drain()
                if play.then == "reset":
                    raw: socket.socket = writer.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if play.then == "stall":
                    await reader.read()
                if play.then != "keep":
                    return
        except ConnectionError:
            return
        finally:
            self._writers.discard(writer)
            writer.close()


async def _request(reader: asyncio.StreamReader) -> Sent | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Sent(method, path, headers, body)
