"""How this project keeps a SQLite file: WAL, append-only migrations, short write transactions. Sync; call from a thread.

The only module that imports sqlite3. `journal.sqlite` and the sandbox's state stand on it.

The table `migration` says what ran: when, and under which name. Versions that gave no names recorded a place in the list,
and count rows still: so a row is a migration, and the first two columns stay as they are.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

Row = sqlite3.Row
Value = str | int | float | None
Parameters = Sequence[Value] | Mapping[str, Value]
Read = Callable[..., list[sqlite3.Row]]
"""All rows of one query, as `Database.read` gives them."""
Error = sqlite3.Error
Migrations = Sequence[tuple[str, str]]
"""Names, and scripts of SQL, oldest first. Append, never edit or rename: what ran once never runs again."""

BUSY_SECONDS = 10.0
"""How long a writer waits for another process's transaction. Ours take milliseconds."""
BUSY_PAUSE_SECONDS = 0.005
BEGUN = "SELECT applied_at FROM migration ORDER BY id LIMIT 1"
TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table'"


class MovedError(sqlite3.DatabaseError):
    """Another file stands under the name now: whoever found this one broken has moved it aside."""

    sqlite_errorname = "SQLITE_READONLY_DBMOVED"  # SQLite's own name for it, which it does not use in WAL mode


class EmptyError(sqlite3.DatabaseError):
    """The file has none of our tables, though one that has them was made under its name."""

    sqlite_errorname = "SQLITE_NOTADB"


class ShortError(sqlite3.DatabaseError):
    """The file is readable and lacks something that was written into it."""

    sqlite_errorname = "SQLITE_CORRUPT"


def is_lost(error: BaseException) -> bool:
    """True where the file itself is broken, emptied or was moved, not merely busy, full or read-only."""
    # Errors that SQLite itself did not raise have no such name.
    lost = ("SQLITE_CORRUPT", "SQLITE_NOTADB", MovedError.sqlite_errorname)
    name = str(getattr(error, "sqlite_errorname", ""))
    return name.startswith(lost) or (name == "SQLITE_ERROR" and str(error).startswith("no such table"))


class Database:
    """One SQLite file and one connection to it, safe to use from any thread, one call at a time.

    Args:
        path: The file; its folder must exist.
        migrations: Those that this version knows. A file that has others is a newer version's, and is used as it is.
        durable: Whether a commit waits, by default, until the disk has it. Without, a power cut may lose the last
            commits; a crash of the process never does.
        made: Whether it was made before: then it is not migrated as a new one.

    Raises:
        sqlite3.Error: The file can't be opened, read or migrated.
        EmptyError: It was made before, and has none of our tables. It is left as it is.
    """

    def __init__(self, path: Path, migrations: Migrations, *, durable: bool, made: bool = False) -> None:
        self._lock = threading.RLock()
        self._path = path
        self._durable = durable
        # Not opened: SQLite would delete the log that stands beside an empty file.
        if made and not path.stat().st_size:
            raise EmptyError(f"{path.name} is empty")
        self.connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        """SQLite's own, for what stands in no method here. Several threads share it."""
        try:
            self.connection.row_factory = sqlite3.Row
            self.connection.text_factory = _text
            if made:
                self._need_tables()
            self._use_wal()
            self.connection.execute("PRAGMA foreign_keys=ON")
            self._file = _identity(path)
            self._migrate(migrations)
        except sqlite3.Error:
            self.connection.close()
            raise

    def _need_tables(self) -> None:
        if not _recorded(self.read):
            raise EmptyError(f"{self._path.name} has none of our tables")

    def _use_wal(self) -> None:
        # SQLite does not wait here by itself: of several who open a new file at once, some are told that it is busy.
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
        if not (pending(self.read, migrations) or _unnamed(self.read, migrations)):
            return
        with self.write():  # asked again inside: another process may have been faster
            self.connection.execute(
                "CREATE TABLE IF NOT EXISTS migration (id INTEGER PRIMARY KEY, applied_at TEXT NOT NULL, name TEXT)"
            )
            if "name" not in _columns(self.read):
                self.connection.execute("ALTER TABLE migration ADD COLUMN name TEXT")
            self.connection.executemany("UPDATE migration SET name = ? WHERE id = ?", _unnamed(self.read, migrations))
            for name, script in pending(self.read, migrations):
                for statement in filter(str.strip, script.split(";\n")):
                    self.connection.execute(statement)
                self.connection.execute(
                    "INSERT INTO migration (applied_at, name) VALUES (?, ?)", (datetime.now(UTC).isoformat(), name)
                )
        self.checkpoint()  # the tables are there also where the log is lost

    def read(self, sql: str, parameters: Parameters = ()) -> list[Row]:
        """All rows of one query."""
        with self._lock:
            return self.connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str, parameters: Parameters = ()) -> int:
        """Run one statement, inside `write` or as a transaction of its own. Gives the number of rows it touched."""
        with self._lock:
            return self.connection.execute(sql, parameters).rowcount

    @contextmanager
    def write(self, *, durable: bool | None = None) -> Iterator[None]:
        """One write transaction: begun at once, so what is read inside is what will be true at its commit.

        Raises:
            MovedError: Nothing was written: nobody would find it where the file is now.
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
                if self.connection.in_transaction:  # a full disk has rolled back by itself
                    self.connection.execute("ROLLBACK")

    @property
    def begun(self) -> str:
        """When this file was made, which tells it from every other that had its name."""
        return str(self.read(BEGUN)[0][0])

    @property
    def replaced(self) -> bool:
        """Whether another file stands under the name by now. Where none does, this one is all there is."""
        return _identity(self._path) not in {self._file, None}

    def sound(self, migrations: Migrations) -> bool:
        """Whether the file holds together and has all tables; reads all of it. A later version may have dropped some."""
        try:
            whole = self.read("PRAGMA integrity_check(1)")[0][0] == "ok"
            tables = {row[0] for row in self.read(TABLES)}
            return whole and (_is_newer(self.read, migrations) or _made_by(migrations) <= tables)
        except sqlite3.Error as exc:
            if is_lost(exc):
                return False
            raise

    def version(self) -> int:
        """A number that changes whenever another connection has committed; a few microseconds."""
        with self._lock:
            return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    def checkpoint(self) -> None:
        """Bring what stands in the log into the file itself, as far as no other process keeps it from that."""
        with self._lock, suppress(sqlite3.Error):
            self.connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the file. Nothing may be called after."""
        with self._lock:
            self.connection.close()


