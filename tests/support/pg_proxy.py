"""A TCP proxy in front of a server, which can be lost, slow or silent. Loopback only."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit


class LineProxy:
    """Passes bytes both ways until it is left. While it is `lost`, each connection that comes is closed at once.

    Args:
        connect: Connects to the server.
        silent_after: From the message of a client that holds this on, nothing is passed on over its connection. It may be
            changed, and then holds for what is sent afterwards.
        delay_seconds: How long what a client sends is on its way. It may be changed, as above.

    Attributes:
        sent: How often clients have sent something, which is at least as often as they have waited for an answer.
    """

    def __init__(
        self, connect: Callable[[], socket.socket], silent_after: bytes | None = None, delay_seconds: float = 0.0
    ) -> None:
        self._connect = connect
        self.silent_after = silent_after
        self.delay_seconds = delay_seconds
        self._lines: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._over = threading.Event()
        self.lost = False
        self.sent = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Break all connections."""
        for line in [*self._lines]:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                if self.lost:
                    line.close()
                    continue
                server = self._connect()
                self._lines |= {line, server}
                for one, other in ((line, server), (server, line)):
                    threading.Thread(target=self._pass, args=(one, other, one is line), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket, is_client: bool) -> None:
        with suppress(OSError):
            while said := one.recv(65536):
                self.sent += is_client
                if is_client and self.silent_after is not None and self.silent_after in said:
                    self._over.wait()
                if is_client and self.delay_seconds:
                    self._over.wait(self.delay_seconds)
                other.sendall(said)
        for line in (one, other):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        self._lines.discard(one)
        one.close()


class PgProxy(LineProxy):
    """In front of a PostgreSQL.

    Args:
        url: The address of the database, whose host is the folder of a socket.
        silent_after: As in `LineProxy`.
    """

    def __init__(self, url: str, silent_after: bytes | None = None) -> None:
        query = parse_qs(urlsplit(url).query)
        self._target = str(Path(query["host"][0]) / ".s.PGSQL.5432")
        self._options = query.get("options", [""])[0].replace("=", "%3D")
        super().__init__(self._reach, silent_after)

    @property
    def url(self) -> str:
        """The address of the same database through this proxy."""
        return f"postgresql://flux2@127.0.0.1:{self.port}/postgres?sslmode=disable&options={self._options}"

    def _reach(self) -> socket.socket:
        database = socket.socket(socket.AF_UNIX)
        database.connect(self._target)
        return database
