"""Who may write what into the journal, and what holds then. Every database implements this; one suite of tests runs over all.

Rules
- A journal is one account's view of a home's tasks. Its parts are handed to the callers that need them, and to no others.
- Money, names of files and what is under way are counted over every process on the home; money over every key too.
- An intent is written down, synced to disk, before money moves: `Tasks.intend` returns after the sync. So is what RunAPI
  told of a task: `Tasks.apply`. Leases, turns, marks, names and uploads may be lost with the power.
- What is decided on what was read is read and written in one transaction: caps, joins, places, turns, names of files.
- A step of a task's life is taken in the transaction that sees whose the task is. A process that was stopped and wakes
  after its lease was taken over writes nothing: each claim by another process raises the task's fence.
- The journal keeps time by a clock of its own (SQLite: the machine's monotonic clock; a server: the server's). No caller
  sees that clock. What a caller must wait is told in seconds from now. Times of records are given by the caller, in UTC.
- A record that can't be read spoils no list and is not written to. `readable` is False on its stand-in.
- A journal that a later version has written is used as it is. No record is deleted, but where two are one task.
- All calls leave the event loop free. All raise `JournalError` where the journal can't be read or written.

Doubts
- `Leases.version` is asked often by callers that wait. A server would rather push than be asked.
- `exists` and `was_made` answer without waiting, and `salvage`, `notice` and `SpentSums.lost` are about a file that breaks:
  another database would say True, and nothing.
- `owners.is_dead`, which frees a dead process's leases at once, knows the processes of one machine. Those of others lapse.
- A process that stands still between `Leases.hold` and its call may call after its lease has lapsed. The idempotency key,
  not the lease, keeps RunAPI from charging twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from math import inf
from typing import Protocol

from flux2_mcp.domain.budget import Caps, SpendingBy, SpendingGroup, SpentSums
from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.domain.models import NameOwner, StoredImage, UploadedFile
from flux2_mcp.errors import Flux2Error
from flux2_mcp.journal.records import Intent, IntentResult, TaskChange, TaskMatches, TaskRecord

LEASE_SECONDS = 20.0
"""A task stays so long with a process that is not heard of and can't be asked whether it lives. Renewed ten times as often,
so that a process on a busy machine keeps what it has."""
MAX_DURATIONS = 200
"""Durations of each kind that the planner learns from."""


class Tasks(Protocol):
    """The tasks themselves: written down, moved on, found."""

    async def intend(
        self,
        intents: Sequence[Intent],
        *,
        at: datetime,
        caps: Caps,
        join: bool,
        in_flight: int,
        stated_usd: Decimal | None = None,
        unless: Flux2Error | None = None,
    ) -> IntentResult:
        """Write all intents or none, synced to disk when this returns; what they reserve fits the caps at that moment.

        An intent whose key is known already is not written again: its record comes back as it stands. Where the last image
        of its kind was charged more than an intent would reserve, it reserves that: that price was not known before.

        Args:
            intents: For one call; the caps hold for their sum. Those that fit `in_flight` are started with it.
            at: Now.
            caps: The caps in force. Spending of every process on this home counts, whatever its key; the sandbox's apart.
            join: Look first for a task that does the same in the same workspace and was not reported to any caller,
                and give that instead.
            in_flight: The most tasks that are under way at once, over all processes.
            stated_usd: `max_cost_usd` of the call.
            unless: Raised where something new would be written that fits the caps; then nothing is written.

        Raises:
            InvalidRequestError: A known key belongs to another request.
            BudgetError: Under a cap, tasks without a known price were to run together, or what the last of them cost was
                never told; or what is new would cost more than was stated.
        """
        ...

    async def start(self, record: TaskRecord, *, at: datetime, in_flight: int) -> TaskRecord:
        """Note that an intent is about to be sent, if fewer than `in_flight` are under way; see `TaskRecord.started`.

        Raises:
            LeaseLostError: Another process holds the task now.
        """
        ...

    async def adopt(self, intent: Intent, task_id: str, *, at: datetime) -> TaskRecord:
        """Record a task that was made elsewhere, as submitted. A known task id is not written again.

        One that stands under another key or service is taken from there: RunAPI has told this key of it.
        """
        ...

    async def apply(self, record: TaskRecord, event: Event, change: TaskChange) -> TaskRecord:
        """Take one step of a task's life, in the same transaction that sees whose the task is.

        Args:
            record: As this process last saw it.
            event: What has happened.
            change: What it taught.

        Raises:
            LeaseLostError: Another process holds the task now.
            IllegalTransitionError: The table has no such step.
            SameIdError: The task id that it taught is another task's.
        """
        ...

    async def claim_name(self, record: TaskRecord, path: str) -> NameOwner:
        """Claim a file's name, an absolute path, right before a task's image gets it; the first of several tasks has it.

        Raises:
            LeaseLostError: Another process holds the task now.
        """
        ...

    async def find(self, ids: Sequence[str]) -> tuple[TaskRecord, ...]:
        """The records with these task ids or keys, in the order of `ids`; unknown ids are left out."""
        ...

    async def recent(
        self,
        *,
        limit: int,
        states: Collection[State] | None = None,
        since: datetime | None = None,
        workspace: str | None = None,
        before: str | None = None,
    ) -> tuple[TaskRecord, ...]:
        """The newest records that match, newest first. None: any. `before` is a key: only what was made before it."""
        ...

    async def mark_reported(self, keys: Sequence[str], *, at: datetime) -> None:
        """Note that a caller was told of the end of these tasks, so that no later call joins them."""
        ...


class Leases(Protocol):
    """Which process looks after which task."""

    async def claim(self, *, take: bool = True) -> tuple[TaskRecord, ...]:
        """Take, or keep, the lease of every unfinished task that no living process holds; gives all that are ours.

        Without `take` only what is ours is kept.
        """
        ...

    async def offer(self, record: TaskRecord) -> None:
        """Let another process take this task, if there is one, until this one claims it again."""
        ...

    async def hold(self, record: TaskRecord) -> None:
        """See that the task is still this process's, right before something that can't be taken back.

        Raises:
            LeaseLostError: Another process holds the task now.
        """
        ...

    async def unfinished(self) -> int:
        """How many tasks all processes together have yet to finish."""
        ...

    async def release(self) -> None:
        """Give up all leases, so that others need not wait for them to lapse."""
        ...

    async def version(self) -> int:
        """Changes whenever another process has written."""
        ...


class Accounts(Protocol):
    """Whose tasks a key may have: those of every key of its RunAPI account."""

    async def belongs(self, account_id: str) -> None:
        """Write down which account of RunAPI the key belongs to. The tasks of all keys of that account are this key's then."""
        ...

    async def known(self) -> bool:
        """Whether it is written down which account the key belongs to."""
        ...

    async def has_others(self) -> bool:
        """Whether other keys have made tasks on the same service, of whichever account."""
        ...

    async def foreign_tasks(self) -> tuple[TaskRecord, ...]:
        """Open tasks that no key of this account has made on this service and that no living process looks after."""
        ...

    async def service_of_task(self, ident: str) -> str | None:
        """The service whose task has this id or key, made with another key or at another service; None where none has."""
        ...


