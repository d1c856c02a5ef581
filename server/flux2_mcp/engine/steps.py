"""The three steps of a task: send its intent, ask RunAPI about it, fetch its images.

Each takes one step and writes it down. A step that fails is noted as trouble, with the time of the next try. A task that
RunAPI may have is never given up before its time.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread

from flux2_mcp.domain.lifecycle import EVENT_OF_STATUS, RESULT_LIFETIME, TABLE, Event, IllegalTransitionError, State
from flux2_mcp.domain.models import NameOwner, RemoteTask, Status
from flux2_mcp.engine.seam import Seam
from flux2_mcp.errors import (
    ApiError,
    AuthenticationError,
    ConflictError,
    DeliveryError,
    Flux2Error,
    InsufficientCreditsError,
    InvalidRequestError,
    JournalError,
    NotFoundError,
    SandboxError,
    ServiceError,
    SettingsError,
    StorageError,
    TransportError,
    WireError,
    Wording,
    shortened,
)
from flux2_mcp.images import workspace
from flux2_mcp.images.download import deliver
from flux2_mcp.journal.records import SameIdError, TaskChange, TaskRecord
from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.tasks")

REPLAY_WINDOW = timedelta(hours=24)
"""An unanswered create may be sent again under its key for this time: RunAPI remembers keys no longer (`api/runapi.md`)."""
VANISHED_SECONDS = 600.0
"""A task that RunAPI has not known for this time, at every ask, will not come back."""
MAX_FETCHES = 5
"""The minimum of failures in a row before an image is given up whose URLs are too old: the clock may be wrong."""
MAX_BROKEN_FETCHES = 3
"""Failures in a row after which a user is told that an image can't be fetched: each is two tries, the second with a new URL."""
SLOT_SECONDS = 0.25
"""Seconds until the first of the intents that wait for a place among the tasks under way looks again whether another process
has left one."""
BACKOFF_FIRST_SECONDS, BACKOFF_SEND_SECONDS, BACKOFF_FETCH_SECONDS = 1.0, 60.0, 3600.0
"""Seconds until the next try, doubling; the most for sending, and for fetching."""
MAX_THREADS = 4
"""Images that are written or decoded at once: each thread keeps memory. With 400 that came together, four held 115 MiB and as
many as there were 174, in the same time. What a large image takes is bounded where it is decoded (`images.pixel_limit`)."""

_NOT_AGAIN = Wording(
    "It is never sent again. Look at RunAPI's own history, or at the balance ({name:check_pricing}), whether it was made;"
    " only if not, call generate anew."
)
UNANSWERED = f"RunAPI did not answer for a day, so whether this was made and charged is not known. {_NOT_AGAIN}"
TAKEN = f"RunAPI holds another request under this task's key, so whether this was charged is not known. {_NOT_AGAIN}"
SPOILT = "RunAPI made and charged this, and its image can't be had:"
GIVEN_UP = "RunAPI made and charged this and keeps results for a week; in that time it could not be fetched."
_INSTEAD = (
    "What to do: open its url in a browser while that works, ask RunAPI about this task's id, or call generate anew, which"
    " costs again."
)
SAME_ID = (
    "RunAPI answered with the id of another task, {id}, whose image may be this one's too: look at that task first. Whether"
    f" this was charged beside it is not known. {_NOT_AGAIN}"
)
NEVER_SENT = "It waited a day for a free place among the tasks under way (FLUX2_MAX_IN_FLIGHT) and was never sent."
_UNSENT = (InvalidRequestError, SettingsError, SandboxError)
"""Errors that come before anything is sent, and that trying again does not mend."""
GONE = f"RunAPI took this task, and has said for ten minutes that it does not know it. {_NOT_AGAIN}"


def explained(error: str) -> str:
    """A task's error as the journal has it, which keeps no names: the advice that it may end with has them again."""
    reason = error.removesuffix(_NOT_AGAIN)
    return error if reason == error else Wording("{reason}{advice}", reason=reason, advice=_NOT_AGAIN)


class _TooOldError(Exception):
    """A create was about to be sent, and its key is older than RunAPI remembers. It was not sent."""


