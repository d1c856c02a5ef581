"""What the journal knows of past tasks, in PostgreSQL: durations, sums, and the images that pruning may delete."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from math import isfinite

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import SpendingBy, SpendingGroup
from flux2_mcp.domain.lifecycle import MADE, State
from flux2_mcp.domain.models import StoredImage
from flux2_mcp.journal.contract import MAX_DURATIONS
from flux2_mcp.journal.postgres.connection import Database, Given
from flux2_mcp.journal.postgres.server import JournalServer
from flux2_mcp.journal.records import ANY, TaskFilter, TaskMatches, TaskRecord, dump_images
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.fragments import IS_UNPAID, among
from flux2_mcp.journal.sql.people import EVERYBODY, Rows, Whose
from flux2_mcp.journal.sql.store import NOTHING
from flux2_mcp.system.text import folded

STATE = f"CASE WHEN {among(frozenset(State))} THEN state ELSE 'unknown' END"
"""A state that only a newer version knows is read as unknown."""
QUOTED, CHARGED = map(task_rows.amount, ("quoted", "charged"))
MODELS = "array_agg(DISTINCT model) FILTER (WHERE model = ANY(:models))"
MATCHES = (
    "(:since IS NULL OR created_at >= :since) AND (:workspace IS NULL OR workspace = :workspace)"
    f" AND (:states IS NULL OR {STATE} = ANY(:states)) AND (:query IS NULL OR strpos(prompt, :query) > 0)"
    " AND (:sha256 IS NULL OR strpos(images, :sha256) > 0)"
)
READY = (
    f"SELECT {STATE} AS name, sum(tasks)::bigint AS tasks, sum(quotes) AS known_quotes, sum(quoted) AS quoted,"
    f" sum(CASE WHEN {IS_UNPAID} THEN tasks ELSE charges END)::bigint AS known_charges,"
    f" sum(CASE WHEN {IS_UNPAID} THEN 0 ELSE charged END) AS charged, {MODELS} AS models FROM (SELECT state, model,"
    " sum(tasks) AS tasks, sum(quotes) AS quotes, sum(quoted) AS quoted, sum(charges) AS charges, sum(charged) AS charged"
    " FROM total WHERE account = :account GROUP BY state, model HAVING sum(tasks) > 0) AS each GROUP BY 1"
)
"""What is `MATCHES` for any task."""
DONE = f"account = :account AND {among(MADE)}"
DAYS = "width_bucket(created_at, CAST(:midnights AS double precision[]))"
"""The day of a task as its number among the local midnights: only Python knows the time zone of this machine."""
# For each grouping: the SQL for a group's name, and the order of the groups.
GROUPS = {
    SpendingBy.DAY: (DAYS, "name DESC"),
    SpendingBy.VARIANT: ("variant", "charged DESC, name NULLS FIRST"),
    SpendingBy.WORKSPACE: ("workspace", "charged DESC, name NULLS FIRST"),
    SpendingBy.PERSON: ("person", "charged DESC, name NULLS FIRST"),
}
PATHS = r'"path": ("(?:[^"\\]|\\.)*")'
"""A path in a record's images, as `records.dump_images` writes it."""