class Pace(Protocol):
    """The turns to call RunAPI that all processes share; the arithmetic is `domain.pacing`."""

    async def turn(self, rate: float, longest: float = inf) -> float:
        """Take the next turn of the shared limiter, at most `rate` calls a second.

        Gives how long to wait for it, in seconds from the moment at which the answer comes: below 0 where the turn passed
        on the way. A caller that is late for its turn takes another. Where a server keeps the clock, the implementation
        may name more seconds than are left, and never fewer.

        Raises:
            RateLimitedError: RunAPI wants no call for longer than `longest` seconds, and has said so to an earlier call.
        """
        ...

    async def limited(self, retry_after: float | None, rate: float = inf) -> None:
        """RunAPI said 429: halve the rate and allow no call before `retry_after` seconds have passed.

        `rate` is the caller's own, in calls a second; it is halved where no other is known.
        """
        ...


class Money(Protocol):
    """What was spent, as the caps count it."""

    async def spent(self, *, at: datetime, session: str | None) -> SpentSums:
        """What was charged or is reserved, over all accounts of this home; the sandbox's apart."""
        ...

    async def charged(self) -> Mapping[tuple[str, str], Decimal]:
        """What the last image of each model and resolution was charged, in USD, over the same accounts as `spent`."""
        ...

    async def settle(self, missing_usd: Decimal) -> bool:
        """Note how much the last 24 hours of a lost journal held beside what could be read; see `SpentSums.lost`.

        False where none was lost.
        """
        ...


