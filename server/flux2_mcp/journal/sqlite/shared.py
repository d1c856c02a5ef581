"""What processes share beside the tasks themselves: leases, the pace of calls, what was spent. Sync; over one `Database`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http import HTTPStatus
from typing import TYPE_CHECKING

from flux2_mcp.domain.budget import SpentSums
from flux2_mcp.domain.models import SANDBOX, NameOwner, UploadedFile
from flux2_mcp.errors import RateLimitedError
from flux2_mcp.journal.owners import is_dead
from flux2_mcp.journal.records import TaskRecord, checked
from flux2_mcp.journal.sqlite import task_rows

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.system.sqlite_file import Database, Read, Value

LEASE_SECONDS = 20.0
"""Seconds that a task stays with a process that is not heard of and can't be asked whether it lives. Renewed ten times as
often, so that a process on a busy machine keeps what it has."""
DAY = timedelta(hours=24)
UPLOADS_LIVE = timedelta(hours=1)
"""How long RunAPI holds an uploaded file (`api/runapi.md`, files)."""
MIN_CALLS_PER_SECOND = 0.2
"""Calls a second that the limiter never goes below."""
RECOVERY_FACTOR = 1.02
"""Each call that RunAPI does not refuse brings back so much of a rate that was halved."""
WINDOW_SECONDS = 1.25
"""Seconds in which at most `rate` calls are made: more than one, since neither waking up nor the way out is exact."""

BURST_SECONDS = 0.25
"""The part of a second's calls that may go out at once: more of them would get in each other's way, and arrive late."""
RATE_SECONDS = 1.02
"""Seconds, at least, from a call to the one that may not be in the same second."""
BLOCKED = "RunAPI answered 429: Too many requests"
"""It answered so to whoever called before."""

MAX_AHEAD_SECONDS = timedelta(days=7).total_seconds()
"""Seconds. No turn and no wait that RunAPI asks for lies so far ahead: what does is broken."""

Clock = Callable[[], float]
"""The machine's monotonic clock, which starts anew with the machine. Always read inside the transaction: so what was
written before was never written later."""

OPEN = "task INDEXED BY task_unfinished"
"""The table where only unfinished tasks are asked for. All indices begin with the account, and without statistics SQLite
takes any of them; so a journal of years would be read whole for the few that are open."""
IS_OPEN = "state IN ('intent', 'submitted', 'processing', 'completed')"
"""As `task_unfinished` says it, word for word: else that index does not serve."""
UNFINISHED = f"account = :account AND {IS_OPEN}"
LOOSE = "lease_until IS NULL OR lease_until NOT BETWEEN :now AND :until"
"""Nobody who is heard of holds it."""
FREE = "state IN ('failed', 'rejected')"
PURSE = "(account = 'sandbox') = :sandbox"
"""The accounts that spend the same money: all of a home, whatever key or spelling of the host; the sandbox spends none."""
_COUNTED = f"coalesce({', '.join(map(task_rows.amount, ('charged', 'reserved', 'quoted')))})"
SPENT = f"SELECT coalesce(sum({_COUNTED}) FILTER (WHERE NOT {FREE}), 0) FROM task"
_HELD = "coalesce(charged, reserved, quoted)"
UNCOUNTED = f"NOT {FREE} AND {_HELD} IS NOT {task_rows.amount(_HELD)}"
"""Tasks whose cost is in the journal and is no amount: what they cost is not known, as if they stood in a lost file."""
FIRST_RELEASE = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
"""Seconds since 1970. No task was made before."""
UNDATED = f"NOT {FREE} AND created_at < {FIRST_RELEASE}"
COST_OF = "'the cost of task ' || key"
"""What such a task is called among the lost files."""
UNDER_WAY = f"{UNFINISHED} AND (state IN ('submitted', 'processing') OR (state = 'intent' AND sent_at IS NOT NULL))"


def claim(account: str, owner: str, clock: Clock, database: Database, *, take: bool) -> tuple[TaskRecord, ...]:
    """Take or renew the lease of every unfinished task that no living process holds; give all that are the owner's.

    Without `take` the owner's own are renewed and nothing is taken.
    What can't be read is left to whoever can read it: its stand-in is given, and its row is not touched.
    """
    owners = database.read(f"SELECT DISTINCT owner FROM {OPEN} WHERE {UNFINISHED}", {"account": account})
    # What names no process at all stands in a broken record: it waits for its lease to lapse.
    names = [row["owner"] for row in owners if isinstance(row["owner"], str) and row["owner"] != owner]
    dead = json.dumps([name for name in names if is_dead(name)])
    free = f"{UNFINISHED} AND (owner = :owner OR :take AND ({LOOSE} OR owner IN (SELECT value FROM json_each(:dead))))"
    values: dict[str, Value] = {"account": account, "owner": owner, "dead": dead, "now": clock(), "take": take}
    # Most looks find nothing to take, and need not keep other processes from writing.
    if not database.read(f"SELECT 1 FROM {OPEN} WHERE {free} LIMIT 1", values | {"until": clock() + LEASE_SECONDS}):
        return ()
    with database.write(durable=False):
        values |= {"now": clock(), "until": clock() + LEASE_SECONDS}
        records = database.read(f"SELECT * FROM {OPEN} WHERE {free} ORDER BY n", values)
        found = task_rows.entries(records)
        unread = [record["n"] for record, entry in zip(records, found, strict=True) if not entry.readable]
        values["unread"] = json.dumps(unread)
        # What was this process's already keeps its number; any other becomes strange to whoever had it.
        taken = "fence = fence + (owner IS NOT :owner), owner = :owner, lease_until = :until"
        known = "n NOT IN (SELECT value FROM json_each(:unread))"
        database.execute(f"UPDATE {OPEN} SET {taken} WHERE {free} AND {known}", values)
        return tuple(
            replace(entry, owner=owner, fence=entry.fence + (entry.owner != owner)) if entry.readable else entry
            for entry in found
        )


def set_aside(account: str, clock: Clock, database: Database) -> int:
    """How many of the tasks under way can't be read. Only those that nobody holds are looked at, and they are few."""
    now = clock()
    values: dict[str, Value] = {"account": account, "now": now, "until": now + LEASE_SECONDS}
    found = database.read(f"SELECT * FROM {OPEN} WHERE {UNDER_WAY} AND ({LOOSE})", values)
    return len(found) - len(task_rows.readable(found))


