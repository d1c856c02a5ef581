"""Rows and records: the SQL of single tasks. Sync; every function that writes is called inside `Store.write`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

from flux2_mcp.domain import lifecycle
from flux2_mcp.domain.catalog import resolution
from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.domain.models import Action, ImageRequest, Save, StoredImage
from flux2_mcp.errors import InvalidRequestError, JournalError, Problem, Wording, shortened
from flux2_mcp.journal.records import (
    Intent,
    LeaseLostError,
    SameIdError,
    TaskChange,
    TaskRecord,
    adopted,
    checked,
    digest,
    dump,
    dump_images,
    items,
    load,
)
from flux2_mcp.journal.sql.people import Rows
from flux2_mcp.journal.sqlite import glance

if TYPE_CHECKING:
    from flux2_mcp.journal.sql.store import Database, Row, Value

log = logging.getLogger("flux2_mcp.journal")

T = TypeVar("T")

UNREADABLE = (
    "This version of flux2-mcp can't read the record of this task ({what} may be a newer version's, or is broken). It was left"
    " as it is. Update flux2-mcp; whether RunAPI made and charged it, RunAPI's own history tells."
)
MICROS = 1_000_000
NO_COLUMNS: Mapping[str, Value] = {}
MAX_STEPS = 8
"""More than a call for one picture has."""
MAX_USD = Decimal(1_000_000_000)
"""USD. Sums of amounts stay within the databases' integers."""
MAX_TIMESTAMP = glance.LATEST
"""Seconds since 1970. A week or a time zone can be added without an overflow of `datetime`."""

# For each event: the column that records when it first happened.
STAMPS = {
    Event.ACCEPTED: "submitted_at",
    Event.COMPLETED: "completed_at",
    Event.FAILED: "completed_at",
    Event.REFUSED: "completed_at",
    Event.EXPIRED: "completed_at",
    Event.VANISHED: "completed_at",
    Event.DELIVERED: "delivered_at",
}


def micros(usd: Decimal | None) -> int | None:
    """USD in the database's unit; more than `MAX_USD` counts as `MAX_USD`."""
    return None if usd is None else int(min(usd, MAX_USD) * MICROS)


def amount(column: str) -> str:
    """SQL for an amount: NULL if the column holds nothing that `micros` could have written."""
    return f"CASE WHEN typeof({column}) = 'integer' AND {column} BETWEEN 0 AND {micros(MAX_USD)} THEN {column} END"


def usd(amount: object) -> Decimal | None:
    """USD from the database's unit.

    Raises:
        TypeError: The value is no integer.
        ValueError: It is above `MAX_USD` or below 0.
    """
    if amount is None:
        return None
    if type(amount) is not int:
        raise TypeError
    if not 0 <= amount <= MAX_USD * MICROS:
        raise ValueError
    return Decimal(amount) / MICROS


def utc(seconds: object) -> datetime | None:
    """An aware time from the database's seconds.

    Raises:
        TypeError: The value is no float.
        ValueError: It is above `MAX_TIMESTAMP` or below 0.
    """
    return None if seconds is None else _time(seconds)


def _time(seconds: object) -> datetime:
    if type(seconds) is not float:
        raise TypeError
    if not 0 <= seconds <= MAX_TIMESTAMP:
        raise ValueError
    return datetime.fromtimestamp(seconds, UTC)


def record(row: Row) -> TaskRecord:
    """The record of one row, or a stand-in if the row can't be read: a newer version wrote it, or it is broken.

    So one bad row spoils no list. No code works on a stand-in, and nothing is written to its row.
    """
    try:
        return _record(row)
    except Exception as exc:  # noqa: BLE001  # whatever the row holds, the others must be read
        return _stand_in(row, exc)


