"""How long a task has nobody after its server was killed: from the kill until the journal names another owner."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import psycopg

PAUSE_SECONDS = 0.05
HELD = "SELECT key, owner FROM task WHERE state IN ('intent', 'submitted', 'processing', 'completed') AND owner IS NOT NULL"


class Takeovers:
    """Looks at the journal all the time, over a connection of its own.

    A task is counted from the kill on if the killed server still has its lease in a look that began after the kill. It is
    taken over when a look finds another owner, or that it has ended. So what is told is rather too long than too short.

    Args:
        url: The address of the journal.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._killed: dict[int, float] = {}
        self._waiting: dict[tuple[str, int], float] = {}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch)
        self.done: list[tuple[float, float]] = []
        """When each task's server was killed, and when it was taken over: monotonic seconds."""
        self._thread.start()

    def killed(self, pid: int, at: float) -> None:
        """A server was killed; what it holds is waiting from then on."""
        with self._lock:
            self._killed[pid] = at

    def end(self) -> int:
        """Look no more. Gives how many tasks nobody has taken over."""
        self._over.set()
        self._thread.join()
        return len(self._waiting)

    def _watch(self) -> None:
        while not self._over.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True) as connection:
                    while not self._over.wait(PAUSE_SECONDS):
                        self._look(connection)
            except psycopg.OperationalError:  # it is away
                self._over.wait(PAUSE_SECONDS)

    def _look(self, connection: psycopg.Connection[tuple[str, str]]) -> None:
        began = time.monotonic()
        with self._lock:
            killed = dict(self._killed)
        owners = {key: int(owner.split("/")[-2]) for key, owner in connection.execute(HELD).fetchall()}
        self._compare(owners, {pid: at for pid, at in killed.items() if at <= began}, time.monotonic())

    def _compare(self, owners: Mapping[str, int], killed: Mapping[int, float], now: float) -> None:
        for key, pid in owners.items():
            if pid in killed:
                self._waiting.setdefault((key, pid), killed[pid])
        for key, pid in [*self._waiting]:
            if owners.get(key) != pid:
                self.done.append((self._waiting.pop((key, pid)), now))
