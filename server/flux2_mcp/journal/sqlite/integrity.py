"""Checks that a journal holds everything that was written, as far as that is cheap. They run once for each opening.

SQLite itself notices a page that is invalid. It does not notice an index that lacks rows (an empty page is valid), nor
a deleted log after its process was killed: then the file has an older state, without the latest tasks.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.system.sqlite_file import Read

LAST_ROWS = 10_000
"""Number of the newest tasks that are counted: caps, joins and lists need no more, and a large journal opens fast."""


def whole(read: Read, least: int) -> bool:
    """Whether the newest tasks are there, and every index has the tasks that the table has.

    Args:
        read: Runs a query on the file.
        least: The number `n` of a task that is known to have been written.

    Raises:
        sqlite3.Error: The file can't be read.
    """
    newest = int(read("SELECT coalesce(max(n), 0) FROM task")[0][0])
    if newest < least:
        return False
    found = read("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'task' ORDER BY name")
    of = {row["name"]: str(row["sql"] or "").partition(" WHERE ")[2] or "1" for row in found}
    since = (newest - LAST_ROWS,)
    counts = ", ".join(f"count(*) FILTER (WHERE {condition})" for condition in of.values())
    table = read(f"SELECT {counts} FROM task NOT INDEXED WHERE n > ?", since)[0] if of else ()
    return all(
        read(f'SELECT count(*) FROM task INDEXED BY "{name}" WHERE ({condition}) AND n > ?', since)[0][0] == count
        for (name, condition), count in zip(of.items(), table, strict=True)
    )


def has_left_images(path: Path) -> bool:
    """Whether images beside the journal show that there was one: a task made each image, and images outlive its files.

    Args:
        path: The journal, or where it would be.
    """
    with suppress(OSError):
        return any(path.with_name("images").iterdir())
    return False
