"""The three steps of a task: send its intent, ask RunAPI about it, fetch its images.

Each method does one step and records it. If a step fails, the error and the time of the next try are noted on the task.
A task that RunAPI may have is never given up before its time.
"""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
from msgspec import Struct, field
from msgspec.structs import replace

from flux2_mcp.domain import catalog, sources
from flux2_mcp.domain.lifecycle import EVENT_OF_STATUS, RESULT_LIFETIME, TABLE, Event, IllegalTransitionError, State
from flux2_mcp.domain.models import NameOwner, RemoteTask, Status, StoredImage
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
from flux2_mcp.images.store import ImageFolder
from flux2_mcp.journal.records import SameIdError, TaskChange, TaskRecord
from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.tasks")

REPLAY_WINDOW = timedelta(hours=24)
"""An unanswered create may be sent again under its key for this time: then RunAPI forgets the key (`api/runapi.md`)."""
VANISHED_SECONDS = 600.0
"""A task is lost if RunAPI has answered every poll for this time with "not found"."""
MAX_FETCHES = 5
"""Failed fetches in a row that are needed before an image with expired URLs is given up: the clock may be wrong."""
MAX_BROKEN_FETCHES = 3
"""Failed fetches in a row after which the user is informed. Each fetch is two tries, the second with a new URL."""
SLOT_SECONDS = 0.25
"""The interval at which the first waiting intent checks whether another process has freed a place among the tasks under
way."""
BACKOFF_FIRST_SECONDS, BACKOFF_SEND_SECONDS, BACKOFF_FETCH_SECONDS = 1.0, 60.0, 3600.0
"""The first delay before the next try, which then doubles; its maximum for sending; its maximum for fetching."""
MAX_THREADS = 4
"""Images that are written or decoded at once, because each thread keeps memory. With 400 images at once, four threads
held 115 MiB, and a thread for each image 174 MiB, in the same time. `images.pixel_limit` bounds the memory of a large
image."""

_NOT_AGAIN = Wording(
    "It is never sent again. Look at RunAPI's own history, or at the balance ({name:check_pricing}), whether it was made;"
    " only if not, call generate anew."
)
UNANSWERED = f"RunAPI did not answer for a day, so whether this was made and charged is not known. {_NOT_AGAIN}"
TAKEN = f"RunAPI holds another request under this task's key, so whether this was charged is not known. {_NOT_AGAIN}"
SPOILT = "RunAPI made this, and its image can't be had:"
GIVEN_UP = "RunAPI made this and keeps results for a week; in that time it could not be fetched."
_INSTEAD = (
    "What to do: open its url in a browser while that works, ask RunAPI about this task's id, or call generate anew, which"
    " has its price again."
)
"""Whether a price is charged, the result says beside it: in the sandbox no money moves."""
SAME_ID = (
    "RunAPI answered with the id of another task, {id}, whose image may be this one's too: look at that task first. Whether"
    f" this was charged beside it is not known. {_NOT_AGAIN}"
)
NEVER_SENT = "It waited a day for a free place among the tasks under way (FLUX2_MAX_IN_FLIGHT) and was never sent."
_UNSENT = (InvalidRequestError, SettingsError, SandboxError)
"""Errors that are raised before anything is sent, and that another try does not cure."""
GONE = f"RunAPI took this task, and has said for ten minutes that it does not know it. {_NOT_AGAIN}"


def explained(error: str) -> str:
    """Return a recorded error with the advice at its end as a `Wording`: the journal stores only plain text."""
    reason = error.removesuffix(_NOT_AGAIN)
    return error if reason == error else Wording("{reason}{advice}", reason=reason, advice=_NOT_AGAIN)


class _TooOldError(Exception):
    """A create was not sent, because RunAPI may have forgotten its idempotency key."""


