"""The tasks. Each is made once for its idempotency key; its status then follows from its row and the clock."""

from __future__ import annotations

import hashlib
import json
import math
import random
import uuid
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict, replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import Action, Status
from flux2_mcp.sandbox import scenarios
from flux2_mcp.sandbox.http import HttpError
from flux2_mcp.sandbox.scenarios import Fault, Script
from flux2_mcp.sandbox.state import SandboxState
from flux2_mcp.system.sqlite_file import Row

RESULT_SECONDS = 7 * 86_400.0
"""How long a result's URL is valid after the task's end (`api/runapi.md`, tasks)."""
UNPRICED_CENTS = 30
"""The sandbox's price of a model without a published price (max), unless the catalogue has one for the sandbox. It is
invented: RunAPI has no such price."""
OTHER_MEDIAN_SECONDS = 8.0
SPREAD_SIGMA = 0.3
"""Durations have a lognormal distribution around the median, with this sigma."""
OWN_MARKERS = "\n#"
"""Stands in `markers` between the text of what a task works on and what stands behind the `#` of its URL."""
PENDING_SHARE = 0.1
"""The part of a task's duration in which it is pending, before it is processing."""
PENDING_WHEN_STUCK = 0.5
"""Seconds that a task without an end is pending."""


Endpoint = tuple[str, Action]
"""A service and an action: two services may have an action of the same name."""


class SandboxTask(Struct, frozen=True, kw_only=True):
    """One row. Times are seconds since the epoch; `ends_at` None: the task never ends.

    `hybrid`: its create is answered with 202, and its result comes from `/api/v1/tasks/{id}` alone. `creates` counts the create calls answered with this task, `polls` the GETs of it, `shown` the answers with its
    result. `sources` are references made by `pictures.refer`. `failure` is the error that it ends with, or None. `markers` is
    the text of what a task without a prompt works on: the prompt, or the part behind its URL's `#`.
    """

    number: int
    id: str
    action: Action
    model: str
    body: Mapping[str, Any]
    idempotency_key: str | None
    client_request_id: str | None
    sources: tuple[str, ...]
    cents: int
    failure: str | None
    created_at: float
    starts_at: float
    ends_at: float | None
    hybrid: bool = False
    creates: int = 1
    polls: int = 0
    shown: int = 0
    callback_tries: int = 0
    markers: str = ""

    @property
    def about(self) -> catalog.Model:
        """Its model."""
        return catalog.all_models()[self.model]

    @property
    def endpoint(self) -> Endpoint:
        """Where it was made, and is polled unless it is hybrid."""
        return self.about.service, self.action

    @property
    def script(self) -> Script:
        """The script from its prompt's markers, or from those that it has instead of a prompt."""
        return script_of(self.about, self.body, self.markers)

    @property
    def resolution(self) -> str:
        """What its price depends on: the output resolution of its request, or the factor; or the default."""
        return size_of(self.about, self.body)

    @property
    def aspect_ratio(self) -> str:
        """The aspect ratio of its request, or the default."""
        return str(self.body.get("aspect_ratio") or catalog.DEFAULT_ASPECT_RATIO)

    def status(self, now: float) -> Status:
        """The task's status at that time."""
        if self.ends_at is not None and now >= self.ends_at:
            return Status.COMPLETED if self.failure is None else Status.FAILED
        return Status.PROCESSING if now >= self.starts_at else Status.PENDING


class TaskOrder(Struct, frozen=True, kw_only=True):
    """A validated create call. `failure` is set if a source can't be read: the task will fail with it."""

    action: Action
    model: catalog.Model
    body: Mapping[str, Any]
    idempotency_key: str | None
    client_request_id: str | None
    sources: tuple[str, ...] = ()
    failure: str | None = None
    callback: bool = False
    markers: str = ""

    @property
    def script(self) -> Script:
        """As `SandboxTask.script`."""
        return script_of(self.model, self.body, self.markers)

    @property
    def text(self) -> str:
        """The body as canonical JSON, for comparison and storage."""
        return json.dumps(self.body, sort_keys=True, separators=(",", ":"))

    @property
    def subject(self) -> str:
        """The name under which scripted faults are counted: the key, or without a key the request itself."""
        if self.idempotency_key is not None:
            return f"key {self.idempotency_key}"
        return f"body {hashlib.sha256(f'{self.action} {self.text}'.encode()).hexdigest()}"


