"""The sandbox's state on disk: one SQLite file, the uploads and the drawn results, in one private folder.

All processes that open the same folder act as one service: same key, same tasks, same money. There are no timers: a
task's status follows from its row and the clock. Sync; call from a thread.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from flux2_mcp.errors import SandboxError
from flux2_mcp.system.files import write_atomically
from flux2_mcp.system.sqlite_file import Database, Error

OPENING_CENTS = 10_000
"""The balance of a new sandbox, in cents."""
CALLS_PER_SECOND = 20.0
BURST_CALLS = 40
KEEP_DAYS = 9
"""Days that uploads and drawn results are kept: a result's URL is valid for 7 days, and may be drawn on the last."""

MIGRATIONS = (
    (
        "first_tables",
        """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
    CREATE TABLE bucket (id INTEGER PRIMARY KEY CHECK (id = 1), tokens REAL NOT NULL, at REAL NOT NULL);
    CREATE TABLE blip (subject TEXT PRIMARY KEY, seen INTEGER NOT NULL);
    CREATE TABLE task (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        action TEXT NOT NULL,
        model TEXT NOT NULL,
        body TEXT NOT NULL,
        idempotency_key TEXT UNIQUE,
        client_request_id TEXT,
        sources TEXT NOT NULL,
        cents INTEGER NOT NULL,
        failure TEXT,
        created_at REAL NOT NULL,
        starts_at REAL NOT NULL,
        ends_at REAL,
        creates INTEGER NOT NULL DEFAULT 1,
        polls INTEGER NOT NULL DEFAULT 0,
        shown INTEGER NOT NULL DEFAULT 0,
        callback_due REAL,
        callback_tries INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX task_callback ON task (callback_due) WHERE callback_due IS NOT NULL;
    CREATE TABLE upload (
        id TEXT PRIMARY KEY,
        target TEXT UNIQUE,
        signed_id TEXT UNIQUE,
        file_name TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        checksum TEXT,
        mime_type TEXT NOT NULL,
        prepared_at REAL NOT NULL,
        stored_at REAL,
        confirmed_at REAL,
        held INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE login (
        id TEXT PRIMARY KEY,
        state TEXT NOT NULL,
        challenge TEXT NOT NULL,
        redirect_port INTEGER NOT NULL,
        hostname TEXT NOT NULL,
        asked_at REAL NOT NULL,
        code TEXT UNIQUE,
        allowed_at REAL
    );
    """,
    ),
    ("hybrid_tasks", "ALTER TABLE task ADD COLUMN hybrid INTEGER NOT NULL DEFAULT 0"),
    (
        "listen_sessions",
        """
    CREATE INDEX task_end ON task (ends_at);
    CREATE TABLE listen_session (token TEXT PRIMARY KEY, opened_at REAL NOT NULL, seen_at REAL NOT NULL);
    CREATE TABLE listen_event (
        token TEXT NOT NULL,
        id INTEGER NOT NULL,
        task_id TEXT NOT NULL,
        acked INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (token, id)
    )
    """,
    ),
    (
        "lasting_files",
        """
    CREATE TABLE file (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        filename TEXT NOT NULL,
        purpose TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL
    );
    CREATE TABLE file_upload (
        id TEXT PRIMARY KEY,
        filename TEXT NOT NULL,
        purpose TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        status TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        file_id TEXT
    );
    CREATE TABLE upload_part (id TEXT PRIMARY KEY, upload_id TEXT NOT NULL, bytes INTEGER NOT NULL)
    """,
    ),
    (
        "markers",
        """
    ALTER TABLE task ADD COLUMN markers TEXT NOT NULL DEFAULT '';
    CREATE TABLE marked_picture (digest TEXT PRIMARY KEY, task_id TEXT NOT NULL)
    """,
    ),
)


class Money(Struct, frozen=True):
    """The account, in cents. `reserved` is the price of open tasks; it is neither spent nor free to spend."""

    opening: int
    spent: int
    spent_today: int
    reserved: int

    @property
    def balance(self) -> int:
        """The money that has not been spent."""
        return self.opening - self.spent


