"""The journal as it stands, read beside the servers that use it: the file of a home, or a PostgreSQL of the bench's own."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg

from tests.support import postgres
from tests.support.postgres import Cluster

KINDS = ("sqlite", "postgres")


class Rows(Protocol):
    """Reads the journal. `env`: what tells a server of it."""

    env: Mapping[str, str]

    def read(self, sql: str) -> list[tuple[Any, ...]]:
        """All rows of a query without parameters; none before the first server has made the tables."""
        ...


class FileRows:
    """The file of a home."""

    env: Mapping[str, str] = {}

    def __init__(self, home: Path) -> None:
        self._file = home / "journal.sqlite3"

    def read(self, sql: str) -> list[tuple[Any, ...]]:
        if not self._file.exists():
            return []
        with closing(sqlite3.connect(self._file, timeout=30)) as connection:
            try:
                return connection.execute(sql).fetchall()
            except sqlite3.OperationalError:
                return []  # not migrated yet


class DatabaseRows:
    """A database of PostgreSQL. `cluster`: its server, if that is the bench's own."""

    def __init__(self, url: str, cluster: Cluster | None = None) -> None:
        self._url = url
        self.cluster = cluster
        self.env: Mapping[str, str] = {"FLUX2_JOURNAL_URL": url}

    def read(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self._url) as connection:
            try:
                return connection.execute(sql.encode()).fetchall()
            except psycopg.errors.UndefinedTable:
                return []


@contextmanager
def journal(kind: str, home: Path) -> Iterator[FileRows | DatabaseRows]:
    """The journal of a bench. A PostgreSQL writes to disk as it does for users, and is gone at the end."""
    if kind == "sqlite":
        yield FileRows(home)
    else:
        with postgres.cluster(postgres.SAFE) as cluster:
            yield DatabaseRows(cluster.url, cluster)


def states(rows: Rows) -> Counter[str]:
    """How many tasks are in which state."""
    return Counter(str(row[0]) for row in rows.read("SELECT state FROM task"))
