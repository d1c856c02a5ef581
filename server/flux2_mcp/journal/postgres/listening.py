"""Listens for what other processes have written, over a connection of its own, so that nobody has to look.

Theory
    Each durable write tells its schema and its process with the commit (NOTIFY). A thread counts those of others. While it
    is not connected, what was told is lost: so each question is answered with another number, and the caller looks.
    A server that says nothing tells nothing either: so the thread asks it something from time to time.
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
"""How long the first questions wait until the thread listens."""
LOOK_SECONDS = 15.0
"""The interval at which the thread asks whether the server is still there."""
END_SECONDS = 1.0
"""How long the end waits for a thread that is about to connect; it then ends by itself."""


class Listener:
    """Counts what other processes have written.

    Args:
        connect: Makes a connection, and hands it to its argument before it is set up.
        owner: The name of this process, whose own writes do not count.
        answer_seconds: A server that says nothing for so long has lost its connection.
        look_seconds: The interval at which it is asked.
    """

    def __init__(
        self,
        connect: Callable[[Callable[[Connection], object]], Connection],
        owner: str,
        answer_seconds: float,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._connect = connect
        self._owner = owner
        self._answer_seconds = answer_seconds
        self._look_seconds = look_seconds
        self._count = 0
        self._limit = pg.Limit()
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
        if not self._tried.wait(FIRST_SECONDS):
            self._tried.set()  # the next one need not wait, too
        if not self.listens:
            self._count += 1
        return self._count

    def close(self) -> None:
        """End the thread. The next question starts another."""
        with self._lock:
            thread, self._thread = self._thread, None
            self._ended.set()
            self._limit.end()
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
        with self._lock:
            if ended.is_set():
                return
            limit = self._limit = pg.Limit()
        connection: Connection | None = None
        try:
            with limit.within(self._answer_seconds):
                connection = self._connect(limit.hold)
                connection.execute(f"LISTEN {CHANNEL}".encode())
                schema = _schema(connection)
            self._count += 1  # what was told before is lost
            self._listens.set()
            self._tried.set()
            while True:
                for note in connection.notifies(timeout=self._look_seconds):
                    where, _, who = note.payload.partition(" ")
                    if where == schema and who != self._owner:
                        self._count += 1
                with limit.within(self._answer_seconds):
                    _schema(connection)
        finally:
            limit.let_go()
            if connection is not None:
                connection.close()


def _schema(connection: Connection) -> str:
    return str(connection.execute("SELECT current_schema()").fetchall()[0][0])