class PostgresHistory:
    """See `contract.History`.

    Args:
        server: The journal's database.
        whose: Whose tasks they are.
    """

    def __init__(self, server: JournalServer, whose: Whose = EVERYBODY) -> None:
        self._server = server
        self._whose = whose

    @property
    def _rows(self) -> Rows:
        """The rows that the caller sees. Read it within a call of the server."""
        return self._whose.at(self._server.account)

    async def durations(self) -> dict[tuple[str, str], tuple[float, ...]]:
        """See `contract.History.durations`."""
        return await self._server.run(self._durations)

    async def matched(self, wanted: TaskFilter = ANY) -> TaskMatches:
        """See `contract.History.matched`."""
        return await self._server.run(partial(self._matched, wanted))

    async def spending(self, by: SpendingBy, since: datetime | None) -> tuple[SpendingGroup, ...]:
        """See `contract.History.spending`."""
        return await self._server.run(partial(self._spending, by, since))

    async def with_images(self, before: datetime) -> tuple[TaskRecord, ...]:
        """See `contract.History.with_images`."""

        def work(database: Database) -> tuple[TaskRecord, ...]:
            rows = self._rows
            sql = (
                f"SELECT * FROM task WHERE {rows.seen} AND {among({State.DELIVERED})} AND images <> '[]'"
                " AND created_at < :before ORDER BY n"
            )
            return task_rows.readable(database.read(sql, {**rows.values, "before": before.timestamp()}))

        return await self._server.run(work)

    async def still_used(self, paths: Sequence[str]) -> frozenset[str]:
        """See `contract.History.still_used`."""
        sql = (
            "SELECT DISTINCT found[1] AS path FROM task, regexp_matches(images, :pattern, 'g') AS found"
            " WHERE images <> '[]' AND found[1] = ANY(:paths)"
        )
        written = [json.dumps(path) for path in paths]
        found = await self._server.run(lambda database: database.read(sql, {"paths": written, "pattern": PATHS}))
        return frozenset(str(json.loads(row["path"])) for row in found)

    async def keep_images(self, key: str, images: Sequence[StoredImage]) -> None:
        """See `contract.History.keep_images`."""
        found = dump_images(images)

        def work(database: Database) -> None:
            rows = self._rows
            sql = f"UPDATE task SET images = :images WHERE {rows.seen} AND key = :key"
            database.execute(sql, {**rows.values, "images": found, "key": key})

        await self._server.write(work, alone=NOTHING)

    def _durations(self, database: Database) -> dict[tuple[str, str], tuple[float, ...]]:
        kinds = [(model.id, size) for model in catalog.all_models().values() for size in model.resolutions]
        timed = (
            f"SELECT completed_at - submitted_at FROM task WHERE {DONE} AND model = :model AND resolution = :resolution"
            " ORDER BY completed_at DESC LIMIT :kept"
        )
        found = {}
        known_values: dict[str, Given] = {"account": self._server.account, "kept": MAX_DURATIONS}
        asked = [(timed, known_values | {"model": model, "resolution": size}) for model, size in kinds]
        for (model, size), rows in zip(kinds, database.together(asked), strict=True):
            seconds = [row[0] for row in reversed(rows)]
            known = [each for each in seconds if isinstance(each, float) and isfinite(each)]
            if seconds:
                found[model, size] = tuple(max(0.0, each) for each in known)
        return found

    def _matched(self, wanted: TaskFilter, database: Database) -> TaskMatches:
        """A task that failed was not charged. Sums over all tasks of all are kept ready: see the migration `totals`."""
        rows = self._rows
        charged = f"CASE WHEN {IS_UNPAID} THEN 0 ELSE {CHARGED} END"
        # By model first: to collect the models of a state from its tasks, they would all be sorted.
        counted = (
            f"SELECT {STATE} AS name, sum(tasks)::bigint AS tasks, sum(known_quotes) AS known_quotes, sum(quoted) AS quoted,"
            f" sum(known_charges)::bigint AS known_charges, sum(charged) AS charged, {MODELS} AS models FROM (SELECT state, model,"
            f" count(*) AS tasks, count({QUOTED}) AS known_quotes, sum({QUOTED}) AS quoted, count({charged}) AS known_charges,"
            f" sum({charged}) AS charged FROM task WHERE {rows.seen} AND {MATCHES} GROUP BY state, model) AS each GROUP BY 1"
        )
        sql = READY if wanted == ANY and rows.sees_all else counted
        found = database.read(sql, matching(rows, wanted) | _known_models())

        def total(amount: str, known: str) -> Decimal | None:
            return (
                sum((Decimal(row[amount] or 0) for row in found), Decimal(0)) / task_rows.MICROS
                if any(row[known] for row in found)
                else None
            )

        return TaskMatches(
            states={State(row["name"]): row["tasks"] for row in found},
            quoted_usd=total("quoted", "known_quotes"),
            charged_usd=total("charged", "known_charges"),
            uncharged=sum(row["tasks"] - row["known_charges"] for row in found),
            models=frozenset(model for row in found for model in row["models"] or ()),
        )

    def _spending(self, by: SpendingBy, since: datetime | None, database: Database) -> tuple[SpendingGroup, ...]:
        """The newest day or the largest sum comes first. A task that failed was not charged.

        The sums of hours and of all tasks can't answer it: they have no count of a person's tasks, and what is reserved is in them.
        """
        rows = self._rows
        where = _since(rows, since)
        values: dict[str, Given] = {
            **rows.values,
            "since": None if since is None else since.timestamp(),
            **_known_models(),
        }
        midnights: list[datetime] = []
        if by is SpendingBy.DAY:
            ends = database.read(f"SELECT min(created_at), max(created_at) FROM task WHERE {where}", values)[0]
            midnights = [] if ends[0] is None else _midnights(ends[0], ends[1])
        if by is SpendingBy.DAY and not midnights:
            return ()
        values["midnights"] = [each.timestamp() for each in midnights]
        found = database.read(spending(rows, by, since), values)
        return tuple(
            SpendingGroup(
                name=midnights[row["name"] - 1].date().isoformat() if midnights else row["name"],
                tasks=row["tasks"],
                failed=row["failed"],
                open=row["open"],
                unquoted=row["unquoted"],
                quoted_usd=Decimal(row["quoted"]) / task_rows.MICROS,
                charged_usd=Decimal(row["charged"]) / task_rows.MICROS,
                models=frozenset(row["models"] or ()),
            )
            for row in found
        )