def script_of(model: catalog.Model, body: Mapping[str, Any], markers: str) -> Script:
    """The script of a task: its prompt's; without a prompt, that of `markers`, where its action is named or stands alone."""
    if "prompt" in model.fields:
        return scenarios.read(body["prompt"])
    origin, _, own = markers.partition(OWN_MARKERS)
    return scenarios.added(scenarios.read(origin, model.action), scenarios.read(own))


def size_of(model: catalog.Model, body: Mapping[str, Any]) -> str:
    """What a price depends on, as a request has it, or the default."""
    value = None if model.size_field is None else body.get(model.size_field)
    if value is not None:
        return str(value)
    return catalog.DEFAULT_RESOLUTION if catalog.DEFAULT_RESOLUTION in model.resolutions else model.resolutions[0]


def cents(model: catalog.Model, resolution: str) -> int:
    """The price of one image in cents: the published price, or the sandbox's own if there is none."""
    invented = model.sandbox.get("cents", {}).get(resolution, UNPRICED_CENTS)
    return int(model.published_cents.get(resolution, invented))


def create(state: SandboxState, order: TaskOrder, now: float) -> tuple[SandboxTask, Fault | None]:
    """Make the task at that time, or find the one that was made with its key, in one transaction.

    Returns:
        The task, and the scripted fault that replaces its answer, or None. The fault can only be `Fault.LOST`.

    Raises:
        HttpError: 409 if the key belongs to another request, 402 if the money does not suffice, or a scripted fault.
    """
    script = order.script
    with state.database.write():
        if order.idempotency_key is not None and (known := _known(state, order)):
            return _shown(state, known, now), None
        if script.refused:
            raise _no_money()
        if script.refusal:
            raise HttpError(400, script.refusal, "The callback can't be signed with this key.", top_level=True)
        fault = _fault(state, order, script)
        if fault is None:
            return _shown(state, _insert(state, order, script, now), now), None
        if fault is Fault.LOST:
            return _insert(state, order, script, now), fault
    # Raised outside the transaction, so that the count of the fault is committed.
    raise broken(fault, state)


def _shown(state: SandboxState, task: SandboxTask, now: float) -> SandboxTask:
    """Count that the task's result was shown, if it has one."""
    if task.status(now) is not Status.COMPLETED:
        return task
    state.database.execute("UPDATE task SET shown = shown + 1 WHERE number = ?", (task.number,))
    return replace(task, shown=task.shown + 1)


def _known(state: SandboxState, order: TaskOrder) -> SandboxTask | None:
    for row in state.database.read("SELECT * FROM task WHERE idempotency_key = ?", (order.idempotency_key,)):
        if (row["model"], row["action"], row["body"]) != (order.model.id, order.action, order.text):
            raise HttpError(409, "conflict", "This Idempotency-Key was used for another request.")
        state.database.execute("UPDATE task SET creates = creates + 1 WHERE number = ?", (row["number"],))
        return find(state, row["id"])
    return None


def _fault(state: SandboxState, order: TaskOrder, script: Script) -> Fault | None:
    """The next scripted fault for this request. After the last, the count starts anew: a script can be repeated."""
    if not script.creates:
        return None
    seen = sum(
        int(row["seen"]) for row in state.database.read("SELECT seen FROM blip WHERE subject = ?", (order.subject,))
    )
    if seen == len(script.creates):
        state.database.execute("DELETE FROM blip WHERE subject = ?", (order.subject,))
        return None
    state.database.execute("INSERT OR REPLACE INTO blip VALUES (?, ?)", (order.subject, seen + 1))
    return script.creates[seen]