def pending(read: Read, migrations: Migrations) -> Migrations:
    """What a file has yet to get of these; nothing where it is a newer version's."""
    applied = _applied(read, migrations)
    return () if _is_newer(read, migrations) else [each for each in migrations if each[0] not in applied]


def _is_newer(read: Read, migrations: Migrations) -> bool:
    """Whether a later version has migrated the file: it has had something that is none of these."""
    return not _applied(read, migrations) <= {name for name, _ in migrations}


def _applied(read: Read, migrations: Migrations) -> set[str]:
    """The names of what a file has had. An earlier version recorded no name: the number is a place among these, or beyond."""
    places = dict(enumerate((name for name, _ in migrations), start=1))
    return {name or places.get(number, f"number {number}") for number, name in _recorded(read).items()}


def _recorded(read: Read) -> dict[int, str | None]:
    """Numbers and names of what a file has had; none where it has no such table."""
    if not (columns := _columns(read)):
        return {}
    sql = "SELECT id, name FROM migration" if "name" in columns else "SELECT id, NULL FROM migration"
    return {int(row[0]): row[1] for row in read(sql)}


def _unnamed(read: Read, migrations: Migrations) -> list[tuple[str, int]]:
    """Names, each with its number, that an earlier version has not recorded; none where the file is a newer version's."""
    if _is_newer(read, migrations):
        return []
    return [(migrations[number - 1][0], number) for number, name in _recorded(read).items() if name is None]


def _columns(read: Read) -> set[str]:
    return {row["name"] for row in read("PRAGMA table_info(migration)")}