class LeasedTask(Struct):
    """One task of which this process holds the lease. Times are monotonic seconds.

    Attributes:
        record: The task as the journal has it.
        lost: A create of the task went unanswered, so RunAPI may have the task already.
        busy: A step is working on it.
        nudged: RunAPI has called back, and has not been polled since.
        hurried: A caller waits for the image, and no fetch has begun since.
        submitted: When RunAPI took the task.
        missing: Since when RunAPI has answered "not found".
        asked_at: When RunAPI was last polled.
        open_at: When the last poll was sent whose answer was that the task has not ended.
        not_before: The earliest time of the next try.
        failures: Failed tries in a row.
        fetched: The images that are whole in the folder, by their place in the result, while the store does not take them.
        spoilt: Failed fetches in a row for which RunAPI or the image's host is the cause.
        trouble: The error of the last try.
    """

    record: TaskRecord
    lost: bool = False
    busy: bool = False
    nudged: bool = False
    hurried: bool = False
    submitted: float | None = None
    missing: float | None = None
    asked_at: float | None = None
    open_at: float | None = None
    not_before: float | None = None
    failures: int = 0
    spoilt: int = 0
    fetched: dict[int, StoredImage] = field(default_factory=dict)
    trouble: Flux2Error | None = None

    def recover(self) -> None:
        """Forget failed tries, because one has succeeded."""
        self.trouble, self.failures, self.spoilt, self.missing = None, 0, 0, None

    @property
    def in_line(self) -> bool:
        """Whether it waits only for a place among the tasks under way."""
        waits = self.record.state is State.INTENT and not self.record.awaits_source
        return waits and not self.record.started and self.trouble is None


