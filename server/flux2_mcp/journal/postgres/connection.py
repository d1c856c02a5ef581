"""The seam to PostgreSQL: psycopg's connections, and the SQL of `sql` in its spelling. Only this module imports psycopg.

psycopg's blocking calls run in threads, as SQLite's do. Its asynchronous ones need asyncio, and on Windows not its usual
loop; the journal also runs under trio.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from typing import Any, TypeAlias

import psycopg
from psycopg import conninfo, errors

from flux2_mcp.journal.sql.store import Parameters

Error = psycopg.Error
Connection: TypeAlias = "psycopg.Connection[Row]"
Given: TypeAlias = "str | int | float | Sequence[str] | Sequence[int] | Sequence[float] | None"
"""What a parameter may be. A list is for `= ANY(...)`."""
Question: TypeAlias = "tuple[str, Parameters | Mapping[str, Given]]"
"""A statement of one of the two spellings, and its parameters."""

CONNECT_SECONDS = 5
STATEMENT_SECONDS = 30
"""A statement that takes longer is broken off, also one that waits for another transaction."""
IDLE_SECONDS = 15
"""The server ends a transaction whose process has said nothing for so long: it may stand still, and others wait for it."""
IDLE = psycopg.pq.TransactionStatus.IDLE
OLDEST_SERVER = 140_000
"""PostgreSQL 14."""

_DEFAULTS: Mapping[str, str | int] = {
    "connect_timeout": CONNECT_SECONDS,
    "application_name": "flux2-mcp",
    # A connection that was lost without a word is noticed after about ten seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "client_encoding": "UTF8",
    # Of several hosts the one that is not a copy.
    "target_session_attrs": "read-write",
}
_SET_UP = f"""
SET statement_timeout = '{STATEMENT_SECONDS}s';
SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s';
SET jit = off
"""

_HINT = re.compile(r" INDEXED BY \w+")
_TYPE = re.compile(r"typeof\((?:[^()]|\([^()]*\))*\) (=|<>) '\w+'")
_NAME = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")


class UnusableError(Exception):
    """The address is no address, or what stands there can't be used. `str` says why, and shows nothing secret."""


class Row:
    """A row: its values by the names of its columns, or by their places."""

    __slots__ = ("_places", "_values")

    def __init__(self, places: Mapping[str, int], values: Sequence[Any]) -> None:
        self._places = places
        self._values = values

    def __getitem__(self, key: int | str, /) -> Any:  # noqa: ANN401  # whatever the column holds
        return self._values[key if isinstance(key, int) else self._places[key]]


def _rows(cursor: psycopg.Cursor[Any]) -> psycopg.rows.RowMaker[Row]:
    places = {column.name: place for place, column in enumerate(cursor.description or ())}
    return lambda values: Row(places, values)


def connected(
    url: str,
    opened: Callable[[Connection], object] = bool,
    measured: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Connection:
    """A new connection, set up.

    Args:
        url: The address of the database.
        opened: Told of the connection before it is set up: so it can be cut if the server then says nothing.
        measured: Opened around the first statement.

    Raises:
        UnusableError: See there.
        psycopg.Error: The server does not answer, or refuses.
    """
    try:
        given = conninfo.conninfo_to_dict(url)
    except Error:  # its words may hold a part of a password
        raise UnusableError(
            "it can't be read: special characters in its parts must be percent-encoded, such as @ as %40"
        ) from None
    connection = psycopg.connect(
        **{**_DEFAULTS, **given},  # type: ignore[arg-type]  # libpq's own names
        autocommit=True,
        row_factory=_rows,
        cursor_factory=psycopg.ClientCursor,
    )
    try:
        opened(connection)
        _check(connection)
        with measured():
            connection.execute(_SET_UP.encode())
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: Connection) -> None:
    if connection.info.server_version < OLDEST_SERVER:
        raise UnusableError(f"PostgreSQL {version(connection)} stands there, and 14 or later is needed")
    if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
        raise UnusableError(f"its encoding is {encoding}; create the database with ENCODING 'UTF8'")


def place(url: str) -> str:
    """Where the database stands, to show to people: host, port and name; never the user or the password."""
    try:
        given = conninfo.conninfo_to_dict(url)
    except Error:
        return "PostgreSQL"
    # libpq takes what is not given from its own variables.
    host, port = (given.get(name) or os.environ.get(f"PG{name.upper()}") for name in ("host", "port"))
    name = given.get("dbname") or os.environ.get("PGDATABASE")
    where = "".join([f" at {host}" if host else "", f":{port}" if port else ""])
    return f"PostgreSQL{where}" + (f", database {name}" if name else "")


def version(connection: Connection) -> str:
    """The server's version, such as 15.18."""
    number = connection.info.server_version
    return f"{number // 10_000}.{number % 10_000}"


def is_lost(error: BaseException, connection: Connection | None) -> bool:
    """Whether the connection was lost, so that another one may do."""
    ended = isinstance(error, errors.AdminShutdown | errors.CrashShutdown | errors.IdleInTransactionSessionTimeout)
    return isinstance(error, psycopg.OperationalError) and (ended or connection is None or connection.broken)


def is_crossed(error: BaseException) -> bool:
    """Whether two transactions were in each other's way, and this one was undone."""
    return isinstance(error, errors.DeadlockDetected | errors.SerializationFailure)


def words(error: Exception) -> str:
    """What happened, in the server's own words, in one line."""
    if isinstance(error, errors.QueryCanceled):
        return f"the database took longer than {STATEMENT_SECONDS} s"
    told = error.diag.message_primary if isinstance(error, Error) else None
    lines = (told or str(error) or type(error).__name__).splitlines()
    said = [line for line in lines if not line.endswith("?")]  # libpq asks whether the server runs; so does our advice
    return " ".join(" ".join(said or lines).split()).rstrip(".")


