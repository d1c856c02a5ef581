"""What the journal knows of past tasks, in SQLite: durations, sums, and the images that pruning may delete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import SpendingBy, SpendingGroup
from flux2_mcp.domain.lifecycle import MADE, State
from flux2_mcp.domain.models import StoredImage
from flux2_mcp.journal.contract import MAX_DURATIONS
from flux2_mcp.journal.records import ANY, TaskFilter, TaskMatches, TaskRecord, dump_images
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.fragments import IS_UNPAID, among
from flux2_mcp.journal.sql.people import EVERYBODY, Rows, Whose
from flux2_mcp.system.text import folded

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.journal.sqlite.file import JournalFile
    from flux2_mcp.system.sqlite_file import Database, Value

# For each grouping: the SQL for a group's name, and the order of the groups.
GROUPS = {
    SpendingBy.DAY: ("date(created_at, 'unixepoch', 'localtime')", "name DESC"),
    SpendingBy.VARIANT: ("iif(json_valid(request), request ->> 'variant', NULL)", "charged DESC, name"),
    SpendingBy.WORKSPACE: ("workspace", "charged DESC, name"),
    SpendingBy.PERSON: ("person", "charged DESC, name"),
}
STATE = "iif(state IN (SELECT value FROM json_each(:all)), state, 'unknown')"
"""A state that only a newer version knows is read as unknown."""
QUOTED, CHARGED = (
    f"iif(typeof({amount}) = 'integer' AND {amount} BETWEEN 0 AND {int(task_rows.MAX_USD) * task_rows.MICROS}, {amount}, NULL)"
    for amount in ("quoted", "charged")
)
"""NULL if a broken record holds no valid amount: one amount that overflows SQLite's integers would break every sum."""
MODELS = "json_group_array(DISTINCT model) FILTER (WHERE model IN (SELECT value FROM json_each(:models)))"
"""Of a group of tasks. A broken record may hold anything instead of a model's name."""
MATCHES = (
    "(:since IS NULL OR created_at >= :since) AND (:workspace IS NULL OR workspace = :workspace)"
    f" AND (:states IS NULL OR {STATE} IN (SELECT value FROM json_each(:states)))"
    " AND (:query IS NULL OR mentions(CAST(iif(json_valid(request), request ->> 'prompt', '') AS BLOB), :query))"
    " AND (:sha256 IS NULL OR instr(images, :sha256))"
)
DONE = f"account = :account AND {among(MADE)}"
# Steps from each kind to the next in the index: there are few kinds, and many tasks of each.
_KIND = f"SELECT n FROM task INDEXED BY task_durations WHERE {DONE}"
KINDS = f"""
WITH RECURSIVE kind (model, resolution) AS (
  SELECT model, resolution FROM task WHERE n = ({_KIND} ORDER BY model, resolution LIMIT 1)
  UNION ALL
  SELECT task.model, task.resolution FROM kind JOIN task ON n = coalesce(
    ({_KIND} AND model = kind.model AND resolution > kind.resolution ORDER BY resolution LIMIT 1),
    ({_KIND} AND model > kind.model ORDER BY model, resolution LIMIT 1)
  )
)
SELECT model, resolution FROM kind
"""


