"""Reads a SQLite file, and loads little for it: also what only looks into a file from time to time can afford that.

`sqlite_file` writes, and has all the rest. Only these two modules import sqlite3.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager

TYPE_CHECKING = False  # typing and pathlib are not imported here: the server that sleeps has no use for them
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Value = str | int | float | None
    Parameters = Sequence[Value] | Mapping[str, Value]
    Read = Callable[..., list[sqlite3.Row]]

Row = sqlite3.Row
Error = sqlite3.Error


@contextmanager
def reading(address: str, patience_seconds: float) -> Iterator[Read]:
    """Open a file to read it, in whatever state it is. This changes nothing in it.

    Args:
        address: The file as a URL; see `address_of`.
        patience_seconds: How long a query waits for another process's transaction.

    Raises:
        sqlite3.Error: The file can't be opened.
    """
    with closing(sqlite3.connect(f"{address}?mode=ro", uri=True, timeout=patience_seconds)) as connection:
        connection.row_factory = sqlite3.Row
        connection.text_factory = text_or_bytes

        def read(sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
            return connection.execute(sql, parameters).fetchall()

        yield read


def address_of(path: str) -> str:
    """An absolute POSIX path as SQLite's URL of it."""
    # As SQLite reads a URL, only these three mean something else in it (https://www.sqlite.org/uri.html).
    return f"file://{path.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}"


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds the file just now, and nothing is wrong with it."""
    return str(getattr(error, "sqlite_errorname", "")).startswith("SQLITE_BUSY")


def text_or_bytes(data: bytes) -> str | bytes:
    """Text, or bytes if it is not UTF-8: one broken value must not make the others of its query unreadable."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
