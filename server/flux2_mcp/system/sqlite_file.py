"""SQLite files of this project: WAL, append-only migrations, short write transactions. Sync; call from a thread.

Only this module and `sqlite_reading` import sqlite3. `journal.sqlite` and the sandbox's state use it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from flux2_mcp.system import forking, sqlite_reading
from flux2_mcp.system.migrations import Migrations, is_newer, migration_columns, pending, recorded, unnamed
from flux2_mcp.system.sqlite_reading import text_or_bytes
from flux2_mcp.system.text import folded

Row = sqlite3.Row
Value = str | int | float | None
Parameters = Sequence[Value] | Mapping[str, Value]
Read = Callable[..., list[sqlite3.Row]]
"""A function that returns all rows of one query, as `Database.read` does."""
Error = sqlite3.Error

BUSY_SECONDS = 10.0
"""How long a writer waits for another process's transaction. Our transactions take milliseconds."""
BUSY_PAUSE_SECONDS = 0.005
BEGUN = "SELECT applied_at FROM migration ORDER BY id LIMIT 1"
TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table'"


class MovedError(sqlite3.DatabaseError):
    """Another file has the name now: a process that found this one broken has moved it aside."""

    sqlite_errorname = "SQLITE_READONLY_DBMOVED"  # SQLite's own name for it, which it does not use in WAL mode


class EmptyError(sqlite3.DatabaseError):
    """The file has none of our tables, though a file with them was made under its name."""

    sqlite_errorname = "SQLITE_NOTADB"


class ShortError(sqlite3.DatabaseError):
    """The file is readable, but lacks something that was written into it."""

    sqlite_errorname = "SQLITE_CORRUPT"


def is_lost(error: BaseException) -> bool:
    """True if the file itself is broken, emptied or moved, not merely busy, full or read-only."""
    # Only errors that SQLite itself raised have this name.
    lost = ("SQLITE_CORRUPT", "SQLITE_NOTADB", MovedError.sqlite_errorname)
    name = str(getattr(error, "sqlite_errorname", ""))
    return name.startswith(lost) or (name == "SQLITE_ERROR" and str(error).startswith("no such table"))