def _since(rows: Rows, since: datetime | None) -> str:
    return rows.seen if since is None else f"{rows.seen} AND created_at >= :since"


def spending(rows: Rows, by: SpendingBy, since: datetime | None) -> str:
    """SQL for the groups of `contract.History.spending`.

    Models are told apart by groups: `array_agg(DISTINCT model)` over tasks would have all of them sorted, on disk.
    """
    name, order = GROUPS[by]
    each = (
        f"SELECT {name} AS name, model, count(*) AS tasks, count(*) FILTER (WHERE {IS_UNPAID}) AS failed,"
        f" count(*) FILTER (WHERE {CHARGED} IS NULL AND NOT {IS_UNPAID}) AS open,"
        f" count(*) FILTER (WHERE {QUOTED} IS NULL) AS unquoted, sum({QUOTED}) AS quoted,"
        f" sum({CHARGED}) FILTER (WHERE NOT {IS_UNPAID}) AS charged FROM task WHERE {_since(rows, since)} GROUP BY 1, 2"
    )
    return (
        "SELECT name, sum(tasks)::bigint AS tasks, sum(failed)::bigint AS failed, sum(open)::bigint AS open,"
        " sum(unquoted)::bigint AS unquoted, coalesce(sum(quoted), 0) AS quoted, coalesce(sum(charged), 0) AS charged,"
        f" {MODELS} AS models FROM ({each}) AS each GROUP BY name ORDER BY {order}"
    )


def _midnights(first: float, last: float) -> list[datetime]:
    """The local midnights from the day of the first time to that of the last, in seconds since 1970."""
    day, end = (datetime.fromtimestamp(each, UTC).astimezone().date() for each in (first, last))
    days = [day + timedelta(days=number) for number in range((end - day).days + 1)]
    return [datetime(each.year, each.month, each.day).astimezone() for each in days]  # local on purpose


def matching(rows: Rows, wanted: TaskFilter) -> dict[str, Given]:
    """The values of `Rows.seen` and of `MATCHES`."""
    return {
        **rows.values,
        "since": None if wanted.since is None else wanted.since.timestamp(),
        "workspace": wanted.workspace,
        "states": None if wanted.states is None else sorted(str(state) for state in wanted.states),
        "query": None if wanted.query is None else folded(wanted.query),
        "sha256": wanted.sha256,
    }


def _known_models() -> dict[str, Given]:
    """The value of `MODELS`."""
    return {"models": list(catalog.all_models())}
