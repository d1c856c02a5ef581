"""What a team's servers have left, compared: the calls, the journal with its audit, RunAPI's tasks, the store of images."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bench.caps_race import MICROS
from bench.rows import Rows
from flux2_mcp.sandbox.tasks import SandboxTask
from tests.support.object_store import S3Server

CENTS = 100
_NUMBER = re.compile(r"number (\d+)\.")
"""Each call's prompt has a number of its own."""
TASKS = "SELECT key, task_id, state, request, images, person, charged FROM task"
ASKED = "SELECT task, usd FROM audit WHERE what = 'generate' AND outcome = 'allowed'"
REFUSED = "SELECT count(*) FROM audit WHERE what = 'generate' AND outcome = 'refused' AND cap IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was answered: what it asked for, and what it got."""

    number: int
    count: int
    fails: bool
    ids: tuple[str, ...]
    cap: str | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Compared:
    """Numbers, and what is wrong: how often each.

    Of `unaudited` refusals that were told the entry is not there. It is on disk before that (docs/team.md), so none may be missing.
    """

    tasks: int
    delivered: int
    linked: int
    charged: Decimal
    most_of_person: Decimal
    unaudited: int
    wrong: Mapping[str, int]


def compared(rows: Rows, store: S3Server, calls: Sequence[Call], made: Sequence[SandboxTask]) -> Compared:
    """Compare them, when all tasks have ended."""
    journal = rows.read(TASKS)
    asked = {call.number: call.count if call.ids else 0 for call in calls}
    fails = {call.number: call.fails for call in calls}
    written = Counter(_number(json.loads(request)) for _, _, _, request, _, _, _ in journal)
    created = Counter(_number(task.body) for task in made)
    # A task that RunAPI has not answered yet is told by its key.
    ids = {ident for key, task_id, *_ in journal for ident in (key, task_id)}
    told = Counter(ident for call in calls for ident in call.ids)
    ended = sum(state == ("failed" if fails.get(_number(json.loads(request))) else "delivered") for _, _, state, request, *_ in journal)  # fmt: skip
    images = {image["path"]: image["sha256"] for row in journal for image in json.loads(row[4])}
    of_task = {ident: [image["sha256"] for image in json.loads(row[4])] for row in journal for ident in row[:2]}
    names = set(store.names())
    linked = [(call.ids[0], call.sha256) for call in calls if call.sha256 is not None]
    audit = Counter(task for task, _ in rows.read(ASKED))
    refused = sum(call.cap is not None for call in calls)
    unaudited = max(0, refused - int(rows.read(REFUSED)[0][0]))
    paid = {task.id: Decimal(task.cents) / CENTS for task in made if task.failure is None}
    people = Counter[str]()
    for _, task_id, _, _, _, person, _ in journal:
        people[person] += int(paid.get(task_id, Decimal(0)) * CENTS)
    charged = sum((Decimal(row[6] or 0) / MICROS for row in journal), Decimal(0))
    wrong = {
        "tasks lost: asked for, and not in the journal": _short(asked, written),
        "tasks lost: asked for, and not made": _short(asked, created),
        "tasks written twice, or written and refused": _short(written, asked),
        "tasks made twice, or made and refused": _short(created, asked),
        "keys with two tasks at the service": len(made) - len({task.idempotency_key for task in made}),
        "tasks made, and not in the journal": len({task.id for task in made} - ids),
        "ids told to two calls": sum(number - 1 for number in told.values()),
        "ids told, and not in the journal": len(told.keys() - ids),
        "tasks that have not ended as they should": len(journal) - ended,
        "images not in the store": len(images.keys() - names),
        "images with other bytes": sum(
            hashlib.sha256(store.get(name)).hexdigest() != images[name] for name in images.keys() & names
        ),
        "objects in the store that no task has": len(names - images.keys()),
        "images by a link with other bytes": sum([sha256] != of_task.get(ident) for ident, sha256 in linked),
        "tasks without one entry in the audit": sum(audit[row[0]] != 1 for row in journal),
        "entries in the audit without a task": len(audit.keys() - {row[0] for row in journal}),
        "refusals told without an entry in the audit": unaudited,
        "cents charged otherwise than the service did": abs(int((charged - sum(paid.values())) * CENTS)),
    }
    return Compared(
        tasks=len(journal),
        delivered=sum(row[2] == "delivered" for row in journal),
        linked=len(linked),
        charged=charged,
        most_of_person=Decimal(max(people.values(), default=0)) / CENTS,
        unaudited=unaudited,
        wrong=wrong,
    )


def _number(request: Mapping[str, Any]) -> int:
    found = _NUMBER.search(str(request["prompt"]))
    assert found is not None, request
    return int(found[1])


def _short(wanted: Mapping[int, int], there: Mapping[int, int]) -> int:
    """How many of what is wanted are not there."""
    return sum(max(0, number - there.get(each, 0)) for each, number in wanted.items())