@dataclass(slots=True)
class LeasedTask:
    """One task in this process's care: it holds the lease. Times are monotonic seconds.

    `lost` is True when a create of it went unanswered, so that RunAPI may have the task already. `nudged` is True when
    RunAPI called back and was not asked since, `hurried` when a caller waits for an image and no fetch has begun since.
    `submitted` is when RunAPI took it, `missing` since when it denies that. `failures` are those in a row, `spoilt` those in a row
    in which RunAPI's side gave no image.
    """

    record: TaskRecord
    lost: bool = False
    busy: bool = False
    nudged: bool = False
    hurried: bool = False
    submitted: float | None = None
    missing: float | None = None
    asked_at: float | None = None
    not_before: float | None = None
    failures: int = 0
    spoilt: int = 0
    trouble: Flux2Error | None = None

    @property
    def in_line(self) -> bool:
        """Whether it waits for a place among the tasks under way, and nothing else is in its way."""
        return self.record.state is State.INTENT and not self.record.started and self.trouble is None


class TaskSteps:
    """Does one step of a task at a time.

    Args:
        seam: The journal, the way to RunAPI, the clocks.
        images: Folder for finished images.
        in_flight: The most tasks that all processes together may have under way.
    """

    def __init__(self, seam: Seam, images: Path, *, in_flight: int) -> None:
        self._tasks = seam.journal.tasks
        self._leases = seam.journal.leases
        self._backend = seam.backend
        self._monotonic = seam.monotonic
        self._now = seam.now
        self._key_trouble_seconds = seam.timing.key_trouble_seconds
        self._images = images
        self._in_flight = in_flight
        self._threads = anyio.CapacityLimiter(MAX_THREADS)
        self._refused_at: float | None = None

    async def send(self, leased: LeasedTask) -> None:
        """Take a place for an intent; then send it, again and again under the same key, until RunAPI has answered."""
        record, before = leased.record, leased.lost
        if self._old(record):
            await self._give_up(leased)
            return
        if not record.started:
            leased.record = record = await self._tasks.start(record, at=self._now(), in_flight=self._in_flight)
            if not record.started:
                leased.not_before = self._monotonic() + SLOT_SECONDS
            return  # it is sent in the next step, while the next intent asks for a place
        request = replace(record.request, callback_url=record.request.callback_url or record.push_url)

        async def permit() -> None:
            # Between a try and the next the machine may have slept for days, or another process taken the task over.
            if self._old(record):
                raise _TooOldError
            await self._leases.hold(record)
            leased.lost = True  # whatever may cut off what follows, until RunAPI's answer is written down

        try:
            api = await self._backend.api()
            remote = await api.create(request, idempotency_key=record.key, permit=permit)
        except _TooOldError:
            await self._give_up(leased)
            return
        except Flux2Error as exc:
            leased.lost = before or (leased.lost and _may_have_reached(exc))
            await self._unmade(leased, exc)
            return
        with anyio.CancelScope(shield=True):  # what was heard is written down, even while the server stops
            try:
                await self._step(leased, Event.ACCEPTED, task_id=remote.task_id, reserved_usd=remote.reserved_usd)
            except SameIdError:  # the task that had it first stays what it is
                await self._step(leased, Event.EXPIRED, error=SAME_ID.format(id=shortened(remote.task_id)))
            else:
                await self._seen(leased, remote)
        _well(leased)

    def _old(self, record: TaskRecord) -> bool:
        """Whether a create may be older than RunAPI remembers keys. By the wall clock, which goes on while the machine sleeps.

        It may have jumped either way: what can't be shown to be young is not sent again.
        """
        return abs(self._now() - record.created_at) > REPLAY_WINDOW

    async def _give_up(self, leased: LeasedTask) -> None:
        """End an intent that is too old to be sent."""
        if leased.record.started or leased.lost:
            await self._step(leased, Event.EXPIRED, error=UNANSWERED)
        else:
            await self._step(leased, Event.REFUSED, error=NEVER_SENT)

    async def _unmade(self, leased: LeasedTask, exc: Flux2Error) -> None:
        """A create failed: that is the end of its intent, or it is sent again later."""
        event = _end(exc, lost=leased.lost)
        if event is None:
            self.put_off(leased, exc)
            await self._offer(leased, exc)
            return
        leased.trouble = exc
        await self._step(leased, event, error=exc.message if event is Event.REFUSED else TAKEN)

    async def ask(self, leased: LeasedTask) -> None:
        """Ask once what became of a task. A blip never ends anything: the planner decides when to ask next."""
        leased.asked_at, leased.nudged = self._monotonic(), False
        record = leased.record
        try:
            api = await self._backend.api()
            remote = await api.get(record.request.action, record.task_id or "")
        except NotFoundError as exc:
            leased.trouble = exc
            leased.missing = leased.asked_at if leased.missing is None else leased.missing
            if self._monotonic() - leased.missing > VANISHED_SECONDS:
                await self._step(leased, Event.VANISHED, error=GONE)
        except Flux2Error as exc:
            leased.trouble = exc
            leased.not_before = self._not_before(exc)
            await self._offer(leased, exc)
        else:
            await self._seen(leased, remote)
            _well(leased)

    async def fetch(self, leased: LeasedTask) -> None:
        """Bring a finished task's images to disk; new URLs are asked for where the old ones are dead, once a try.

        What comes after RunAPI has answered is no trouble of this machine's network, even where the image's host is not reached.
        """
        if leased.record.state is not State.COMPLETED:
            return
        answered = False
        try:
            try:
                await self._deliver(leased)
            except StorageError:
                raise
            except (DeliveryError, TransportError):
                named = await self._named_anew(leased)
                answered = True
                if not named:
                    raise
                await self._deliver(leased)
        except IllegalTransitionError:  # it stands elsewhere in the journal: the next claim shows how
            raise
        except Flux2Error as exc:
            asked_not_before = leased.not_before
            self.put_off(leased, exc, BACKOFF_FETCH_SECONDS)
            leased.not_before = max(leased.not_before or 0.0, asked_not_before or 0.0)
            await self._offer(leased, exc)
            if answered and not _of_this_machine(exc):
                leased.spoilt += 1
                await self._not_to_be_had(leased, exc)

    async def _named_anew(self, leased: LeasedTask) -> bool:
        """Whether RunAPI says once more where a task's images are.

        Whatever else it says of a task that it has completed names no address: that it does not know it any more, that it failed,
        an unknown word.

        Raises:
            AuthenticationError: The key may not ask.
            TransportError: No answer came.
        """
        record = leased.record
        api = await self._backend.api()
        try:
            remote = await api.get(record.request.action, record.task_id or "")
        except AuthenticationError:
            raise
        except (ApiError, WireError, InvalidRequestError) as exc:
            leased.not_before = self._not_before(exc)
            return False
        if remote.status is not Status.COMPLETED:
            return False
        await self._seen(leased, remote)
        return True

    async def _offer(self, leased: LeasedTask, exc: Flux2Error) -> None:
        """Where RunAPI refuses the key, another process may have the one that took its place: let it have the task."""
        if isinstance(exc, AuthenticationError):
            self._refused_at = self._monotonic()
            await self._leases.offer(leased.record)

    @property
    def key_refused(self) -> bool:
        """Whether RunAPI refused the key just now, so that nothing more should be taken over with it."""
        return self._refused_at is not None and self._monotonic() - self._refused_at < self._key_trouble_seconds

    async def _not_to_be_had(self, leased: LeasedTask, exc: Flux2Error) -> None:
        """Write down that RunAPI's side gives no image, for every later session; after its addresses have died, for good."""
        record = leased.record
        until = (record.completed_at or record.created_at) + RESULT_LIFETIME
        if self._now() > until and leased.failures >= MAX_FETCHES:
            await self._step(leased, Event.EXPIRED, error=f"{exc.message} {GIVEN_UP} {_INSTEAD}")
        elif leased.spoilt >= MAX_BROKEN_FETCHES and record.error is None:
            again = f"It is tried again, ever more seldom, until {until:%Y-%m-%d}."
            await self._step(leased, Event.COMPLETED, error=f"{SPOILT} {exc.message} {again} {_INSTEAD}")

    async def _deliver(self, leased: LeasedTask) -> None:
        record = leased.record
        if not record.image_urls:
            raise DeliveryError("RunAPI says completed, and named no image.")
        api = await self._backend.api()
        images = []
        for index, url in enumerate(record.image_urls):
            stored = await deliver(
                api.download,
                url,
                folder=self._images,
                prompt=record.request.prompt,
                at=record.created_at,
                threads=self._threads,
                permit=partial(self._leases.hold, record),
            )
            if record.save is not None and record.workspace is not None:
                root, task = Path(record.workspace), hashlib.sha256(record.key.encode()).hexdigest()[:12]
                put = partial(
                    workspace.place, root, record.save, stored, index, task=task, take=partial(self._take, record)
                )
                stored = await anyio.to_thread.run_sync(put, limiter=self._threads)
            images.append(stored)
        await self._step(leased, Event.DELIVERED, images=tuple(images))
        _well(leased)

    def _take(self, record: TaskRecord, path: Path) -> NameOwner:
        """Called in the thread that places an image."""
        return anyio.from_thread.run(self._tasks.claim_name, record, str(path))

    async def _seen(self, leased: LeasedTask, remote: RemoteTask) -> None:
        event = EVENT_OF_STATUS[remote.status]
        leased.not_before = None if remote.retry_after is None else self._monotonic() + remote.retry_after
        # Most answers say what is known already, and some what can't be any more; only news is written.
        after = TABLE[leased.record.state].get(event)
        if after is not None and (after is not leased.record.state or event is Event.COMPLETED):
            await self._step(
                leased,
                event,
                reserved_usd=remote.reserved_usd,
                charged_usd=_charged(leased.record, remote),
                image_urls=remote.image_urls or None,
                error=(remote.error or "RunAPI gave no reason.") if event is Event.FAILED else None,
            )

    async def _step(self, leased: LeasedTask, event: Event, **news: object) -> None:
        before = leased.record
        leased.record = await self._tasks.apply(before, event, TaskChange(at=self._now(), **news))  # type: ignore[arg-type]  # the callers above name Change's own fields
        if leased.record.state is not before.state:
            log_step(leased.record, self._now(), before)

    def put_off(self, leased: LeasedTask, exc: Flux2Error, longest: float = BACKOFF_SEND_SECONDS) -> None:
        """Note what stands in a task's way, and try again later: each time twice as long after, at most `longest` seconds."""
        leased.trouble = exc
        backoff = min(longest, BACKOFF_FIRST_SECONDS * 2.0 ** min(leased.failures, 60))
        leased.failures += 1
        leased.not_before = max(self._monotonic() + backoff, self._not_before(exc) or 0.0)

    def _not_before(self, exc: Flux2Error) -> float | None:
        wait = self._key_trouble_seconds if isinstance(exc, AuthenticationError) else None
        if isinstance(exc, ApiError) and exc.retry_after is not None:
            wait = exc.retry_after
        return None if wait is None else self._monotonic() + wait


