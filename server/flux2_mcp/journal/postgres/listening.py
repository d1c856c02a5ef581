"""Listens for what other processes have written, over a connection of its own, so that nobody has to look.

Theory
    Each durable write tells its schema and its process with the commit (NOTIFY). A thread counts those of others. While it
    is not connected, what was told is lost: so each question is answered with another number, and the caller looks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from flux2_mcp.journal.postgres import connection as pg
from flux2_mcp.journal.postgres.connection import Connection
from flux2_mcp.journal.postgres.server import CHANNEL

AGAIN_SECONDS = 1.0
"""The delay before another try to connect."""
FIRST_SECONDS = 10.0
"""How long the first question waits until the thread listens."""
END_SECONDS = 1.0
"""How long the end waits for a thread that is about to connect; it then ends by itself."""


class Listener:
    """Counts what other processes have written.

    Args:
        connect: Makes a connection.
        owner: The name of this process, whose own writes do not count.
    """

    def __init__(self, connect: Callable[[], Connection], owner: str) -> None:
        self._connect = connect
        self._owner = owner
        self._count = 0
        self._connection: Connection | None = None
        self._listens = threading.Event()
        self._tried = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def listens(self) -> bool:
        """Whether `version` answers from memory."""
        return self._listens.is_set() and self._is_alive()

    def _is_alive(self) -> bool:
        """Whether the thread is there: in a process that was forked it is not."""
        return self._thread is not None and self._thread.is_alive()

    def version(self) -> int:
        """A number that changes when another process has written. The first question starts the thread."""
        with self._lock:
            if not self._is_alive():
                self._listens.clear()
                self._tried.clear()
                self._ended = threading.Event()
                self._thread = threading.Thread(target=self._listen, args=(self._ended,), daemon=True)
                self._thread.start()
        self._tried.wait(FIRST_SECONDS)
        if not self.listens:
            self._count += 1
        return self._count

    def close(self) -> None:
        """End the thread. The next question starts another."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._ended.set()
            if self._connection is not None:
                pg.cut(self._connection)
        if thread is not None:
            thread.join(END_SECONDS)

    def _listen(self, ended: threading.Event) -> None:
        while not ended.is_set():
            try:
                self._count_notes(ended)
            except (pg.Error, pg.UnusableError):
                pass  # the callers' own questions to the database tell what is wrong
            finally:
                self._listens.clear()
                self._tried.set()
            ended.wait(AGAIN_SECONDS)

    def _count_notes(self, ended: threading.Event) -> None:
        connection = self._connect()
        try:
            with self._lock:
                if ended.is_set():
                    return
                self._connection = connection
            connection.execute(f"LISTEN {CHANNEL}".encode())
            schema = connection.execute("SELECT current_schema()").fetchall()[0][0]
            self._count += 1  # what was told before is lost
            self._listens.set()
            self._tried.set()
            for note in connection.notifies():
                where, _, who = note.payload.partition(" ")
                if where == schema and who != self._owner:
                    self._count += 1
        finally:
            with self._lock:
                self._connection = None
            connection.close()