def offer(account: str, owner: str, entry: TaskRecord, database: Database) -> None:
    """Give up the lease of a task of the owner's, if it still is; the owner's next claim renews it, unless another was faster."""
    sql = "UPDATE task SET lease_until = NULL WHERE account = ? AND key = ? AND owner = ? AND fence = ?"
    database.execute(sql, (account, entry.key, owner, entry.fence))


def take(account: str, owner: str, entry: TaskRecord, path: str, database: Database) -> NameOwner:
    """Take a file's name for a task, and tell whose it was. By the order that tasks were written in: no clock is asked.

    Raises:
        LeaseLostError: The task is another process's by now.
    """
    task_rows.held(database, account, owner, entry)
    sql = "SELECT n FROM task WHERE account = ? AND key = ?"
    n = int(database.read(sql, (account, entry.key))[0]["n"])
    # `newest` is the last task that was written down by then: this one was under way unless it is newer. SQLite compares
    # even what is no number.
    sql = "SELECT task IS :n AS ours, newest >= :n AS beside FROM placed WHERE path = :path"
    known = database.read(sql, {"path": path, "n": n})
    if known and known[0]["beside"] and not known[0]["ours"]:
        return NameOwner.TAKEN
    database.execute("INSERT OR REPLACE INTO placed VALUES (?, ?, (SELECT max(n) FROM task))", (path, n))
    return NameOwner.OURS if known and known[0]["ours"] else NameOwner.FREE