class Database:
    """One SQLite file and one connection to it, safe to use from any thread, one call at a time.

    Args:
        path: The file; its folder must exist.
        migrations: The migrations that this version knows. A file with others was written by a newer version, and is
            used unchanged.
        durable: Whether, by default, a commit waits for the disk. If not, a power cut may lose the last commits; a
            crash of the process never does.
        made: Whether the file was made before: then it must have our tables, and is not migrated as a new one.

    Raises:
        sqlite3.Error: The file can't be opened, read or migrated.
        EmptyError: It was made before, and has none of our tables. It is left unchanged.
    """

    def __init__(self, path: Path, migrations: Migrations, *, durable: bool, made: bool = False) -> None:
        self._lock = threading.RLock()
        self._path = path
        self._durable = durable
        with forking.opening:
            self._open(migrations, made=made)
            forking.open_files.add(self)

    def _open(self, migrations: Migrations, *, made: bool) -> None:
        path = self._path
        # An empty file is not opened: SQLite would delete the log beside it.
        if made and not path.stat().st_size:
            raise EmptyError(f"{path.name} is empty")
        self.connection = _connect(path)
        """SQLite's own connection, for uses without a method here. Several threads share it."""
        try:
            self._set_up()
            if made:
                self._need_tables()
            self._use_wal()
            self._file = _identity(path)
            self._migrate(migrations)
        except sqlite3.Error:
            self.connection.close()
            raise

    def _need_tables(self) -> None:
        if not recorded(self.read):
            raise EmptyError(f"{self._path.name} has none of our tables")

    def _use_wal(self) -> None:
        # SQLite does not wait here by itself: if several processes open a new file at once, some get a busy error.
        until = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode=WAL")
            except sqlite3.OperationalError as exc:
                if not exc.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > until:
                    raise
                time.sleep(BUSY_PAUSE_SECONDS)
            else:
                return

    def _migrate(self, migrations: Migrations) -> None:
        if not (pending(self.read, migrations) or unnamed(self.read, migrations)):
            return
        with self.write():  # checked again inside: another process may have been faster
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS migration (id INTEGER PRIMARY KEY, applied_at TEXT NOT NULL, name TEXT)"
            )
            if "name" not in migration_columns(self.read):
                self.connection.execute("ALTER TABLE migration ADD COLUMN name TEXT")
            self.connection.executemany("UPDATE migration SET name = ? WHERE id = ?", unnamed(self.read, migrations))
            for name, script in pending(self.read, migrations):
                for statement in filter(str.strip, script.split(";\n")):
                    self.connection.execute(statement)
                self.connection.execute(
                    "INSERT INTO migration (applied_at, name) VALUES (?, ?)", (datetime.now(UTC).isoformat(), name)
                )
        self.checkpoint()  # so that the tables exist even if the log is lost

    def read(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of one query."""
        with self._lock:
            return self.connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one statement, inside `write` or as a transaction of its own. Returns the number of changed rows."""
        with self._lock:
            return self.connection.execute(sql, parameters).rowcount

    def together(self, questions: Sequence[tuple[str, Parameters]]) -> list[list[Row]]:
        """The rows of several queries."""
        return [self.read(sql, parameters) for sql, parameters in questions]

    def later(self, sql: str, parameters: Parameters = ()) -> None:
        """Run one statement whose result nobody asks for."""
        self.execute(sql, parameters)

    @contextmanager
    def write(self, *, durable: bool | None = None) -> Iterator[None]:
        """One write transaction. It locks the file at once, so what is read inside is still true at the commit.

        Raises:
            MovedError: The file was moved aside; nothing was written, since it would be lost there.
        """
        sync = self._durable if durable is None else durable
        with self._lock:
            self.connection.execute(f"PRAGMA synchronous={'FULL' if sync else 'NORMAL'}")
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                if _identity(self._path) != self._file:
                    raise MovedError(f"{self._path.name} was moved aside")
                self.connection.execute("COMMIT")
            finally:
                if self.connection.in_transaction:  # on a full disk, SQLite has rolled back by itself
                    self.connection.execute("ROLLBACK")

    @property
    def begun(self) -> str:
        """When this file was made. This distinguishes it from every other file with its name."""
        return str(self.read(BEGUN)[0][0])

    @property
    def replaced(self) -> bool:
        """Whether another file has the name now. False if none has it: then this open file is the only one."""
        return _identity(self._path) not in {self._file, None}

    def sound(self, migrations: Migrations) -> bool:
        """Whether the file is intact and has all tables. It reads the whole file. A newer version's may lack some."""
        try:
            whole = self.read("PRAGMA integrity_check(1)")[0][0] == "ok"
            tables = {row[0] for row in self.read(TABLES)}
            return whole and (is_newer(self.read, migrations) or _made_by(migrations) <= tables)
        except sqlite3.Error as exc:
            if is_lost(exc):
                return False
            raise

    def version(self) -> int:
        """A number that changes whenever another connection has committed. It takes a few microseconds."""
        with self._lock:
            return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    def checkpoint(self) -> None:
        """Move the log's content into the file itself, as far as other processes allow."""
        with self._lock, suppress(sqlite3.Error):
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the file. No other method may be called after this."""
        with forking.opening, self._lock:
            forking.open_files.discard(self)
            self.connection.close()

    def park(self) -> None:
        """See `forking.Parkable`."""
        self._lock.acquire()
        self.connection.close()

    def unpark(self, *, reopen: bool) -> None:
        """See `forking.Parkable`."""
        if reopen:
            try:  # a plain path would make an empty file in place of one that is gone
                self.connection = _connect(f"{self._path.absolute().as_uri()}?mode=rw", uri=True)
            except sqlite3.Error:  # a file without tables counts as lost, as this one is
                self.connection = _connect(":memory:")
            self._set_up()
        self._lock.release()

    def _set_up(self) -> None:
        self.connection.row_factory = sqlite3.Row
        self.connection.text_factory = text_or_bytes
        self.connection.create_function("mentions", 2, _mentions, deterministic=True)
        self.connection.execute("PRAGMA foreign_keys=ON")


def _connect(name: Path | str, *, uri: bool = False) -> sqlite3.Connection:
    return sqlite3.connect(name, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, uri=uri)


def _made_by(migrations: Migrations) -> set[str]:
    """The tables that exist after these migrations."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for _, script in migrations:
            connection.executescript(script)
        return {row[0] for row in connection.execute(TABLES)}


def _mentions(text: bytes | None, wanted: str) -> bool:
    """Whether a text, once folded, has `wanted` in it, which is folded: SQLite's own functions know ASCII only.

    It takes bytes, because a broken text must not end the query.
    """
    return text is not None and wanted in folded(text.decode(errors="replace"))


def _identity(path: Path) -> tuple[int, int] | None:
    """A value that distinguishes a file from another of the same name; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """A lock over all processes: only one at a time opens or moves a file.

    SQLite finds the log of a file by its name. An old file that is opened while it is being moved would use the new
    file's log, and undo or delete its content.
    """
    lock = path.with_suffix(".lock")
    lock.touch(mode=0o600)
    with forking.opening, closing(sqlite3.connect(lock, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


Seed = Callable[[Database, str | None], None]
"""Fills the file that replaces a lost one. It is called before another process can open the new file, with that file
and a name for the lost one: the name under which it is kept, or that by `vanished`. None: another process has replaced
the lost file, and the given file already has that process's data."""


Whole = Callable[[Read, int], bool]
"""Whether a readable file has everything that was written. It gets the file's `Read` and the number noted last."""


def opened(
    path: Path, migrations: Migrations, *, durable: bool, seed: Seed, whole: Whole, made: bool = False
) -> Database:
    """Open a file that other processes may find broken and move. A missing file is made, readable by the user alone.

    Args:
        path: The file.
        migrations: See `Database`.
        durable: See `Database`.
        seed: Called if a file was there before and has vanished.
        whole: Called for a file that exists.
        made: Whether the caller knows that a file was there before; the mark shows it too.

    Raises:
        sqlite3.Error: As `Database`, or a file that was there before has been emptied, or is not whole.
        OSError: The file can't be made.
    """
    with _alone(path):
        made = made or mark_of(path).exists()
        if made and not path.exists():
            return _replaced(path, migrations, durable=durable, seed=seed)
        path.touch(mode=0o600)
        database = Database(path, migrations, durable=durable, made=made)
        try:
            if not _is_whole(path, database.read, whole):
                raise ShortError(f"{path.name} lacks what was written into it")
        except sqlite3.Error:
            database.close()
            raise
        _put_mark(path, database)
        return database


def mark_of(path: Path) -> Path:
    """The mark beside a file that was made. If there is a mark and the file is gone or empty, the file is lost.

    It holds `Database.begun` and, on a second line, a number: see `note`.
    """
    return path.with_suffix(".made")


def _mark(path: Path) -> tuple[str, int]:
    """The mark's content; "" and 0 if it is missing or not readable."""
    try:
        begun, _, number = mark_of(path).read_text().partition("\n")
    except (FileNotFoundError, UnicodeDecodeError):
        return "", 0
    return begun, int(number) if number.strip().isdecimal() else 0


def noted(path: Path, begun: str | None) -> int:
    """The number that was noted last for the file with this `begun` (None: not known); 0 if there is none."""
    of, number = _mark(path)
    return number if begun in {of, None} else 0


def note(path: Path, begun: str, number: int) -> None:
    """Record a number that the file reached, after its commit: a file with a lower number has lost something."""
    if _mark(path)[0] == begun:
        # Written in place, always with the same length: no reader sees half of it.
        with mark_of(path).open("r+", newline="\n") as mark:
            mark.seek(len(begun))
            mark.write(f"\n{number:020}")


def _put_mark(path: Path, database: Database) -> None:
    mark, begun = mark_of(path), database.begun
    if _mark(path)[0] != begun:
        mark.touch(mode=0o600)
        mark.write_text(begun)


def vanished(path: Path, begun: str) -> str:
    """A name for a file that is gone from its folder. A process that still has it open can find the same name.

    Args:
        path: The file's former path.
        begun: Its `Database.begun`; "" if not known.
    """
    return f"{path.name} (begun {begun})" if begun else path.name


@contextmanager
def reading(path: Path) -> Iterator[Read]:
    """Open a file to read it, in whatever state it is. This changes nothing in it.

    Raises:
        sqlite3.Error: The file can't be opened.
    """
    with sqlite_reading.reading(path.absolute().as_uri(), BUSY_SECONDS) as read:
        yield read


def looked_at(path: Path, question: str, whole: Whole) -> tuple[bool, int]:
    """Whether a file is intact, and the number that a query returns (0 if it is not). This changes nothing.

    Args:
        path: The file; it must exist.
        question: A SELECT of one number.
        whole: Called for the file, too.

    Raises:
        sqlite3.Error: The file can't be opened or read.
    """
    with reading(path) as read:
        try:
            sound = (
                bool(read(BEGUN)) and read("PRAGMA integrity_check(1)")[0][0] == "ok" and _is_whole(path, read, whole)
            )
            return sound, int(read(question)[0][0]) if sound else 0
        except sqlite3.Error as exc:
            if is_lost(exc):
                return False, 0
            raise


def renewed(path: Path, migrations: Migrations, *, durable: bool, seed: Seed, whole: Whole) -> Database:
    """A working file in place of one that was found broken or gone.

    Of the processes that find it broken, one at a time checks it again, and only the first moves it aside: otherwise
    the second would move the first's new file.

    Args:
        path: The file.
        migrations: See `Database`.
        durable: See `Database`.
        seed: Called in each case.
        whole: Called for a file that exists.

    Raises:
        sqlite3.Error: As `Database`.
        OSError: The broken file can't be moved.
    """
    with _alone(path):
        if path.exists() and (database := _sound(path, migrations, durable=durable, whole=whole)) is not None:
            seed(database, None)
            return database
        return _replaced(path, migrations, durable=durable, seed=seed)


def _replaced(path: Path, migrations: Migrations, *, durable: bool, seed: Seed) -> Database:
    """A new file in place of a lost one. The rest of the lost file is moved aside after the new file is filled.

    A process that is killed in between leaves the lost file in its place, or no file; the next process goes on from
    there.
    """
    aside = path.with_name(f"{path.stem}-broken-{time.time_ns()}{path.suffix}")
    name = aside.name if path.exists() else vanished(path, _mark(path)[0])
    fresh = path.with_suffix(".new")
    for part in _parts(fresh):
        part.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    with closing(Database(fresh, migrations, durable=durable)) as database:
        seed(database, name)
        # Before the lost file is moved: otherwise another process could find a home that never had a journal.
        _put_mark(path, database)
    # A log without its file is moved too: SQLite would read it into the new file.
    for part, kept in zip(_parts(path), _parts(aside), strict=True):
        if part.exists():
            part.rename(kept)
    fresh.rename(path)
    return Database(path, migrations, durable=durable)


def _parts(path: Path) -> list[Path]:
    """The files that belong to a SQLite file; the file itself is the last."""
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "")]


def _sound(path: Path, migrations: Migrations, *, durable: bool, whole: Whole) -> Database | None:
    database = None
    try:
        database = Database(path, migrations, durable=durable, made=True)
        if database.sound(migrations) and _is_whole(path, database.read, whole):
            return database
    except sqlite3.Error as exc:
        if not is_lost(exc):
            raise
    if database is not None:
        database.close()
    return None


def _is_whole(path: Path, read: Read, whole: Whole) -> bool:
    """Ask `whole` about one state of the file: other processes may write between two of its queries."""
    least = noted(path, str(read(BEGUN)[0][0]))  # before that state, which may have more but never less
    read("BEGIN")
    try:
        return whole(read, least)
    finally:
        with suppress(sqlite3.Error):  # an error may have ended the transaction
            read("ROLLBACK")
