"""Which migrations a SQLite file has had, by its table `migration`. Pure, but for the queries that it is given.

The table `migration` records which migrations ran, when, and under which names. Early versions had no names: they
recorded the position in the list, and they count rows. So each row is one migration, and the first two columns must not
change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flux2_mcp.system.sqlite_file import Read

Migrations = Sequence[tuple[str, str]]
"""Names, and scripts of SQL, oldest first. Append only, never edit or rename: no migration runs a second time."""


def pending(read: Read, migrations: Migrations) -> Migrations:
    """Those of these migrations that a file has not had; none if a newer version wrote it."""
    applied = _applied(read, migrations)
    return () if is_newer(read, migrations) else [each for each in migrations if each[0] not in applied]


def is_newer(read: Read, migrations: Migrations) -> bool:
    """Whether a newer version has migrated the file: it has had a migration that is none of these."""
    return not _applied(read, migrations) <= {name for name, _ in migrations}


def _applied(read: Read, migrations: Migrations) -> set[str]:
    """The names of the migrations that a file has had. The number of a row without a name is a position in the list."""
    places = dict(enumerate((name for name, _ in migrations), start=1))
    return {name or places.get(number, f"number {number}") for number, name in recorded(read).items()}


def recorded(read: Read) -> dict[int, str | None]:
    """Numbers and names of the migrations that a file has had; none if it has no such table."""
    if not (columns := migration_columns(read)):
        return {}
    sql = "SELECT id, name FROM migration" if "name" in columns else "SELECT id, NULL FROM migration"
    return {int(row[0]): row[1] for row in read(sql)}


def unnamed(read: Read, migrations: Migrations) -> list[tuple[str, int]]:
    """Names, with their numbers, that an early version did not record; none if a newer version wrote the file."""
    if is_newer(read, migrations):
        return []
    return [(migrations[number - 1][0], number) for number, name in recorded(read).items() if name is None]


def migration_columns(read: Read) -> set[str]:
    """The columns of the table; none if there is no such table."""
    return {row["name"] for row in read("PRAGMA table_info(migration)")}
