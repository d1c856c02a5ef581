"""The journal's contract: its parts and its guarantees. Every database implements it; one suite of tests runs over all.

Rules
- A journal is one account's view of a home's tasks. Its parts are handed to the callers that need them, and to no others.
- Money, file names and the number of tasks under way are counted over every process on the home; money over every key too.
- An intent is written and synced to disk before money moves: `Tasks.intend` returns after the sync. `Tasks.apply` syncs
  what RunAPI said about a task in the same way. A power cut may lose leases, turns, marks, names and uploads, and entries
  in the audit of what was shown.
- A decision and the reads that it rests on share one transaction: caps, joins, places, turns, names of files.
- A step of a task's life is taken in the transaction that checks which process holds the task. Each claim by another
  process raises the task's fence, so a process that wakes after it has lost its lease writes nothing.
- The journal has a clock of its own (SQLite: the machine's monotonic clock; a database server: the server's). No caller
  sees that clock: waits are given in seconds from now. The caller gives the times of records, in UTC.
- A task belongs to the person who asked for it, or to nobody. A person's journal (`Journal.of`) shows and changes that
  person's tasks alone, and those of others are to it as if they were not there. Money, places under way and names of
  files count over all.
- Each task of a person, and each later step of one, has an entry in the audit that is written in the transaction that
  writes the task and counts the caps. The entry of a refusal is synced to disk before the refusal is returned or raised. No
  entry is ever changed or deleted; both databases refuse it.
- A record that can't be read spoils no list, and nothing is written to it. Its stand-in has `readable` False.
- A journal that a later version has written is used unchanged. No record is deleted, except one of two of the same task.
- All calls leave the event loop free, and may take as long as a database server needs for some statements, on a bad day
  seconds for each. All raise `JournalError` if the journal can't be read or written.

Doubts
- `exists` and `was_made` answer without waiting. `salvage`, `notice` and `SpentSums.lost` are about a file that breaks.
  For a database server, the first two are True and the others empty.
- `owners.is_dead` frees a dead process's leases at once. It knows the processes of one machine only; leases of other
  machines must lapse.
- A process that is suspended between `Leases.hold` and its call may call after its lease has lapsed. The idempotency
  key, not the lease, keeps RunAPI from charging twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from math import inf
from typing import TYPE_CHECKING, Protocol

from flux2_mcp.domain.budget import Caps, SpendingBy, SpendingGroup, SpentSums
from flux2_mcp.domain.lifecycle import Event
from flux2_mcp.domain.models import ImageRequest, NameOwner, StoredImage, UploadedFile
from flux2_mcp.errors import Flux2Error
from flux2_mcp.journal import owners
from flux2_mcp.journal.listed import ListedTask
from flux2_mcp.journal.records import ANY, Intent, IntentResult, TaskChange, TaskFilter, TaskMatches, TaskRecord

if TYPE_CHECKING:  # loaded where a team calls
    from flux2_mcp.journal.team_contract import Audit, Facts, People, Tokens

LEASE_SECONDS = owners.LEASE_SECONDS
NO_CAPS = Caps()
MAX_DURATIONS = 200
"""Durations of each kind that the planner learns from."""


class Tasks(Protocol):
    """The tasks themselves: write, advance and find them."""

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
        consent: str | None = None,
    ) -> IntentResult:
        """Write all intents or none; they are synced to disk when this returns. What they reserve fits the caps.

        An intent whose key is known already is not written again: its present record is returned. If the last image of
        its kind was charged more than an intent would reserve, the intent reserves that price, which was not known
        before.

        Args:
            intents: For one call; the caps hold for their sum. Those that fit `in_flight` are started at once.
            at: Now.
            caps: The caps in force. Spending of every process on this home counts, whatever its key; the sandbox counts
                apart.
            join: First look for a task that does the same in the same workspace and was not reported to any caller, and
                return that instead.
            in_flight: The largest number of tasks under way at once, over all processes.
            stated_usd: `max_cost_usd` of the call.
            unless: Raised if a new record that fits the caps would be written; then nothing is written.
            consent: Names the user's yes to the call. Where an earlier call had the same one, its tasks are returned, and
                nothing is written.

        Raises:
            InvalidRequestError: A known key belongs to another request.
            BudgetError: Under a cap, tasks without a known price would run together, or RunAPI never said what the last
                of them cost; or the new tasks would cost more than `stated_usd`.
        """
        ...

    async def consented(self, consent: str) -> tuple[TaskRecord, ...]:
        """The tasks of the call that had this consent, written or joined; none if no call had it."""
        ...

    async def use_consent(self, consent: str) -> bool:
        """Note, synced to disk, that a consent is used for tasks that are written later. Returns False if it was used before."""
        ...

    async def start(self, record: TaskRecord, *, at: datetime, in_flight: int) -> TaskRecord:
        """Note that an intent is about to be sent, if fewer than `in_flight` are under way; see `TaskRecord.started`.

        Raises:
            LeaseLostError: Another process holds the task now.
        """
        ...

    async def supply(self, record: TaskRecord, request: ImageRequest, *, at: datetime, caps: Caps) -> TaskRecord:
        """Give a task that follows another its request with a source; see `TaskRecord.awaits_source`.

        The money is looked at once more, because the steps before may have been charged more than they reserved.

        Raises:
            BudgetError: A cap is exceeded, or the steps of the call cost more than `TaskRecord.most_usd`.
            LeaseLostError: Another process holds the task now.
        """
        ...

    async def broken_off(self, steps: Sequence[str], *, since: datetime, limit: int) -> tuple[TaskRecord, ...]:
        """The tasks from which a call goes on that an earlier one left without its last picture, newest first.

        Each is delivered, and every task that followed it has ended without a picture. Those with most steps behind
        them come first.

        Args:
            steps: The digests of the call's steps: see `records.digests`.
            since: Only tasks created since then.
            limit: The maximum number of tasks.
        """
        ...

    async def led_to(self, records: Sequence[TaskRecord]) -> tuple[TaskRecord, ...]:
        """These tasks, and before each the tasks whose images led to its own."""
        ...

    async def followers(self, keys: Sequence[str]) -> tuple[TaskRecord, ...]:
        """The tasks whose source is the image of a task with one of these keys."""
        ...

    async def adopt(self, intent: Intent, task_id: str, *, at: datetime, location: str | None = None) -> TaskRecord:
        """Record a task that was made elsewhere, as submitted. A known task id is not written again.

        A task recorded under another key or service moves to this one, because RunAPI showed the task to this key.

        Raises:
            JournalError: This is a person's journal, and the task is none of theirs.
        """
        ...

    async def apply(self, record: TaskRecord, event: Event, change: TaskChange) -> TaskRecord:
        """Take one step of a task's life, in the transaction that checks which process holds the task.

        Args:
            record: As this process last saw it.
            event: What has happened.
            change: The new values that came with the event.

        Raises:
            LeaseLostError: Another process holds the task now.
            IllegalTransitionError: The table has no such step.
            SameIdError: The task id that came with the event belongs to another task.
        """
        ...

    async def claim_name(self, record: TaskRecord, path: str) -> NameOwner:
        """Claim a file name, an absolute path, right before a task's image gets it. Of several tasks, the first has it.

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
        wanted: TaskFilter = ANY,
        before: str | None = None,
    ) -> tuple[TaskRecord, ...]:
        """The newest records that match, newest first. `before` is a key: only tasks made before it."""
        ...

    async def newest(self, *, limit: int, before: str | None = None) -> tuple[ListedTask, ...]:
        """The newest tasks for a list, newest first; `before` as in `recent`. A record that can't be read is among them."""
        ...

    async def mark_reported(self, keys: Sequence[str], *, at: datetime) -> None:
        """Note that the end of these tasks was reported to a caller, so that no later call joins them.

        What an admin is told of another person's task is no report to that person.
        """
        ...


