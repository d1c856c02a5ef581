"""What was spent: sums for the caps, the last charges, and what a lost journal held."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.budget import Caps, SpentSums
from flux2_mcp.domain.lifecycle import BEFORE_RESULT
from flux2_mcp.domain.models import SANDBOX
from flux2_mcp.journal.sql import task_rows, team
from flux2_mcp.journal.sql.fragments import COUNTED, IS_OPEN, IS_UNPAID, OPEN, SAME_MONEY, among
from flux2_mcp.journal.sql.people import Rows

if TYPE_CHECKING:
    from flux2_mcp.journal.records import TaskRecord
    from flux2_mcp.journal.sql.store import Database, Read, Row, Store, Value

DAY = timedelta(hours=24)
MONTH = timedelta(days=30)
NO_CAPS = Caps()
SPENT = f"SELECT coalesce(sum({COUNTED}) FILTER (WHERE NOT {IS_UNPAID}), 0) FROM task"
HOUR_SECONDS = 3600
WITHIN = "sandbox = :sandbox AND hour >= :{name}_hour"
"""SQL for the whole hours since a time, in the table `spent`."""
IN_FIRST_HOUR = f"{SAME_MONEY} AND created_at > :{{name}}_since AND created_at < :{{name}}_edge"
"""SQL for the tasks since that time that are in no whole hour."""
SETTLED = f"(SELECT coalesce(sum({task_rows.amount('missing')}), 0) FROM lost WHERE found_at > :{{name}}_since)"
"""SQL for what the user said of the files that were found lost after that time, in millionths of USD."""


def _sum(whose: str, index: str, persons: str) -> str:
    return (
        f"(SELECT coalesce(sum(usd), 0) FROM spent WHERE whose = {whose} AND {WITHIN})"
        f" + ({SPENT} INDEXED BY {index} WHERE {persons}{IN_FIRST_HOUR}) + {SETTLED} AS {{name}}"
    )


_SUM_OF_ALL = _sum("''", "task_spent", "")
_SUM_OF_PERSON = _sum(":person", "task_spent_by_person", "person = :person AND ")
_ON_DEMAND = {"monthly_usd": (MONTH, False), "person_daily_usd": (DAY, True), "person_monthly_usd": (MONTH, True)}
"""The sums that are read where there is a cap on them: over which time, and whether they are a person's."""
_HELD = "coalesce(charged, reserved, quoted)"
UNCOUNTED = f"NOT {IS_UNPAID} AND {_HELD} IS NOT NULL AND {task_rows.amount(_HELD)} IS NULL"
"""Tasks whose recorded cost is no valid amount: their cost is not known, as if they were in a lost file."""
FIRST_RELEASE = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
"""Seconds since 1970. No task was made before this time."""
UNDATED = f"NOT {IS_UNPAID} AND created_at < {FIRST_RELEASE}"
COST_OF = "'the cost of task ' || key"
"""The name of such a task among the lost files."""

_EDGE = f"SELECT person, {{}} FROM task INDEXED BY task_spent WHERE NOT {IS_UNPAID} AND {IN_FIRST_HOUR}"
_SUMS_OF_PEOPLE = (
    f"SELECT person.person AS person, coalesce(sum(day), 0) + {SETTLED.format(name='day')} AS day,"
    f" coalesce(sum(month), 0) + {SETTLED.format(name='month')} AS month FROM person LEFT JOIN ("
    "SELECT whose, CASE WHEN hour >= :day_hour THEN usd ELSE 0 END AS day, usd AS month FROM spent"
    f" WHERE {WITHIN.format(name='month')}"
    f" UNION ALL {_EDGE.format(f'{COUNTED}, 0', name='day')} UNION ALL {_EDGE.format(f'0, {COUNTED}', name='month')}"
    ") AS each ON each.whose = person.person GROUP BY person.person"
)