def log_step(record: TaskRecord, now: datetime, before: TaskRecord | None = None) -> None:
    """One line for each step of a task, with RunAPI's id (once known) and our key.

    `after` is seconds since it was asked for, `took` since the step before.

    When RunAPI began to work is written down nowhere, so what ends counts from when RunAPI took it.
    """
    took = None
    if before is not None:
        began = before.completed_at or before.submitted_at or before.created_at
        took = (now - began).total_seconds()
    after = (now - record.created_at).total_seconds()
    state = None if before is None else before.state
    ids = {"task": record.task_id, "key": record.key}
    log.info("task", extra=fields(**ids, from_=state, to=record.state, after=after, took=took))


def _charged(record: TaskRecord, remote: RemoteTask) -> Decimal | None:
    """What a task cost, in USD; None: nothing new. Only its end settles that, and only a refund takes it back."""
    if remote.cost_usd is None or not remote.status.ended:
        return None
    return remote.cost_usd if remote.refunded else max(remote.cost_usd, record.charged_usd or Decimal(0))


def _well(leased: LeasedTask) -> None:
    leased.trouble, leased.failures, leased.spoilt, leased.missing = None, 0, 0, None


def _of_this_machine(exc: Flux2Error) -> bool:
    """Whether an image did not come for a reason that RunAPI and the image's host have no part in."""
    setting = isinstance(exc, TransportError) and exc.setting is not None
    return setting or isinstance(exc, StorageError | JournalError | SettingsError | SandboxError | AuthenticationError)


def _may_have_reached(exc: Flux2Error) -> bool:
    """Whether RunAPI may have taken the task although this is all that came back.

    No only for what certainly was not sent, or was refused: any other error may have come between two tries.
    """
    if isinstance(exc, TransportError):
        return exc.sent
    if isinstance(exc, ApiError):
        return exc.unanswered or isinstance(exc, ServiceError)
    return not isinstance(exc, _UNSENT)


def _end(exc: Flux2Error, *, lost: bool) -> Event | None:
    """How a failed create ends its intent; None: it does not. REFUSED: RunAPI certainly has no such task.

    Where an earlier try went unanswered, RunAPI may have it: then a refusal of the key or the account says nothing about
    the task, and a conflict says that something was made under its key, which can't be asked for.
    """
    if not isinstance(exc, ApiError):
        return Event.REFUSED if isinstance(exc, (*_UNSENT, TransportError)) and not lost else None
    if exc.retryable or (lost and isinstance(exc, AuthenticationError | InsufficientCreditsError)):
        return None
    return Event.EXPIRED if lost and isinstance(exc, ConflictError) else Event.REFUSED