class Leases(Protocol):
    """Which process looks after which task."""

    async def claim(self, *, take: bool = True) -> tuple[TaskRecord, ...]:
        """Take or renew the lease of every unfinished task that no other living process holds; return all tasks held.

        Without `take`, only the leases that this process has are renewed.
        """
        ...

    async def offer(self, record: TaskRecord) -> None:
        """Let another process, if there is one, take this task until this process claims it again."""
        ...

    async def hold(self, record: TaskRecord) -> None:
        """Check that this process still holds the task, right before an action that can't be undone.

        Raises:
            LeaseLostError: Another process holds the task now.
        """
        ...

    async def unfinished(self) -> int:
        """The number of unfinished tasks, over all processes."""
        ...

    async def release(self) -> None:
        """Give up all leases, so that other processes need not wait for them to lapse."""
        ...

    async def version(self) -> int:
        """A number that changes soon after another process has written, and only then or if that may have been missed.

        A database server tells of a write some milliseconds after it. So a caller reads this, then the tasks, and then
        waits for another number.
        """
        ...


class Accounts(Protocol):
    """Which tasks a key may see: those of every key of its RunAPI account."""

    async def belongs(self, account_id: str) -> None:
        """Record which RunAPI account the key belongs to. From then on it has the tasks of all keys of that account."""
        ...

    async def known(self) -> bool:
        """Whether the journal has recorded which account the key belongs to."""
        ...

    async def has_others(self) -> bool:
        """Whether other keys, of any account, have made tasks on the same service."""
        ...

    async def foreign_tasks(self) -> tuple[TaskRecord, ...]:
        """Open tasks that no key of this account has made on this service and that no living process looks after."""
        ...

    async def service_of_task(self, ident: str) -> str | None:
        """The service at which another key made the task with this id or key, or None. All services are searched."""
        ...