def _record(row: Row) -> TaskRecord:
    """The record of one row, strictly checked: one value of a wrong type could later break the work on all tasks.

    Columns that are not read: `digest`, `model` and `resolution` repeat the request for queries; the others get
    overwritten.
    """
    made = TaskRecord(
        key=row["key"],
        task_id=row["task_id"],
        account=row["account"],
        state=State(row["state"]),
        request=load(row["request"]),
        workspace=row["workspace"],
        client=row["client"],
        session=row["session"],
        push_url=row["push_url"],
        save=_save(row["save_to"], row["overwrite"]),
        quoted_usd=usd(row["quoted"]),
        reserved_usd=usd(row["reserved"]),
        charged_usd=usd(row["charged"]),
        error=row["error"],
        image_urls=tuple(items(json.loads(row["urls"]))),
        images=tuple(_image(**image) for image in items(json.loads(row["images"]))),
        created_at=_time(row["created_at"]),
        submitted_at=utc(row["submitted_at"]),
        completed_at=utc(row["completed_at"]),
        delivered_at=utc(row["delivered_at"]),
        started=utc(row["sent_at"]) is not None,
        owner=row["owner"],
        fence=row["fence"],
        location=row["location"],
        replayed={0: False, 1: True}[row["replayed"]],
        follows=row["follows"],
        most_usd=usd(row["most"]),
        person=row["person"],
    )
    if made.location is not None and not made.location.startswith("/"):
        raise ValueError  # the key is sent to the base URL with this path behind it
    _is_path(made.workspace, None if made.save is None else made.save.target)
    return checked(made)


def _save(target: str | None, overwrite: int) -> Save | None:
    wanted = {0: False, 1: True}[overwrite]
    return None if target is None else checked(Save(target, wanted))


def _image(**fields: Any) -> StoredImage:  # noqa: ANN401  # any JSON values, which this function checks
    image = checked(StoredImage(**fields))
    _is_path(image.path, image.saved)
    share = image.transparent_share
    if not (image.width and image.height and (share is None or 0 <= share <= 1)):
        raise ValueError
    return image


def _is_path(*texts: str | None) -> None:
    if any(text is not None and "\0" in text for text in texts):
        raise ValueError  # as every system call with such a path would


def _stand_in(row: Row, why: Exception) -> TaskRecord:
    log.debug("a record can't be read", exc_info=why)
    known = row["state"] in set(State)
    return TaskRecord(
        key=str(row["key"]),
        task_id=row["task_id"] if isinstance(row["task_id"], str) else None,
        account=str(row["account"]),
        state=State.UNKNOWN,
        request=ImageRequest(
            action=Action.TEXT_TO_IMAGE, variant="unknown", model=shortened(str(row["model"])), prompt=""
        ),
        workspace=None,
        client=None,
        session=None,
        push_url=None,
        save=None,
        quoted_usd=_or_none(usd, row["quoted"]),
        charged_usd=_or_none(usd, row["charged"]),
        error=UNREADABLE.format(what="it" if known else f"its state {str(row['state'])[:40]!r}"),
        image_urls=(),
        images=(),
        created_at=_or_none(utc, row["created_at"]) or datetime.fromtimestamp(0, UTC),
        submitted_at=None,
        completed_at=None,
        delivered_at=None,
        started=True,
        owner=None if row["owner"] is None else str(row["owner"]),
        readable=False,
    )


def _or_none(read: Callable[[object], T | None], value: object) -> T | None:
    try:
        return read(value)
    except (TypeError, ValueError):
        return None


def records(rows: Iterable[Row]) -> tuple[TaskRecord, ...]:
    """Many rows."""
    return tuple(map(record, rows))


def readable(rows: Iterable[Row]) -> tuple[TaskRecord, ...]:
    """Many rows, without those that can't be read."""
    return tuple(found for found in records(rows) if found.readable)


def find(database: Database, rows: Rows, ident: str) -> TaskRecord | None:
    """The record with this task id or key."""
    return next(iter(find_all(database, rows, [ident])), None)