def _insert(state: SandboxState, order: TaskOrder, script: Script, now: float) -> SandboxTask:
    resolution = size_of(order.model, order.body)
    price = cents(order.model, resolution)
    money = state.money()
    if money.balance - money.reserved < price:
        raise _no_money()
    number = 1 + int(state.database.read("SELECT coalesce(max(number), 0) AS last FROM task")[0]["last"])
    seconds = _seconds(state, order.model, resolution, script, number)
    stuck = math.isinf(seconds)
    task = SandboxTask(
        number=number,
        id=str(uuid.uuid4()),
        action=order.action,
        model=order.model.id,
        body=order.body,
        idempotency_key=order.idempotency_key,
        client_request_id=order.client_request_id,
        sources=order.sources,
        cents=0 if script.refunded else price,
        failure=order.failure or script.failure,
        created_at=now,
        starts_at=now + (PENDING_WHEN_STUCK / state.speed if stuck else seconds * PENDING_SHARE),
        ends_at=None if stuck else now + seconds,
        hybrid=state.hybrid or script.hybrid,
        markers=order.markers,
    )
    row = asdict(task) | {
        "body": order.text,
        "sources": json.dumps(order.sources),
        "callback_due": task.ends_at if order.callback else None,
    }
    names, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    state.database.execute(f"INSERT INTO task ({names}) VALUES ({marks})", row)
    return task


def _seconds(state: SandboxState, model: catalog.Model, resolution: str, script: Script, number: int) -> float:
    if script.seconds is not None:
        return script.seconds / state.speed
    chance = random.SystemRandom() if state.seed is None else random.Random(f"{state.seed}:{number}")  # noqa: S311  # a duration, no secret
    medians = model.sandbox.get("median_seconds", {})
    median = medians.get(resolution, OTHER_MEDIAN_SECONDS)
    return chance.lognormvariate(math.log(median), SPREAD_SIGMA) / state.speed


def _no_money() -> HttpError:
    return HttpError(402, "insufficient_credits", "Insufficient credits")


def poll(state: SandboxState, endpoint: Endpoint | None, task_id: str, now: float) -> SandboxTask:
    """Count one GET at that time and return the task. `endpoint` None: a hybrid task, of any endpoint.

    Raises:
        HttpError: 404 if the task does not answer there, or a scripted fault.
    """
    with state.database.write():
        task = find(state, task_id)
        if task is None or endpoint != (None if task.hybrid else task.endpoint):
            raise HttpError(404, "not_found", "Task not found")
        fault = next(iter(task.script.polls[task.polls :]), None)
        state.database.execute("UPDATE task SET polls = polls + 1 WHERE number = ?", (task.number,))
        if fault is None:
            return _shown(state, replace(task, polls=task.polls + 1), now)
    # Raised outside the transaction, so that the count of the poll is committed.
    raise broken(fault, state)


def find(state: SandboxState, task_id: str) -> SandboxTask | None:
    """The task with this id. This does not count as a poll."""
    rows = state.database.read("SELECT * FROM task WHERE id = ?", (task_id,))
    return _task(rows[0]) if rows else None


def every(state: SandboxState) -> list[SandboxTask]:
    """All tasks that were ever made here, oldest first; tests count them."""
    return [_task(row) for row in state.database.read("SELECT * FROM task ORDER BY number")]


def _task(row: Row) -> SandboxTask:
    values = {name: row[name] for name in row.keys() if name != "callback_due"}  # noqa: SIM118  # a Row iterates values
    parsed = {
        "action": Action(row["action"]),
        "hybrid": bool(row["hybrid"]),
        "body": json.loads(row["body"]),
        "sources": tuple(json.loads(row["sources"])),
    }
    return SandboxTask(**(values | parsed))


def broken(fault: Fault, state: SandboxState) -> HttpError:
    """The HTTP error of a scripted fault."""
    wait = scenarios.RETRY_SECONDS / state.speed
    match fault:
        case Fault.BUSY:
            return HttpError(429, "rate_limited", "Too many requests", headers={"Retry-After": str(round(wait))})
        case Fault.BUSY_UNTIL:
            date = formatdate(state.clock() + wait, usegmt=True)
            return HttpError(429, "rate_limited", "Too many requests", headers={"Retry-After": date})
        case Fault.PAGE:
            return HttpError(502, "bad_gateway", "502 Bad Gateway", page=True)
        case _:
            return HttpError(503, "service_unavailable", "Service unavailable")
