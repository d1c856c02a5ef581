"""Whether a journal holds all that was written, as far as that shows at small cost: looked at once for each opening.

SQLite itself notices a page that is none. It does not notice an index that lacks rows (an empty page reads well), nor a log
that was deleted after its process was killed: then the file is as it was some tasks ago.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.system.sqlite_file import Read

LAST_ROWS = 10_000
"""Tasks, the newest, that are counted: as many as caps, joins and lists ask for, and no journal of years is read through."""


def whole(read: Read, least: int) -> bool:
    """Whether the last tasks are there, and every index has those that the table has.

    Args:
        read: The file's queries.
        least: The number of a task that was written down.

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
    """Whether a journal was there before by the images beside it, which outlive all of its files: a task made each.

    Args:
        path: The journal, or where it would be.
    """
    with suppress(OSError):
        return any(path.with_name("images").iterdir())
    return False