def find_all(database: Database, rows: Rows, idents: Sequence[str]) -> tuple[TaskRecord, ...]:
    """The records with these task ids or keys, in this order; unknown ones are left out."""
    questions = [
        (f"SELECT * FROM task WHERE {rows.seen} AND {column} = :ident", {**rows.values, "ident": ident})
        for ident in idents
        for column in ("task_id", "key")
    ]
    found = database.together(questions) if questions else []
    pairs = zip(found[::2], found[1::2], strict=True)
    return records((by_id or by_key)[0] for by_id, by_key in pairs if by_id or by_key)


def led_to(database: Database, rows: Rows, record: TaskRecord) -> tuple[TaskRecord, ...]:
    """The tasks whose images led to this one's, first to last, and the task itself.

    A broken file may make a task follow itself, so no more than `MAX_STEPS` are read.
    """
    steps = [record]
    while steps[0].follows is not None and len(steps) < MAX_STEPS:
        sql = f"SELECT * FROM task WHERE {rows.seen} AND key = :key"  # another task may have this key as its id
        before = readable(database.read(sql, {**rows.values, "key": steps[0].follows}))
        if not before:
            break
        steps.insert(0, before[0])
    return tuple(steps)


def get(database: Database, rows: Rows, key: str) -> TaskRecord:
    """The record with this key.

    Raises:
        JournalError: There is none.
    """
    found = database.read(f"SELECT * FROM task WHERE {rows.seen} AND key = :key", {**rows.values, "key": key})
    if not found:
        raise unknown()
    return record(found[0])


def unknown() -> JournalError:
    """The error for a task that is not there, or not there for this person."""
    return JournalError("The journal does not know this task.")


def key_question(account: str, intent: Intent) -> tuple[str, tuple[str, str]]:
    """What to ask the database for `known`."""
    return "SELECT digest, save_to, workspace, person FROM task WHERE account = ? AND key = ?", (account, intent.key)


def known(database: Database, account: str, intent: Intent, found: Sequence[Row]) -> bool:
    """Whether the journal has the intent's key already. A key belongs to one person: RunAPI has one task for it.

    Args:
        database: The journal.
        account: Under which the key's tasks are recorded.
        intent: What is to be written.
        found: What came of `key_question`.

    Raises:
        InvalidRequestError: The key belongs to another request or to another person, or to the same request with another
            place for its image.
    """
    if not found:
        return False
    text = "was used for another request; use a new one for a new request, or leave it out."
    used = InvalidRequestError(Problem("idempotency_key", text))
    if found[0]["person"] != intent.person:
        raise used
    if found[0]["digest"] != _digest(database, account, intent):
        raise used
    there = (found[0]["save_to"], found[0]["workspace"])
    if intent.save is not None and there != (intent.save.target, intent.workspace):
        text = Wording(
            "differs from what this {name:idempotency_key} was first used with; copy the image from there, or leave it out."
        )
        raise InvalidRequestError(Problem("save_to", text))
    return True


def _digest(database: Database, account: str, intent: Intent) -> str:
    sql = "SELECT digest FROM task WHERE account = ? AND key = ?"
    before = [] if intent.follows is None else database.read(sql, (account, intent.follows))
    return digest(intent.request, follows=before[0]["digest"] if before else None)


def insert(
    database: Database,
    account: str,
    intent: Intent,
    *,
    at: datetime,
    owner: str,
    lease_until: float,
    more: Mapping[str, Value] = NO_COLUMNS,
    is_new: bool = False,
) -> TaskRecord | None:
    """Write an intent, or return the record that its key has already.

    Args:
        database: The journal.
        account: Under which the key's tasks are recorded.
        intent: What to write.
        at: Now.
        owner: Who holds the task.
        lease_until: Until when.
        more: Columns that only one database has.
        is_new: The key is known to be new. Then a task that follows no other is written together with the next statement, and
            its record is not read.

    Raises:
        InvalidRequestError: The key belongs to another request.
    """
    values: dict[str, Value] = {
        "key": intent.key,
        "account": account,
        "state": State.INTENT,
        "request": dump(intent.request),
        "digest": _digest(database, account, intent),
        "model": intent.request.model,
        "resolution": resolution(intent.request),
        "workspace": intent.workspace,
        "client": intent.client,
        "session": intent.session,
        "push_url": intent.push_url,
        "save_to": None if intent.save is None else intent.save.target,
        "overwrite": intent.save is not None and intent.save.overwrite,
        "quoted": micros(intent.quoted_usd),
        "reserved": micros(intent.reserved_usd),
        "follows": intent.follows,
        "most": micros(intent.most_usd),
        "person": intent.person,
        "created_at": at.timestamp(),
        "owner": owner,
        "lease_until": lease_until,
        **more,
    }
    if is_new or not known(database, account, intent, database.read(*key_question(account, intent))):
        names, marks = ", ".join(values), ", ".join(f":{name}" for name in values)
        database.later(f"INSERT INTO task ({names}) VALUES ({marks})", values)
    if is_new and intent.follows is None:
        return None
    return get(database, Rows(account), intent.key)