def cut(connection: Connection) -> None:
    """Break a connection that another thread waits for: that thread gets an error at once."""
    with (
        suppress(Error, OSError, ValueError),
        socket.fromfd(connection.fileno(), socket.AF_INET, socket.SOCK_STREAM) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)


class Limit:
    """Cuts the connection that it holds when the time is over, and each that it is handed afterwards.

    A timeout of the server's own does not do: a server that says nothing does not say that either.
    """

    def __init__(self) -> None:
        self.over = False
        self._held: Connection | None = None

    def hold(self, connection: Connection) -> None:
        """Cut this one when the time is over."""
        self._held = connection
        if self.over:
            cut(connection)

    def let_go(self) -> None:
        """Hold no connection any more."""
        self._held = None

    def end(self) -> None:
        """The time is over."""
        self.over = True
        if (held := self._held) is not None:
            cut(held)

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Let the time be over if what stands inside takes longer.

        Raises:
            UnusableError: It was over.
        """
        timer = threading.Timer(seconds, self.end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Error:
            if self.over:
                raise UnusableError(silent(seconds)) from None
            raise
        finally:
            timer.cancel()


def silent(seconds: float) -> str:
    """What a caller is told of a server that says nothing."""
    return f"no answer came within {seconds:g} s"


class Database:
    """One connection, as the shared SQL uses it; see `sql.store.Database`. `changed`: a row was written.

    Each way to a server and back takes its time, on a bad day seconds: what can go together is sent together.

    Args:
        connection: Used for one call.
        first: Statements that go before the first one that is asked, together with it.
        begun: Is handed what came of them.
        last: Statements that go after the first one that is asked, together with it.
    """

    def __init__(
        self,
        connection: Connection,
        first: Sequence[Question] = (),
        begun: Callable[[Sequence[list[Row]]], None] | None = None,
        last: Sequence[Question] = (),
    ) -> None:
        self._connection = connection
        self._first = first
        self._begun = begun
        self._last = last
        self._later: list[Question] = []
        self.changed = False

    def read(self, sql: str, parameters: Parameters | Mapping[str, Given] = ()) -> list[Row]:
        """All rows of one query."""
        return self.together([(sql, parameters)])[0]

    def execute(self, sql: str, parameters: Parameters | Mapping[str, Given] = ()) -> int:
        """Run one statement. Returns the number of changed rows."""
        return self._ask([(sql, parameters)])[0][1]

    def together(self, questions: Sequence[Question]) -> list[list[Row]]:
        """See `sql.store.Database.together`."""
        return [rows for rows, _ in self._ask(questions)]

    def later(self, sql: str, parameters: Parameters | Mapping[str, Given] = ()) -> None:
        """See `sql.store.Database.later`."""
        self._later.append((sql, parameters))

    def begin(self) -> None:
        """Send what goes before the first statement now, if it was not sent."""
        if self._first:
            self._ask(())

    def end(self, *questions: Question) -> None:
        """Send what was left for later, and these."""
        if self._later or not self._first:  # else nothing was asked, and nothing has begun
            self._ask(questions)

    def _ask(self, questions: Sequence[Question]) -> list[tuple[list[Row], int]]:
        first, self._first = self._first, ()
        before = [*first, *self._later]
        self._later.clear()
        after = self._last if questions else ()
        results = _results(self._connection, [*before, *questions, *after])
        self.changed = self.changed or any(
            count > 0 and not sql.startswith(("SELECT", "WITH", "BEGIN", "SET"))
            for (sql, _), (_, count) in zip([*before, *questions], results, strict=False)
        )
        if first and self._begun is not None:
            self._begun([rows for rows, _ in results[: len(first)]])
        return results[len(before) : len(before) + len(questions)]


def _results(connection: Connection, questions: Sequence[Question]) -> list[tuple[list[Row], int]]:
    """The rows of each statement, and how many it changed or found. All of them are sent together."""
    cursor = connection.cursor()
    if len(questions) == 1:
        sql, parameters = questions[0]
        cursor.execute(spelled(sql), _given(parameters))
    else:
        texts = [_bound(connection, sql, parameters) for sql, parameters in questions]
        cursor.execute("; ".join(texts).encode())
    results = []
    for _ in questions:
        results.append((cursor.fetchall() if cursor.description else [], cursor.rowcount))
        cursor.nextset()
    return results


def _bound(connection: Connection, sql: str, parameters: Parameters | Mapping[str, Given]) -> str:
    cursor = psycopg.ClientCursor(connection)
    return cursor.mogrify(spelled(sql), _given(parameters))


@cache
def spelled(sql: str) -> bytes:
    """A statement of the shared SQL in psycopg's spelling; the rules are those of `sql.store`."""
    sql = _TYPE.sub(lambda found: "TRUE" if found[1] == "=" else "FALSE", _HINT.sub("", sql))
    return _NAME.sub(r"%(\1)s", sql.replace("%", "%%").replace("?", "%s")).encode()


def _given(parameters: Parameters | Mapping[str, Given]) -> Any:  # noqa: ANN401  # psycopg's own parameters
    if isinstance(parameters, Mapping):
        return {name: _value(value) for name, value in parameters.items()}
    return [_value(value) for value in parameters]


def _value(value: object) -> object:
    """A value that a column can hold. Texts of PostgreSQL hold no NUL, and an Enum would be written by its name."""
    return str.__str__(value).replace("\0", "\ufffd") if isinstance(value, str) else value