def _made_by(migrations: Migrations) -> set[str]:
    """The tables that there are after these."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for _, script in migrations:
            connection.executescript(script)
        return {row[0] for row in connection.execute(TABLES)}


def _text(data: bytes) -> str | bytes:
    """Text, and as bytes what is none: one broken value must not keep all others of its query from being read."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Of all processes, one at a time opens or moves a file.

    SQLite finds what belongs to a file, its log above all, by name: opened while it is being moved, the old file would
    be given the new one's log, and undo or delete what stands there.
    """
    lock = path.with_suffix(".lock")
    lock.touch(mode=0o600)
    with closing(sqlite3.connect(lock, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


Seed = Callable[[Database, str | None], None]
"""Fills the file that takes the place of a lost one. Called with it before anybody else can open it, and with what to call
the lost one: the name under which it is kept, or `vanished`. None: another process has replaced it, and what is given holds
its work already."""


Whole = Callable[[Read, int], bool]
"""Whether a file that can be read has all that was written into it: given its queries and the number that was noted last."""


def opened(
    path: Path, migrations: Migrations, *, durable: bool, seed: Seed, whole: Whole, made: bool = False
) -> Database:
    """A file that others may find broken and move meanwhile. Made where there is none, readable by the user alone.

    Args:
        path: The file.
        migrations: See `Database`.
        durable: See `Database`.
        seed: Called where a file was there before and has vanished.
        whole: Asked of a file that is there.
        made: Whether a file was there before by what its user knows, beside the mark.

    Raises:
        sqlite3.Error: As `Database`, and where a file was there before that has been emptied, or is not whole.
        OSError: It can't be made.
    """
    with _alone(path):
        made = made or mark_of(path).exists()
        if made and not path.exists():
            return _replaced(path, migrations, durable=durable, seed=seed)
        path.touch(mode=0o600)
        database = Database(path, migrations, durable=durable, made=made)
        try:
            if not whole(database.read, noted(path, database.begun)):
                raise ShortError(f"{path.name} lacks what was written into it")
        except sqlite3.Error:
            database.close()
            raise
        _put_mark(path, database)
        return database


def mark_of(path: Path) -> Path:
    """A file that stands beside one that was made: where that is gone or emptied since, it is lost.

    Holds `Database.begun` and, on a line of its own, a number: see `note`.
    """
    return path.with_suffix(".made")


def _mark(path: Path) -> tuple[str, int]:
    """What the mark holds; "" and 0 where it is not there or tells nothing."""
    try:
        begun, _, number = mark_of(path).read_text().partition("\n")
    except (FileNotFoundError, UnicodeDecodeError):
        return "", 0
    return begun, int(number) if number.strip().isdecimal() else 0


def noted(path: Path, begun: str | None) -> int:
    """The number that was noted last for the file that was begun then (None: nobody knows when); 0 where none was."""
    of, number = _mark(path)
    return number if begun in {of, None} else 0


def note(path: Path, begun: str, number: int) -> None:
    """Write down a number that the file reached, once it is committed: a file that holds less has lost something."""
    if _mark(path)[0] == begun:
        # In place and of one length: nobody reads half of it.
        with mark_of(path).open("r+", newline="\n") as mark:
            mark.seek(len(begun))
            mark.write(f"\n{number:020}")


def _put_mark(path: Path, database: Database) -> None:
    mark, begun = mark_of(path), database.begun
    if _mark(path)[0] != begun:
        mark.touch(mode=0o600)
        mark.write_text(begun)


def vanished(path: Path, begun: str) -> str:
    """What to call a file that is gone from its folder, so that whoever still has it open knows it again.

    Args:
        path: Where it was.
        begun: Its `Database.begun`; "" where nobody knows.
    """
    return f"{path.name} (begun {begun})" if begun else path.name


@contextmanager
def reading(path: Path) -> Iterator[Read]:
    """A file's queries, whatever it is like; changes nothing in it.

    Raises:
        sqlite3.Error: The file can't be opened.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)) as connection:
        connection.row_factory = sqlite3.Row
        connection.text_factory = _text
        yield lambda sql, parameters=(): connection.execute(sql, parameters).fetchall()


def looked_at(path: Path, question: str, whole: Whole) -> tuple[bool, int]:
    """Whether a file holds together, and the number that answers a question (0 where it does not). Changes nothing.

    Args:
        path: The file; it must be there.
        question: A SELECT of one number.
        whole: Asked of it, too.

    Raises:
        sqlite3.Error: The file can't be opened or read.
    """
    with reading(path) as read:
        try:
            begun = read(BEGUN)
            sound = bool(begun) and read("PRAGMA integrity_check(1)")[0][0] == "ok"
            sound = sound and whole(read, noted(path, str(begun[0][0])))
            return sound, int(read(question)[0][0]) if sound else 0
        except sqlite3.Error as exc:
            if is_lost(exc):
                return False, 0
            raise


def renewed(path: Path, migrations: Migrations, *, durable: bool, seed: Seed, whole: Whole) -> Database:
    """A file that works in place of one that was found broken or gone.

    Of the processes that find it broken, one at a time looks again and only the first moves it aside: else the second
    would move the first's new file.

    Args:
        path: The file.
        migrations: See `Database`.
        durable: See `Database`.
        seed: Called in each case.
        whole: Asked of a file that is there.

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
    """A new file in place of a lost one. What there is of that is moved aside once the new one is filled.

    A process that is killed in between leaves the lost one where it was, or none: then the next one goes on from there.
    """
    aside = path.with_name(f"{path.stem}-broken-{time.time_ns()}{path.suffix}")
    name = aside.name if path.exists() else vanished(path, _mark(path)[0])
    fresh = path.with_suffix(".new")
    for part in _parts(fresh):
        part.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    with closing(Database(fresh, migrations, durable=durable)) as database:
        seed(database, name)
        # Before the lost one is moved: else a process that comes in between would find a home without a journal.
        _put_mark(path, database)
    # A log without its file too: SQLite would read it into the new one.
    for part, kept in zip(_parts(path), _parts(aside), strict=True):
        if part.exists():
            part.rename(kept)
    fresh.rename(path)
    return Database(path, migrations, durable=durable)


def _parts(path: Path) -> list[Path]:
    """The files that SQLite keeps for one, that itself last."""
    return [path.with_name(path.name + suffix) for suffix in ("-wal", "-shm", "")]


def _sound(path: Path, migrations: Migrations, *, durable: bool, whole: Whole) -> Database | None:
    database = None
    try:
        database = Database(path, migrations, durable=durable, made=True)
        if database.sound(migrations) and whole(database.read, noted(path, database.begun)):
            return database
    except sqlite3.Error as exc:
        if not is_lost(exc):
            raise
    if database is not None:
        database.close()
    return None