class TaskSteps:
    """Does one step of a task at a time.

    Args:
        seam: The journal, the way to RunAPI, the clocks.
        images: The folder for finished images, and the store behind it.
        in_flight: The maximum number of tasks under way, for all processes together.
    """

    def __init__(self, seam: Seam, images: ImageFolder, *, in_flight: int) -> None:
        self._tasks = seam.journal.tasks
        self._leases = seam.journal.leases
        self._backend = seam.backend
        self._monotonic = seam.monotonic
        self._now = seam.now
        self._on_ended = seam.on_ended
        self._key_trouble_seconds = seam.timing.key_trouble_seconds
        self._images = images
        self._in_flight = in_flight
        self._threads = anyio.CapacityLimiter(MAX_THREADS)
        self._refused_at: float | None = None

    async def send(self, leased: LeasedTask) -> None:
        """Take a place for an intent. Then send it, always under the same key, until RunAPI has answered."""
        record, before = leased.record, leased.lost
        if self.too_old(record):
            await self._give_up(leased)
            return
        if not record.started:
            leased.record = record = await self._tasks.start(record, at=self._now(), in_flight=self._in_flight)
            if not record.started:
                leased.not_before = self._monotonic() + SLOT_SECONDS
            return  # it is sent in the next step, while the next intent asks for a place
        request = replace(record.request, callback_url=record.request.callback_url or record.push_url)

        async def permit() -> None:
            # Between two tries the machine may have slept for days, or another process may have taken the task over.
            if self.too_old(record):
                raise _TooOldError
            await self._leases.hold(record)
            leased.lost = True  # until RunAPI's answer is recorded, because this process may end at any moment

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
        with anyio.CancelScope(shield=True):  # RunAPI's answer is recorded even while the server stops
            try:
                await self.advance(
                    leased,
                    Event.ACCEPTED,
                    task_id=remote.task_id,
                    location=remote.location,
                    replayed=remote.replayed or None,
                    reserved_usd=remote.reserved_usd,
                )
            except SameIdError:  # the task that had this id first is not changed
                await self.advance(leased, Event.EXPIRED, error=SAME_ID.format(id=shortened(remote.task_id)))
            else:
                await self._seen(leased, remote)
        leased.recover()

    def too_old(self, record: TaskRecord) -> bool:
        """Whether RunAPI may have forgotten the key of a create.

        The wall clock decides, because it goes on while the machine sleeps. It may also have jumped in either
        direction, so a record from the future counts as old, too.
        """
        return abs(self._now() - record.created_at) > REPLAY_WINDOW

    async def _give_up(self, leased: LeasedTask) -> None:
        """End an intent that is too old to be sent."""
        if leased.record.started or leased.lost:
            await self.advance(leased, Event.EXPIRED, error=UNANSWERED)
        else:
            await self.advance(leased, Event.REFUSED, error=NEVER_SENT)

    async def _unmade(self, leased: LeasedTask, exc: Flux2Error) -> None:
        """After a failed create, end the intent, or put it off to be sent again later."""
        event = _end(exc, lost=leased.lost)
        if event is None:
            self.put_off(leased, exc)
            await self.offer(leased, exc)
            return
        leased.trouble = exc
        await self.advance(leased, event, error=exc.message if event is Event.REFUSED else TAKEN)

    async def ask(self, leased: LeasedTask) -> None:
        """Poll RunAPI once for a task. A short fault never ends a task: the planner decides when to poll next."""
        leased.asked_at, leased.nudged = self._monotonic(), False
        record = leased.record
        try:
            api = await self._backend.api()
            remote = await api.get(
                record.request.action,
                record.task_id or "",
                line=catalog.line(record.request),
                location=record.location,
            )
        except NotFoundError as exc:
            leased.trouble = exc
            leased.missing = leased.asked_at if leased.missing is None else leased.missing
            if self._monotonic() - leased.missing > VANISHED_SECONDS:
                await self.advance(leased, Event.VANISHED, error=GONE)
        except Flux2Error as exc:
            leased.trouble = exc
            leased.not_before = self._not_before(exc)
            await self.offer(leased, exc)
        else:
            await self._seen(leased, remote)
            leased.recover()

    async def fetch(self, leased: LeasedTask) -> None:
        """Download a finished task's images. If the URLs fail, ask RunAPI once for new URLs and try those.

        If the download fails after RunAPI has answered, this machine's network works: the cause is the image's host.
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
        except IllegalTransitionError:  # the journal has another state: the next claim reads it
            raise
        except Flux2Error as exc:
            asked_not_before = leased.not_before
            self.put_off(leased, exc, BACKOFF_FETCH_SECONDS)
            leased.not_before = max(leased.not_before or 0.0, asked_not_before or 0.0)
            await self.offer(leased, exc)
            if answered and not _of_this_machine(exc):
                leased.spoilt += 1
                await self._not_to_be_had(leased, exc)

    async def _named_anew(self, leased: LeasedTask) -> bool:
        """Ask RunAPI for new URLs of a task's images. Return whether it named them.

        Any other answer about a completed task has no URL: "not found", "failed", or an unknown status.

        Raises:
            AuthenticationError: RunAPI refused the key.
            TransportError: No answer came.
        """
        record = leased.record
        api = await self._backend.api()
        try:
            remote = await api.get(
                record.request.action,
                record.task_id or "",
                line=catalog.line(record.request),
                location=record.location,
            )
        except AuthenticationError:
            raise
        except (ApiError, WireError, InvalidRequestError) as exc:
            leased.not_before = self._not_before(exc)
            return False
        if remote.status is not Status.COMPLETED:
            return False
        await self._seen(leased, remote)
        return True

    async def offer(self, leased: LeasedTask, exc: Flux2Error) -> None:
        """If RunAPI refused the key, offer the task to other processes: one may have the key that replaced it."""
        if isinstance(exc, AuthenticationError):
            self._refused_at = self._monotonic()
            await self._leases.offer(leased.record)

    @property
    def key_refused(self) -> bool:
        """Whether RunAPI refused the key a short time ago, so that no more tasks should be taken over with it."""
        return self._refused_at is not None and self._monotonic() - self._refused_at < self._key_trouble_seconds

    async def _not_to_be_had(self, leased: LeasedTask, exc: Flux2Error) -> None:
        """Record, for later sessions, that the image can't be fetched. After its URLs have expired, this is final."""
        record = leased.record
        until = (record.completed_at or record.created_at) + RESULT_LIFETIME
        if self._now() > until and leased.failures >= MAX_FETCHES:
            await self.advance(leased, Event.EXPIRED, error=f"{exc.message} {GIVEN_UP} {_INSTEAD}")
        elif leased.spoilt >= MAX_BROKEN_FETCHES and record.error is None:
            again = f"It is tried again, ever more seldom, until {until:%Y-%m-%d}."
            await self.advance(leased, Event.COMPLETED, error=f"{SPOILT} {exc.message} {again} {_INSTEAD}")

    async def _deliver(self, leased: LeasedTask) -> None:
        from flux2_mcp.images import workspace
        from flux2_mcp.images.download import deliver, is_whole

        record = leased.record
        if not record.image_urls:
            raise DeliveryError("RunAPI says completed, and named no image.")
        api = await self._backend.api()
        images = []
        for index, url in enumerate(record.image_urls):
            stored = leased.fetched.get(index)
            if stored is None or not await anyio.to_thread.run_sync(is_whole, stored, limiter=self._threads):
                stored = await deliver(
                    api.download,
                    url,
                    folder=self._images.folder,
                    prompt=record.request.prompt or _named_after(record),
                    at=record.created_at,
                    threads=self._threads,
                    permit=partial(self._leases.hold, record),
                )
            if self._images.store is not None:
                leased.fetched[index] = stored
                await self._images.keep(stored)
            if record.save is not None and record.workspace is not None:
                root, task = Path(record.workspace), hashlib.sha256(record.key.encode()).hexdigest()[:12]
                put = partial(
                    workspace.place, root, record.save, stored, index, task=task, take=partial(self._take, record)
                )
                stored = await anyio.to_thread.run_sync(put, limiter=self._threads)
            images.append(self._images.recorded(stored))
        await self.advance(leased, Event.DELIVERED, images=tuple(images))
        leased.recover()

    def _take(self, record: TaskRecord, path: Path) -> NameOwner:
        """Claim a file name in the workspace for a task. Called in the thread that places the image."""
        return anyio.from_thread.run(self._tasks.claim_name, record, str(path))

    async def _seen(self, leased: LeasedTask, remote: RemoteTask) -> None:
        event = EVENT_OF_STATUS[remote.status]
        leased.not_before = None if remote.retry_after is None else self._monotonic() + remote.retry_after
        if not remote.status.ended:
            leased.open_at = leased.asked_at
        # Most answers say what is known already, and some what can't be any more; only news is written.
        after = TABLE[leased.record.state].get(event)
        if after is not None and (after is not leased.record.state or event is Event.COMPLETED):
            await self.advance(
                leased,
                event,
                reserved_usd=remote.reserved_usd,
                charged_usd=_charged(leased.record, remote),
                image_urls=remote.image_urls or None,
                error=(remote.error or "RunAPI gave no reason.") if event is Event.FAILED else None,
            )
            since = leased.submitted if leased.open_at is None else leased.open_at
            if self._on_ended is not None and remote.status.ended and since is not None:
                self._on_ended(self._monotonic() - since)

    async def advance(self, leased: LeasedTask, event: Event, **news: object) -> None:
        """Record an event of a task with the new values that came with it: the fields of `TaskChange`."""
        before = leased.record
        leased.record = await self._tasks.apply(before, event, TaskChange(at=self._now(), **news))  # type: ignore[arg-type]  # the callers above name Change's own fields
        if leased.record.state is not before.state:
            log_step(leased.record, self._now(), before)

    def put_off(self, leased: LeasedTask, exc: Flux2Error, longest: float = BACKOFF_SEND_SECONDS) -> None:
        """Note an error on a task and try again later. The delay doubles each time, up to `longest` seconds."""
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
    """Log one line for a step of a task, with RunAPI's id (once known) and our key.

    `after` is seconds since the task was created, `took` seconds since the step before. The time when RunAPI began to
    work is not recorded, so `took` of an ended task counts from the time when RunAPI took it.
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
    """Return what a task cost, in USD; None: nothing new. Only an ended task has a cost; only a refund lowers it."""
    if remote.cost_usd is None or not remote.status.ended:
        return None
    return remote.cost_usd if remote.refunded else max(remote.cost_usd, record.charged_usd or Decimal(0))


def _named_after(record: TaskRecord) -> str:
    """Return what the file of a finished picture is named after: the file that it was made of, or else its action."""
    given = record.request.sources[0].given if record.request.sources else ""
    stem = Path(given).stem if sources.is_local(given) else ""
    return f"{stem} {record.request.action}".strip()


def _of_this_machine(exc: Flux2Error) -> bool:
    """Whether a fetch failed because of this machine, not because of RunAPI or the image's host."""
    setting = isinstance(exc, TransportError) and exc.setting is not None
    return setting or isinstance(exc, StorageError | JournalError | SettingsError | SandboxError | AuthenticationError)


def _may_have_reached(exc: Flux2Error) -> bool:
    """Whether RunAPI may have taken the task although the create failed with this error.

    False only if the request was certainly not sent, or was refused. Any other error may have come between two tries.
    """
    if isinstance(exc, TransportError):
        return exc.sent
    if isinstance(exc, ApiError):
        return exc.unanswered or isinstance(exc, ServiceError)
    return not isinstance(exc, _UNSENT)


def _end(exc: Flux2Error, *, lost: bool) -> Event | None:
    """Return the event that ends the intent of a failed create; None: send it again. REFUSED: RunAPI has no such task.

    If an earlier try went unanswered (`lost`), RunAPI may have the task. Then a refusal of the key or the account
    proves nothing about the task, and a conflict means that a task exists under its key whose id can't be found out.
    """
    if not isinstance(exc, ApiError):
        return Event.REFUSED if isinstance(exc, (*_UNSENT, TransportError)) and not lost else None
    if exc.retryable or (lost and isinstance(exc, AuthenticationError | InsufficientCreditsError)):
        return None
    return Event.EXPIRED if lost and isinstance(exc, ConflictError) else Event.REFUSED