class SandboxState:
    """One open sandbox folder.

    Args:
        folder: Made if missing, readable by its owner only.
        speed: The factor by which new tasks run faster than RunAPI's; from 100 on, pictures are plain.
        hybrid: Whether all new tasks are hybrid.
        seed: The durations of tasks follow from it and the task's number; None: random durations.
        rate: Calls a second that the key may make in the long run; None: no limit.
        burst: Calls that it may make at once.
        opening_cents: The balance of a new folder; an older folder keeps its own.
        clock: Seconds since the epoch.

    Raises:
        SandboxError: The folder can't be made, read or written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        speed: float = 1.0,
        hybrid: bool = False,
        seed: int | None = None,
        rate: float | None = CALLS_PER_SECOND,
        burst: int = BURST_CALLS,
        opening_cents: int = OPENING_CENTS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.results = folder / "results"
        self.uploads = folder / "uploads"
        self.speed = speed
        self.hybrid = hybrid
        self.seed = seed
        self.clock = clock
        self._rate = rate
        self._burst = burst
        try:
            for path in (folder, self.results, self.uploads):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = folder / "state.db"
            # SQLite gives its side files the permissions of this file.
            os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
            self.database = Database(file, MIGRATIONS, durable=False)
        except (OSError, Error) as exc:
            raise SandboxError(
                "The sandbox's folder can't be opened.",
                next_step="Make the folder `sandbox` in FLUX2_HOME writable, or delete it and start again.",
            ) from exc
        self.api_key = self._kept("api_key", f"sandbox_{secrets.token_urlsafe(24)}")
        self.secret = self._kept("secret", secrets.token_hex(32)).encode()
        self._opening = int(self._kept("opening_cents", str(opening_cents)))

    def close(self) -> None:
        """Close the file. No other method may be called after this."""
        self.database.close()

    def _kept(self, name: str, fresh: str) -> str:
        self.database.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, fresh))
        return str(self.database.read("SELECT value FROM meta WHERE name = ?", (name,))[0]["value"])

    def admit(self) -> float | None:
        """Take one token of the key's bucket. Returns None if there was one, else the seconds until the next."""
        if self._rate is None:
            return None
        now = self.clock()
        with self.database.write():
            rows = self.database.read("SELECT tokens, at FROM bucket")
            tokens, at = (rows[0]["tokens"], rows[0]["at"]) if rows else (self._burst, now)
            tokens = min(self._burst, tokens + max(0.0, now - at) * self._rate)
            if tokens < 1:
                return (1 - tokens) / self._rate
            self.database.execute("INSERT OR REPLACE INTO bucket VALUES (1, ?, ?)", (tokens - 1, now))
        return None

    def count(self, name: str) -> None:
        """Add one to a counter."""
        sql = "INSERT INTO counter VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
        self.database.execute(sql, (name,))

    def counted(self, name: str) -> int:
        """A counter's value."""
        rows = self.database.read("SELECT value FROM counter WHERE name = ?", (name,))
        return int(rows[0]["value"]) if rows else 0

    def money(self) -> Money:
        """The account now: completed tasks are spent, open ones reserve."""
        now = self.clock()
        midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
        sql = """
            SELECT
                coalesce(sum(cents) FILTER (WHERE failure IS NULL AND ends_at <= :now), 0) AS spent,
                coalesce(sum(cents) FILTER (WHERE failure IS NULL AND ends_at <= :now AND ends_at >= :midnight), 0) AS today,
                coalesce(sum(cents) FILTER (WHERE ends_at IS NULL OR ends_at > :now), 0) AS reserved
            FROM task
        """
        values = {"now": now, "midnight": midnight}
        (row,) = self.database.read(sql, values)
        return Money(self._opening, int(row["spent"]), int(row["today"]), int(row["reserved"]))

    def write_file(self, path: Path, content: bytes) -> None:
        """Write a private file so that a reader sees all of it or nothing."""
        write_atomically(path, content, durable=False)

    def tidy(self) -> None:
        """Delete uploads, drawn results and logins that are older than any valid address."""
        oldest = self.clock() - KEEP_DAYS * 86_400
        self.database.execute("DELETE FROM login WHERE asked_at < ?", (oldest,))
        for folder in (self.results, self.uploads):
            for path in folder.iterdir():
                with contextlib.suppress(OSError):  # another process may be tidying too
                    if path.lstat().st_mtime < oldest:
                        path.unlink()


def stamp(seconds: float) -> str:
    """Seconds since the epoch as an ISO 8601 time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def whole(seconds: float) -> str:
    """Seconds for a Retry-After header, rounded up to a whole number."""
    return str(math.ceil(seconds))