class SqlMoney:
    """See `contract.Money`. It also remembers the money of this process's own tasks, in case the file is lost."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._own: dict[str, tuple[str | None, Decimal]] = {}
        self.person: str | None = None

    def of(self, person: str) -> SqlMoney:
        """The same, with the sums of a person."""
        view = copy(self)
        view.person = person
        return view

    async def spent(self, *, at: datetime, session: str | None, caps: Caps = NO_CAPS) -> SpentSums:
        """See `contract.Money.spent`."""
        return await self._store.run(lambda database: self.sums(session, self.person, at, caps, database))

    async def of_people(self, *, at: datetime) -> Mapping[str, tuple[Decimal, Decimal]]:
        """See `contract.Money.of_people`."""
        return await self._store.run(lambda database: of_people(self._store.account, at, database))

    async def in_force(self, caps: Caps) -> Caps:
        """See `contract.Money.in_force`."""
        if self.person is None:
            return caps
        return await self._store.run(lambda database: team.in_force(self.person, caps, database))

    async def charged(self) -> Mapping[tuple[str, str], Decimal]:
        """See `contract.Money.charged`."""
        kinds = [(model.id, resolution) for model in catalog.all_models().values() for resolution in model.resolutions]
        return await self._store.run(lambda database: charged(self._store.account, kinds, database))

    async def settle(self, missing_usd: Decimal) -> bool:
        """See `contract.Money.settle`."""
        return await self._store.write(lambda database: settle(missing_usd, database))

    def remember(self, *records: TaskRecord) -> None:
        """Remember the session and the money of tasks that were just written."""
        self._own.update((record.key, (record.session, record.counted_usd)) for record in records)

    def sums(self, session: str | None, person: str | None, at: datetime, caps: Caps, database: Database) -> SpentSums:
        """The sums that the caps count, with the tasks of this session that a lost journal held."""
        found = spent(self._store.account, session, person, at, caps, database)
        if not self._store.is_partial:
            return found
        lost_keys = [
            key
            for key, (its, _) in tuple(self._own.items())  # the event loop may add to it meanwhile
            if its == session and not task_rows.find(database, Rows(self._store.account), key)
        ]
        more = sum((self._own[key][1] for key in lost_keys), Decimal(0))
        return replace(found, session_usd=found.session_usd + more)


def spent(
    account: str, session: str | None, person: str | None, at: datetime, caps: Caps, database: Database
) -> SpentSums:
    """The sums charged or reserved, over all accounts whose money is counted together.

    A task whose end is not known counts with its reservation: caps fail closed. A file that could not be read whole,
    and a task whose cost is no valid amount, count with the sum that the user gave; until the user gives one, the day
    is closed. What a lost file held counts against each person, too: nobody can say whose it was.

    All sums are one statement, so that what is added up is of one moment.
    """
    wanted = {"daily_usd": (DAY, False)} | {
        name: each for name, each in _ON_DEMAND.items() if getattr(caps, name) is not None and (person or not each[1])
    }
    values: dict[str, Value] = {"sandbox": account == SANDBOX, "session": session, "person": person}
    sums = [f"({SPENT} INDEXED BY task_spent_session WHERE {SAME_MONEY} AND session = :session) AS session_usd"]
    for name, (length, is_persons) in wanted.items():
        values |= window(name, at - length)
        sums.append(_SUM_OF_PERSON.format(name=name) if is_persons else _SUM_OF_ALL.format(name=name))
    (row,), *unknown = database.together([(f"SELECT {', '.join(sums)}", values), *_lost(account, at)])
    found = {name: Decimal(row[name]) / task_rows.MICROS for name in ("session_usd", *wanted)}
    closing = _names(unknown)
    return SpentSums(**found, lost=closing[0] if closing else None, member=person is not None)


def of_people(account: str, at: datetime, database: Database) -> dict[str, tuple[Decimal, Decimal]]:
    """What each person who has called has spent in a day and in a month; see `spent`."""
    values: dict[str, Value] = {"sandbox": account == SANDBOX} | window("day", at - DAY) | window("month", at - MONTH)
    rows = database.read(_SUMS_OF_PEOPLE, values)
    return {
        row["person"]: (Decimal(row["day"]) / task_rows.MICROS, Decimal(row["month"]) / task_rows.MICROS)
        for row in rows
    }


def window(name: str, since: datetime) -> dict[str, Value]:
    """The values of `WITHIN` and `IN_FIRST_HOUR`."""
    from_ = since.timestamp()
    hour = int(from_ // HOUR_SECONDS) + 1
    return {f"{name}_since": from_, f"{name}_hour": hour, f"{name}_edge": float(hour * HOUR_SECONDS)}


def lost(account: str, at: datetime, read: Read) -> tuple[str, ...]:
    """Why the day's sum is not known: the lost files, newest first, then a task without a valid cost or date.

    A date before the first release is not valid, unless the clock of the machine is that early now.
    """
    return _names([read(*question) for question in _lost(account, at)])


def _lost(account: str, at: datetime) -> list[tuple[str, dict[str, Value]]]:
    since = (at - DAY).timestamp()
    values: dict[str, Value] = {"sandbox": account == SANDBOX, "since": since}
    files = f"SELECT name FROM lost WHERE {task_rows.amount('missing')} IS NULL ORDER BY found_at DESC"
    tasks = f"SELECT {COST_OF} AS name FROM task INDEXED BY task_spent WHERE {SAME_MONEY}"
    apart = f"{COST_OF} NOT IN (SELECT name FROM lost) LIMIT 1"
    uncounted = f"{tasks} AND created_at > :since AND {UNCOUNTED} AND {apart}"
    undated = f"{tasks} AND created_at < {min(FIRST_RELEASE, since)} AND NOT {IS_UNPAID} AND {apart}"
    return [(sql, values) for sql in (files, uncounted, undated)]


def _names(found: Iterable[Iterable[Row]]) -> tuple[str, ...]:
    return tuple(str(row["name"]) for rows in found for row in rows)


def settle(missing_usd: Decimal, database: Database) -> bool:
    """Note how much money the unread parts of the lost files held; the whole sum is noted with the file found last.

    A task whose cost is no valid amount is noted among the files; its own row does not change.
    """
    values: dict[str, Value] = {"missing": task_rows.micros(missing_usd), "now": time.time()}
    database.execute(
        f"INSERT INTO lost (name, found_at) SELECT {COST_OF}, :now FROM task WHERE ({UNCOUNTED}) OR ({UNDATED})"
        " ON CONFLICT (name) DO NOTHING",
        values,
    )
    last = "(SELECT name FROM lost ORDER BY found_at DESC, name LIMIT 1)"
    before = f"coalesce({task_rows.amount('missing')}, 0)"
    return (
        database.execute(f"UPDATE lost SET missing = CASE WHEN name = {last} THEN :missing ELSE {before} END", values)
        > 0
    )


def charged(account: str, models: Sequence[tuple[str, str]], database: Database) -> dict[tuple[str, str], Decimal]:
    """The charge for the last image of each model and resolution, in USD, over all accounts counted together."""
    return charges(models, database.read(*charged_question(account, models))) if models else {}


def charged_question(account: str, models: Sequence[tuple[str, str]]) -> tuple[str, dict[str, Value]]:
    """What to ask the database for `charged`."""
    last = (
        "SELECT * FROM (SELECT {n} AS n, charged FROM task INDEXED BY task_charged"
        f" WHERE {SAME_MONEY} AND model = :model{{n}} AND resolution = :resolution{{n}}"
        f" AND charged > 0 AND {task_rows.amount('charged')} > 0 AND NOT {IS_UNPAID} ORDER BY completed_at DESC LIMIT 1) AS last{{n}}"
    )
    values: dict[str, Value] = {"sandbox": account == SANDBOX}
    for n, (model, resolution) in enumerate(models):
        values |= {f"model{n}": model, f"resolution{n}": resolution}
    return " UNION ALL ".join(last.format(n=n) for n in range(len(models))), values


def charges(models: Sequence[tuple[str, str]], found: Sequence[Row]) -> dict[tuple[str, str], Decimal]:
    """The charges from what came of `charged_question`."""
    return {models[row["n"]]: Decimal(row["charged"]) / task_rows.MICROS for row in found}


def unpriced(account: str, model: str, database: Database) -> int:
    """The number of open tasks of a model that were made without a known price, over all accounts counted together."""
    sql = f"SELECT count(*) FROM {OPEN} WHERE {IS_OPEN} AND {SAME_MONEY} AND model = :model AND quoted IS NULL"
    return int(database.read(sql, {"sandbox": account == SANDBOX, "model": model})[0][0])


def untold(account: str, model: str, database: Database) -> bool:
    """Whether a task of the model, made without a known price, has ended and RunAPI never said its charge."""
    sql = (
        f"SELECT 1 FROM task WHERE {SAME_MONEY} AND model = :model AND quoted IS NULL AND charged IS NULL AND NOT {IS_UNPAID}"
        f" AND NOT {among(BEFORE_RESULT)} LIMIT 1"
    )
    return bool(database.read(sql, {"sandbox": account == SANDBOX, "model": model}))