def turn(account: str, clock: Clock, rate: float, longest: float, database: Database) -> float:
    """Take the next turn to call: in no second more than `rate` of them, in whole calls; below one, that far apart.

    Gives when it is, on the machine's monotonic clock.

    Raises:
        RateLimitedError: RunAPI wants no call for longer than `longest` seconds. No turn was taken.
    """
    now = clock()
    # A broken record holds no pace: it is overwritten.
    paced = "rate > 0 AND typeof(rate) = 'real' AND typeof(blocked_until) = 'real' AND typeof(seen_at) = 'real'"
    known = database.read(f"SELECT rate, blocked_until, seen_at FROM pace WHERE account = ? AND {paced}", (account,))
    allowed = min(rate, known[0]["rate"] * RECOVERY_FACTOR) if known else rate
    blocked = known[0]["blocked_until"] if known else now
    if not known or now < known[0]["seen_at"] or blocked - now > MAX_AHEAD_SECONDS:  # the machine started anew
        blocked = now
        database.execute("DELETE FROM turn WHERE account = ?", (account,))
    if blocked - now > longest:
        raise RateLimitedError(BLOCKED, status=HTTPStatus.TOO_MANY_REQUESTS, retry_after=blocked - now)
    database.execute(
        "INSERT INTO pace VALUES (:account, :rate, :blocked, :now) ON CONFLICT (account)"
        " DO UPDATE SET rate = :rate, blocked_until = :blocked, seen_at = :now",
        {"account": account, "rate": allowed, "blocked": blocked, "now": now},
    )
    over = "at < ? OR at > ? OR typeof(at) <> 'real'"
    oldest = now - WINDOW_SECONDS / min(allowed, MIN_CALLS_PER_SECOND)
    database.execute(f"DELETE FROM turn WHERE account = ? AND ({over})", (account, oldest, now + MAX_AHEAD_SECONDS))
    whole = int(allowed) if allowed >= 1 else allowed
    together = max(1, int(whole * BURST_SECONDS))
    apart = max(WINDOW_SECONDS * together / whole, RATE_SECONDS / (whole // together or whole))
    latest = "SELECT at FROM turn WHERE account = ? ORDER BY at DESC LIMIT 1 OFFSET ?"
    before = database.read(latest, (account, together - 1))
    at = max([now, blocked] + [row[0] + apart for row in before])
    database.execute("INSERT INTO turn VALUES (?, ?)", (account, at))
    return at


def limited(account: str, clock: Clock, rate: float, retry_after: float | None, database: Database) -> None:
    """RunAPI said 429: halve the rate, and nobody calls before `retry_after` seconds (1 where it gave none) are over.

    Where the account has had no turn yet (it was learnt meanwhile whose the key is), `rate` is what is halved.
    A call that is refused while nobody may call went out before: it says nothing of the rate that holds since.
    """
    now = clock()
    sql = (
        "INSERT INTO pace VALUES (:account, max(:slowest, :rate / 2), :until, :now) ON CONFLICT (account) DO UPDATE SET"
        " rate = iif(blocked_until > :now, rate, max(:slowest, rate / 2)), blocked_until = max(blocked_until, :until)"
    )
    until = now + (1.0 if retry_after is None else retry_after)
    values: dict[str, Value] = {
        "account": account,
        "now": now,
        "rate": rate,
        "slowest": MIN_CALLS_PER_SECOND,
        "until": until,
    }
    database.execute(sql, values)


def spent(account: str, session: str | None, at: datetime, database: Database) -> SpentSums:
    """What was charged or is reserved, by all accounts that spend the same money.

    A task whose end is not known counts with what it reserved: caps fail closed. So does a file of which a part could
    not be read, and a task whose cost is no amount: with what the user has told of it, and until then the day is closed.
    """
    since = (at - DAY).timestamp()
    values: dict[str, Value] = {"sandbox": account == SANDBOX, "since": since, "session": session}
    day = database.read(f"{SPENT} INDEXED BY task_spent WHERE {PURSE} AND created_at > :since", values)
    ours = database.read(f"{SPENT} INDEXED BY task_spent_session WHERE {PURSE} AND session = :session", values)
    missing = task_rows.amount("missing")
    told = database.read(f"SELECT coalesce(sum({missing}), 0) FROM lost WHERE found_at > :since", values)
    closing = lost(account, at, database.read)
    return SpentSums(
        session_usd=Decimal(ours[0][0]) / task_rows.MICROS,
        daily_usd=Decimal(day[0][0] + told[0][0]) / task_rows.MICROS,
        lost=closing[0] if closing else None,
    )


def lost(account: str, at: datetime, read: Read) -> tuple[str, ...]:
    """What closes the day: the files, the newest first, and the first task whose part of the day's sum is not known.

    A date from before this program was there is none, unless the clock says so now.
    """
    values: dict[str, Value] = {"sandbox": account == SANDBOX, "since": (at - DAY).timestamp()}
    files = read(f"SELECT name FROM lost WHERE {task_rows.amount('missing')} IS NULL ORDER BY found_at DESC")
    tasks = f"SELECT {COST_OF} AS name FROM task INDEXED BY task_spent WHERE {PURSE}"
    apart = f"{COST_OF} NOT IN (SELECT name FROM lost) LIMIT 1"
    uncounted = read(f"{tasks} AND created_at > :since AND {UNCOUNTED} AND {apart}", values)
    undated = read(f"{tasks} AND created_at < min({FIRST_RELEASE}, :since) AND NOT {FREE} AND {apart}", values)
    return tuple(str(row["name"]) for row in (*files, *uncounted, *undated))


def settle(missing_usd: Decimal, database: Database) -> bool:
    """Note what the lost files held beside what could be read, all of it with the one that was found last.

    A task whose cost is no amount is noted among them; its row is left as it is.
    """
    values: dict[str, Value] = {"missing": task_rows.micros(missing_usd), "now": time.time()}
    database.execute(
        f"INSERT OR IGNORE INTO lost SELECT {COST_OF}, :now, NULL FROM task WHERE ({UNCOUNTED}) OR ({UNDATED})", values
    )
    last = "(SELECT name FROM lost ORDER BY found_at DESC, name LIMIT 1)"
    before = f"coalesce({task_rows.amount('missing')}, 0)"
    return database.execute(f"UPDATE lost SET missing = iif(name = {last}, :missing, {before})", values) > 0


def charged(account: str, models: Iterable[tuple[str, str]], database: Database) -> dict[tuple[str, str], Decimal]:
    """What the last image of each model and resolution was charged, in USD, by all accounts that spend the same money."""
    sql = (
        f"SELECT charged FROM task INDEXED BY task_charged WHERE {PURSE} AND model = :model AND resolution = :resolution"
        f" AND charged > 0 AND {task_rows.amount('charged')} > 0 AND NOT {FREE} ORDER BY completed_at DESC LIMIT 1"
    )
    found = {}
    for model, resolution in models:
        values: dict[str, Value] = {"sandbox": account == SANDBOX, "model": model, "resolution": resolution}
        if last := database.read(sql, values):
            found[model, resolution] = Decimal(last[0]["charged"]) / task_rows.MICROS
    return found


def unpriced(account: str, model: str, database: Database) -> int:
    """How many open tasks of a model were asked for without a known price, by all accounts that spend the same money."""
    sql = f"SELECT count(*) FROM {OPEN} WHERE {IS_OPEN} AND {PURSE} AND model = :model AND quoted IS NULL"
    return int(database.read(sql, {"sandbox": account == SANDBOX, "model": model})[0][0])


def untold(account: str, model: str, database: Database) -> bool:
    """Whether a task of a model without a known price has ended, over the same accounts, and its charge was never told."""
    sql = (
        f"SELECT 1 FROM task WHERE {PURSE} AND model = :model AND quoted IS NULL AND charged IS NULL AND NOT {FREE}"
        " AND state NOT IN ('intent', 'submitted', 'processing') LIMIT 1"
    )
    return bool(database.read(sql, {"sandbox": account == SANDBOX, "model": model}))


def upload(account: str, identity: str, at: datetime, database: Database) -> UploadedFile | None:
    """The file that RunAPI still holds of this content."""
    sql = "SELECT * FROM upload WHERE account = ? AND identity = ? AND expires_at > ?"
    found = database.read(sql, (account, identity, at.timestamp()))
    if not found:
        return None
    row = found[0]
    try:
        return checked(
            UploadedFile(
                file_name=row["file_name"],
                url=row["url"],
                size_bytes=row["size_bytes"],
                mime_type=row["mime_type"],
                expires_at=task_rows.utc(row["expires_at"]),
            )
        )
    except (TypeError, ValueError):  # broken: it is sent once more, and written down anew
        return None


def uploaded(account: str, identity: str, file: UploadedFile, database: Database) -> None:
    """Note what RunAPI holds, and forget what it does not any more."""
    expires_at = 0.0 if file.expires_at is None else file.expires_at.timestamp()
    database.execute("DELETE FROM upload WHERE expires_at < ?", (expires_at - UPLOADS_LIVE.total_seconds(),))
    database.execute(
        "INSERT OR REPLACE INTO upload VALUES (?, ?, ?, ?, ?, ?, ?)",
        (account, identity, file.file_name, file.url, file.size_bytes, file.mime_type, expires_at),
    )


def nudge(account: str, push_url: str, database: Database) -> None:
    """Mark the open task that RunAPI called back for."""
    sql = "UPDATE task SET nudged = 1 WHERE account = ? AND push_url = ? AND state IN ('intent', 'submitted', 'processing')"
    database.execute(sql, (account, push_url))


def nudged(account: str, owner: str, database: Database) -> tuple[str, ...]:
    """The keys of the owner's tasks that were marked; the marks are gone after."""
    marked, values = f"{UNFINISHED} AND owner = :owner AND nudged = 1", {"account": account, "owner": owner}
    keys = tuple(row["key"] for row in database.read(f"SELECT key FROM {OPEN} WHERE {marked}", values))
    if keys:
        database.execute(f"UPDATE {OPEN} SET nudged = 0 WHERE {marked}", values)
    return keys