class Pace(Protocol):
    """The turns to call RunAPI that all processes share; the arithmetic is `domain.pacing`."""

    async def turn(self, rate: float, longest: float = inf) -> float:
        """Take the next turn of the shared limiter, at most `rate` calls a second.

        Returns the wait until the turn, in seconds from the moment of the return; below 0 if the turn has already
        passed. A caller that is late for its turn takes another. If a database server keeps the clock, the
        implementation may return more seconds than are left, never fewer.

        Raises:
            RateLimitedError: RunAPI told an earlier call to wait, and more than `longest` seconds of that are left.
        """
        ...

    async def limited(self, retry_after: float | None, rate: float = inf) -> None:
        """RunAPI answered 429: halve the rate and allow no call before `retry_after` seconds have passed.

        `rate` is the caller's own, in calls a second; it is halved if the journal has none.
        """
        ...


class Money(Protocol):
    """The money spent, as the caps count it."""

    async def spent(self, *, at: datetime, session: str | None, caps: Caps = NO_CAPS) -> SpentSums:
        """The sums charged or reserved, over all accounts of this home; the sandbox's money counts apart.

        The sums of a month and of a person are read where `caps` has a cap on them; those of a person in a person's journal
        alone.
        """
        ...

    async def of_people(self, *, at: datetime) -> Mapping[str, tuple[Decimal, Decimal]]:
        """What each person who has called has spent, in USD: in a day and in a month. By the person's key."""
        ...

    async def in_force(self, caps: Caps) -> Caps:
        """These caps, with the own caps of the person whose journal this is."""
        ...

    async def charged(self) -> Mapping[tuple[str, str], Decimal]:
        """The charge for the last image of each model and resolution, in USD, over the same accounts as `spent`."""
        ...

    async def settle(self, missing_usd: Decimal) -> bool:
        """Note how much money of a lost journal's last 24 hours could not be read; see `SpentSums.lost`.

        Returns False if no journal was lost.
        """
        ...


class Uploads(Protocol):
    """Files that RunAPI holds for a limited time, found by their content."""

    async def find(self, identity: str, *, at: datetime) -> UploadedFile | None:
        """The uploaded file with this content that RunAPI still holds at the time `at`, or None."""
        ...

    async def add(self, identity: str, file: UploadedFile) -> None:
        """Note that RunAPI holds this content, under an address that works until the file's `expires_at`."""
        ...