def _dearer(ours: Decimal | None, theirs: Decimal | None) -> int | None:
    """The larger reservation, in the database's unit; None if RunAPI named none."""
    return None if theirs is None else micros(max(theirs, ours or Decimal(0)))


def held(database: Database, rows: Rows, owner: str, record: TaskRecord) -> TaskRecord:
    """The present record of a task, after a check that the owner still holds it.

    Args:
        database: The journal.
        rows: The tasks that are seen.
        owner: The process that believes that it holds the task.
        record: As that process last saw it.

    Raises:
        LeaseLostError: Another process has taken it over since, even if it gave it back; or it moved to another
            account; or its record broke.
    """
    try:
        now = get(database, rows, record.key)
    except JournalError:
        if rows.sees_all and database.read("SELECT 1 FROM task WHERE key = ? LIMIT 1", (record.key,)):
            raise LeaseLostError from None
        raise
    if (now.owner, now.fence) != (owner, record.fence) or not now.readable:
        raise LeaseLostError
    return now


def step(
    database: Database, rows: Rows, owner: str, record: TaskRecord, event: Event, change: TaskChange
) -> TaskRecord:
    """Take one step of the lifecycle of a task that the owner still holds; see `held`. An error changes nothing.

    Raises:
        LeaseLostError: The owner does not hold it any more.
        IllegalTransitionError: The table has no such step.
        SameIdError: The task id that came with the event belongs to another task.
    """
    before, key = held(database, rows, owner, record), record.key
    columns: dict[str, Value] = {
        "state": lifecycle.after(before.state, event),
        "task_id": change.task_id,
        "location": change.location,
        "replayed": change.replayed,
        "reserved": _dearer(before.reserved_usd, change.reserved_usd),
        "charged": micros(change.charged_usd),
        "error": change.error,
        "urls": None if change.image_urls is None else json.dumps(change.image_urls),
        "images": None if change.images is None else dump_images(change.images),
    }
    # Delivery clears the error: what delayed the image is over.
    over = {"error"} if event is Event.DELIVERED else set[str]()
    sets = [f"{name} = :{name}" if name in over else f"{name} = coalesce(:{name}, {name})" for name in columns]
    if stamp := STAMPS.get(event):
        sets.append(f"{stamp} = coalesce({stamp}, :at)")
    columns |= {"at": change.at.timestamp(), "account": rows.account, "key": key}
    if event is Event.ACCEPTED:
        # A caller may have asked for the id before the answer to our create came: it was then adopted, as this task.
        # A record of our own that was written anew has no `sent_at` either; its key tells it apart.
        sql = "DELETE FROM task WHERE account = :account AND task_id = :task_id AND key = :adopted AND sent_at IS NULL"
        database.later(sql, columns | {"adopted": adopted(change.task_id or "")})
        if database.read("SELECT 1 FROM task WHERE account = :account AND task_id = :task_id AND key <> :key", columns):
            raise SameIdError
    database.later(f"UPDATE task SET {', '.join(sets)} WHERE account = :account AND key = :key", columns)
    return get(database, rows, key)