class SqliteHistory:
    """See `contract.History`."""

    def __init__(self, file: JournalFile, whose: Whose = EVERYBODY) -> None:
        self._file = file
        self._whose = whose

    @property
    def _rows(self) -> Rows:
        """The rows that the caller sees. Read it within a call of the file."""
        return self._whose.at(self._file.account)

    async def durations(self) -> dict[tuple[str, str], tuple[float, ...]]:
        """See `contract.History.durations`."""
        return await self._file.run(self._durations)

    async def matched(self, wanted: TaskFilter = ANY) -> TaskMatches:
        """See `contract.History.matched`."""
        return await self._file.run(partial(self._matched, wanted))

    async def spending(self, by: SpendingBy, since: datetime | None) -> tuple[SpendingGroup, ...]:
        """See `contract.History.spending`."""
        return await self._file.run(lambda database: self._spending(by, since, database))

    async def with_images(self, before: datetime) -> tuple[TaskRecord, ...]:
        """See `contract.History.with_images`."""
        return await self._file.run(lambda database: self._with_images(before, database))

    async def still_used(self, paths: Sequence[str]) -> frozenset[str]:
        """See `contract.History.still_used`."""
        return await self._file.run(partial(_still_used, paths))

    async def keep_images(self, key: str, images: Sequence[StoredImage]) -> None:
        """See `contract.History.keep_images`."""
        found = dump_images(images)

        def work(database: Database) -> None:
            rows = self._rows
            sql = f"UPDATE task SET images = :images WHERE {rows.seen} AND key = :key"
            database.execute(sql, {**rows.values, "images": found, "key": key})

        await self._file.write(work)

    def _durations(self, database: Database) -> dict[tuple[str, str], tuple[float, ...]]:
        timed = (
            f"SELECT completed_at - submitted_at FROM task WHERE {DONE} AND model = :model AND resolution = :resolution"
            " ORDER BY completed_at DESC LIMIT :kept"
        )
        found = {}
        for model, resolution in database.read(KINDS, {"account": self._file.account}):
            values = {"account": self._file.account, "model": model, "resolution": resolution, "kept": MAX_DURATIONS}
            seconds = [row[0] for row in reversed(database.read(timed, values))]
            # A broken record may give no number, or infinity; the planner can use neither.
            known = [each for each in seconds if isinstance(each, float) and isfinite(each)]
            found[model, resolution] = tuple(max(0.0, each) for each in known)
        return found

    def _matched(self, wanted: TaskFilter, database: Database) -> TaskMatches:
        """A task that failed was not charged. Sums over all tasks of all are kept ready: see the migration `totals`."""
        rows = self._rows
        charged = f"iif({IS_UNPAID}, 0, {CHARGED})"
        ready = (
            f"SELECT {STATE} AS state, sum(tasks) AS tasks, sum(quotes) AS known_quotes, sum(quoted) AS quoted,"
            f" sum(iif({IS_UNPAID}, tasks, charges)) AS known_charges, sum(iif({IS_UNPAID}, 0, charged)) AS charged,"
            f" {MODELS} AS models FROM total WHERE account = :account AND tasks > 0 GROUP BY 1"
        )
        counted = (
            f"SELECT {STATE} AS state, count(*) AS tasks, count({QUOTED}) AS known_quotes, sum({QUOTED}) AS quoted,"
            f" count({charged}) AS known_charges, sum({charged}) AS charged, {MODELS} AS models"
            f" FROM task WHERE {rows.seen} AND {MATCHES} GROUP BY 1"
        )
        sql = ready if wanted == ANY and rows.sees_all else counted
        found = database.read(sql, matching(rows, wanted) | _known_models())

        def total(amount: str, known: str) -> Decimal | None:
            return (
                sum((Decimal(row[amount] or 0) for row in found), Decimal(0)) / task_rows.MICROS
                if any(row[known] for row in found)
                else None
            )

        return TaskMatches(
            states={State(row["state"]): row["tasks"] for row in found},
            quoted_usd=total("quoted", "known_quotes"),
            charged_usd=total("charged", "known_charges"),
            uncharged=sum(row["tasks"] - row["known_charges"] for row in found),
            models=frozenset(model for row in found for model in json.loads(row["models"])),
        )

    def _spending(self, by: SpendingBy, since: datetime | None, database: Database) -> tuple[SpendingGroup, ...]:
        """The newest day or the largest sum comes first. A task that failed was not charged."""
        rows = self._rows
        return tuple(
            SpendingGroup(
                name=None if row["name"] is None else str(row["name"]),
                tasks=row["tasks"],
                failed=row["failed"],
                open=row["open"],
                unquoted=row["unquoted"],
                quoted_usd=Decimal(row["quoted"]) / task_rows.MICROS,
                charged_usd=Decimal(row["charged"]) / task_rows.MICROS,
                models=frozenset(json.loads(row["models"])),
            )
            for row in database.read(
                spending(rows, by, since),
                rows.values | {"since": None if since is None else since.timestamp()} | _known_models(),
            )
        )

    def _with_images(self, before: datetime, database: Database) -> tuple[TaskRecord, ...]:
        rows = self._rows
        sql = (
            f"SELECT * FROM task WHERE {rows.seen} AND {among({State.DELIVERED})} AND images <> '[]'"
            " AND created_at < :before ORDER BY n"
        )
        return task_rows.readable(database.read(sql, {**rows.values, "before": before.timestamp()}))


def spending(rows: Rows, by: SpendingBy, since: datetime | None) -> str:
    """SQL for the groups of `contract.History.spending`.

    With "or since ever" in it, no index would be used, and a month would read the tasks of all years.
    """
    name, order = GROUPS[by]
    return (
        f"SELECT {name} AS name, count(*) AS tasks, count(*) FILTER (WHERE {IS_UNPAID}) AS failed,"
        f" count(*) FILTER (WHERE {CHARGED} IS NULL AND NOT {IS_UNPAID}) AS open,"
        f" count(*) FILTER (WHERE {QUOTED} IS NULL) AS unquoted, coalesce(sum({QUOTED}), 0) AS quoted,"
        f" coalesce(sum({CHARGED}) FILTER (WHERE NOT {IS_UNPAID}), 0) AS charged, {MODELS} AS models FROM task"
        f" WHERE {rows.seen}{'' if since is None else ' AND created_at >= :since'} GROUP BY 1 ORDER BY {order}"
    )


def matching(rows: Rows, wanted: TaskFilter) -> dict[str, Value]:
    """The values of `Rows.seen` and of `MATCHES`."""
    return {
        **rows.values,
        "since": None if wanted.since is None else wanted.since.timestamp(),
        "workspace": wanted.workspace,
        "states": None if wanted.states is None else json.dumps(sorted(wanted.states)),
        "all": json.dumps(list(State)),
        "query": None if wanted.query is None else folded(wanted.query),
        "sha256": wanted.sha256,
    }


def _known_models() -> dict[str, Value]:
    """The value of `MODELS`."""
    return {"models": json.dumps(list(catalog.all_models()))}


def _still_used(paths: Sequence[str], database: Database) -> frozenset[str]:
    sql = (
        "SELECT DISTINCT image.value ->> 'path' FROM task, json_each(iif(json_valid(task.images), task.images, '[]')) AS image"
        " WHERE image.type = 'object' AND image.value ->> 'path' IN (SELECT value FROM json_each(?))"
    )
    used = {str(row[0]) for row in database.read(sql, (json.dumps(paths),))}
    # A broken list can't be read: a file whose name occurs in its text counts as still used.
    broken = [str(row[0]) for row in database.read("SELECT images FROM task WHERE NOT json_valid(images)")]
    return frozenset(used | {path for path in paths if any(Path(path).stem in text for text in broken)})