class Callbacks(Protocol):
    """Callbacks that one process received for a task that another may look after."""

    async def mark(self, push_url: str) -> None:
        """Mark the open task whose callback address this is, if there is one: RunAPI has called back."""
        ...

    async def mark_task(self, task_id: str) -> None:
        """Mark the open task with this id, if there is one."""
        ...

    async def take(self) -> tuple[str, ...]:
        """The keys of this process's marked tasks. Their marks are removed."""
        ...


class History(Protocol):
    """What the journal knows of past tasks. `durations` and `still_used` are over all people."""

    async def durations(self) -> dict[tuple[str, str], tuple[float, ...]]:
        """Seconds from submission to completion by model and resolution: the latest `MAX_DURATIONS`, oldest first."""
        ...

    async def matched(self, wanted: TaskFilter = ANY) -> TaskMatches:
        """The number of matching tasks, and their sums."""
        ...

    async def spending(self, by: SpendingBy, since: datetime | None) -> tuple[SpendingGroup, ...]:
        """Sums of the quotes and charges of the tasks made since then (None: of all tasks)."""
        ...

    async def with_images(self, before: datetime) -> tuple[TaskRecord, ...]:
        """The tasks made before this time that still have images, oldest first."""
        ...

    async def still_used(self, paths: Sequence[str]) -> frozenset[str]:
        """Those of these files that belong to a task of any account."""
        ...

    async def keep_images(self, key: str, images: Sequence[StoredImage]) -> None:
        """Record which images a task still has."""
        ...


class Journal(Protocol):
    """One account's journal: its parts, and its state as a whole."""

    @property
    def owner(self) -> str:
        """The name of this process, in which leases are held."""
        ...

    def utc_now(self) -> datetime:
        """The time that all who share the journal go by: the database server's, or this machine's for a file."""
        ...

    @property
    def statement_seconds(self) -> float:
        """How long a statement takes now, or the one that is under way has taken so far; 0 where that tells nothing."""
        ...

    def of(
        self, person: str, *, sees_all: bool = False, client: str | None = None, address: str | None = None
    ) -> Journal:
        """The same journal for one person's calls: the tasks that it writes are theirs, and so are those that it shows.

        Only `tasks` and `history` differ. Leases, money and pace are those of all. What its tasks cost, and what a cap
        refuses, stands in the audit, too.

        Args:
            person: See `Intent.person`.
            sees_all: Whether it shows everybody's tasks, as to an admin. Even then no call joins or goes on from a task of
                another person.
            client: See `domain.audit.AuditEntry`.
            address: As above.
        """
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
        """Which tasks a key may see."""
        ...

    @property
    def pace(self) -> Pace:
        """Turns to call RunAPI."""
        ...

    @property
    def money(self) -> Money:
        """The money spent."""
        ...

    @property
    def people(self) -> People:
        """The people of a team."""
        ...

    @property
    def tokens(self) -> Tokens:
        """The personal tokens of a team."""
        ...

    @property
    def facts(self) -> Facts:
        """What servers have to agree on."""
        ...

    @property
    def audit(self) -> Audit:
        """Who did what in a team."""
        ...

    @property
    def uploads(self) -> Uploads:
        """Files that RunAPI holds."""
        ...

    @property
    def callbacks(self) -> Callbacks:
        """Callbacks that were received."""
        ...

    @property
    def history(self) -> History:
        """What it knows of past tasks."""
        ...

    @property
    def exists(self) -> bool:
        """Whether the journal is there: False until the first write. Reading this makes nothing."""
        ...

    @property
    def was_made(self) -> bool:
        """Whether it is there, or was once: a vanished journal must be reported."""
        ...

    @property
    def notice(self) -> str | None:
        """A text for the user, such as that a broken file was moved aside; or None."""
        ...

    def unread_notice(self) -> str | None:
        """A text for the user about records that can't be read, or None. A process reports each record once."""
        ...

    async def salvage(self) -> None:
        """Check the whole journal. If it is broken or gone, a new one replaces it, with all that can still be read."""
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...