class Uploads(Protocol):
    """Files that RunAPI holds for a while, by their content."""

    async def find(self, identity: str, *, at: datetime) -> UploadedFile | None:
        """The file that RunAPI still holds of this content `at` this time."""
        ...

    async def add(self, identity: str, file: UploadedFile) -> None:
        """Note that RunAPI holds this content, under an address that works until the file's `expires_at`."""
        ...


class Callbacks(Protocol):
    """Callbacks that one process received for a task that another may look after."""

    async def mark(self, push_url: str) -> None:
        """RunAPI called back: mark the open task that this address belongs to, if there is one."""
        ...

    async def take(self) -> tuple[str, ...]:
        """The keys of our tasks that were marked; the marks are gone after."""
        ...


class History(Protocol):
    """What the journal tells of the past."""

    async def durations(self) -> dict[tuple[str, str], tuple[float, ...]]:
        """Seconds from submission to completion by model and resolution, oldest first, the latest `MAX_DURATIONS` of each."""
        ...

    async def matched(
        self,
        *,
        states: Collection[State] | None = None,
        since: datetime | None = None,
        workspace: str | None = None,
    ) -> TaskMatches:
        """How many tasks match, and their sums. The arguments are those of `Tasks.recent`."""
        ...

    async def spending(self, by: SpendingBy, since: datetime | None) -> tuple[SpendingGroup, ...]:
        """What the tasks made since then were quoted and charged (None: all of them), summed up."""
        ...

    async def with_images(self, before: datetime) -> tuple[TaskRecord, ...]:
        """The tasks that were made before then and whose images are kept, oldest first."""
        ...

    async def still_used(self, paths: Sequence[str]) -> frozenset[str]:
        """Which of these files belong to a task, of whichever account."""
        ...

    async def keep_images(self, key: str, images: Sequence[StoredImage]) -> None:
        """Write down which images a task still has."""
        ...


class Journal(Protocol):
    """One account's journal: its parts, and its own life."""

    @property
    def owner(self) -> str:
        """Names this process: leases are held in its name."""
        ...

    @property
    def tasks(self) -> Tasks:
        """The tasks."""
        ...

    @property
    def leases(self) -> Leases:
        """Which process looks after which task."""
        ...

    @property
    def accounts(self) -> Accounts:
        """Whose tasks a key may have."""
        ...

    @property
    def pace(self) -> Pace:
        """Turns to call RunAPI."""
        ...

    @property
    def money(self) -> Money:
        """What was spent."""
        ...

    @property
    def uploads(self) -> Uploads:
        """Files that RunAPI holds."""
        ...

    @property
    def callbacks(self) -> Callbacks:
        """Callbacks that came."""
        ...

    @property
    def history(self) -> History:
        """What it tells of the past."""
        ...

    @property
    def exists(self) -> bool:
        """Whether anything was ever written and is there; False until then, and nothing is made by asking."""
        ...

    @property
    def was_made(self) -> bool:
        """Whether it is there, or was: where it has vanished, there is something to tell of it."""
        ...

    @property
    def notice(self) -> str | None:
        """What a user should know about it: that a broken file was moved aside."""
        ...

    def unread_notice(self) -> str | None:
        """What a user should know about records that can't be read; each is told once in a process's life."""
        ...

    async def salvage(self) -> None:
        """Look at all of it: where it is broken or gone, a new one takes its place, with all that can be read."""
        ...

    async def close(self) -> None:
        """Let go of what is open."""
        ...
