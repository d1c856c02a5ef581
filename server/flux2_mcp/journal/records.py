"""What the journal holds: one entry for each task, and the seam that everything above writes it through."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from math import inf
from typing import Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

from flux2_mcp.domain.budget import CapRoom, Caps, SpendingBy, SpendingGroup, SpentSums
from flux2_mcp.domain.catalog import resolution
from flux2_mcp.domain.lifecycle import Event, State
from flux2_mcp.domain.models import Action, ImageRequest, NameOwner, Save, SourceImage, StoredImage, UploadedFile

T = TypeVar("T")

MAX_INTEGER = 2**53
"""The most that a count is (pixels, bytes, how often a task was taken over): a float still holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A task about to be paid for. `key` is the idempotency key it will be sent under.

    `push_url` is where RunAPI is asked to call back, beside the request so that it does not make equal requests differ.
    `reserved_usd` is what it holds of the budgets until it is charged: the quote, or the caller's own limit.
    """

    key: str
    request: ImageRequest
    quoted_usd: Decimal | None
    reserved_usd: Decimal | None = None
    workspace: str | None = None
    client: str | None = None
    session: str | None = None
    push_url: str | None = None
    save: Save | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One task as the journal knows it. Times are aware UTC, money is USD.

    `task_id` is RunAPI's, None until it is known. `account` names the service and key it belongs to, without the key.
    `reserved_usd` is what it holds of the caps until it is charged.
    `started` is False while certainly nothing of it was ever sent. `owner` is the process that looks after it, or did.
    `fence` grows each time that another process takes it over: who holds an older one holds the task no more.
    `readable` is False for the stand-in of a record that this version can't read: `error` says so.
    """

    key: str
    task_id: str | None
    account: str
    state: State
    request: ImageRequest
    workspace: str | None
    client: str | None
    session: str | None
    push_url: str | None
    save: Save | None
    quoted_usd: Decimal | None
    reserved_usd: Decimal | None = None
    charged_usd: Decimal | None
    error: str | None
    image_urls: tuple[str, ...]
    images: tuple[StoredImage, ...]
    created_at: datetime
    submitted_at: datetime | None
    completed_at: datetime | None
    delivered_at: datetime | None
    started: bool
    owner: str | None
    fence: int = 0
    readable: bool = True

    @property
    def counted_usd(self) -> Decimal:
        """What it counts against the caps: what was charged; until that is known, what it holds; nothing if it failed."""
        if self.state in {State.FAILED, State.REJECTED}:
            return Decimal(0)
        known = (self.charged_usd, self.reserved_usd, self.quoted_usd)
        return next((usd for usd in known if usd is not None), Decimal(0))

    @property
    def kind(self) -> tuple[str, str]:
        """What its duration depends on: model and output resolution."""
        return self.request.model, resolution(self.request)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskMatches:
    """All tasks that a question fits, however few of them are listed. Amounts are USD; None: not known of any of them."""

    states: Mapping[State, int]
    quoted_usd: Decimal | None
    charged_usd: Decimal | None

    @property
    def tasks(self) -> int:
        """How many they are."""
        return sum(self.states.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskChange:
    """What an event taught, beside the state itself. None: nothing new.

    `reserved_usd` is what RunAPI holds for the task; it counts where it is more than what was reserved here.
    """

    at: datetime
    task_id: str | None = None
    reserved_usd: Decimal | None = None
    charged_usd: Decimal | None = None
    error: str | None = None
    image_urls: tuple[str, ...] | None = None
    images: tuple[StoredImage, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IntentResult:
    """What became of a call's intents: its entries; or the cap they don't fit, and then nothing was written.

    `joined` is True where the entries were there before. `wanted_usd` is what they would set aside of `over`.
    """

    entries: tuple[TaskRecord, ...] = ()
    joined: bool = False
    over: CapRoom | None = None
    wanted_usd: Decimal = Decimal(0)


def adopted(task_id: str) -> str:
    """The key of a task that was made elsewhere, as far as is known."""
    return f"adopted-{task_id}"


def dump(request: ImageRequest) -> str:
    """The request as canonical JSON: equal requests give equal text."""
    return _canonical(asdict(request))


def load(text: str) -> ImageRequest:
    """The request back from `dump`. Raises whatever a text that is none brings about."""
    values = json.loads(text)
    values["action"] = Action(values["action"])
    values["source_image_urls"] = tuple(items(values["source_image_urls"]))
    values["sources"] = tuple(checked(SourceImage(**source)) for source in items(values.get("sources", [])))
    return checked(ImageRequest(**values))


def items(value: object) -> list[Any]:
    """A list, as JSON has them. A text or an object would be taken for one of its letters or names.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, list):
        raise TypeError
    return value


def checked(made: T) -> T:
    """A dataclass that was made from what a file holds, once each of its fields is seen to be of the type that it says.

    Raises:
        TypeError: One is not.
        ValueError: A count is below nothing or beyond all, or a text can't be encoded: JSON can spell half of a surrogate pair.
    """
    kind: type = type(made)
    for name, kinds, each in _fields(kind):
        value = getattr(made, name)
        for one in value if each and type(value) is tuple else (value,):
            if type(one) not in kinds:
                raise TypeError(name)
            if type(one) is int and not 0 <= one <= MAX_INTEGER:
                raise ValueError(name)
            if isinstance(one, str):
                one.encode()
    return made


@cache
def _fields(kind: type) -> tuple[tuple[str, frozenset[type], bool], ...]:
    """Of each field of a dataclass: its name, the types that it or its items may have, and whether it is a tuple of them."""
    hints = get_type_hints(kind).items()
    return tuple(
        (
            name,
            frozenset(get_args(hint)[:1] if get_origin(hint) is tuple else get_args(hint) or (hint,)),
            get_origin(hint) is tuple,
        )
        for name, hint in hints
    )


def digest(request: ImageRequest) -> str:
    """Names the request without showing it: equal for equal requests, whatever address a source is sent under this time."""
    values = asdict(request)
    del values["sources"]
    if request.sources:
        values["source_image_urls"] = [source.identity for source in request.sources]
    return hashlib.sha256(_canonical(values).encode()).hexdigest()


def _canonical(values: dict[str, object]) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


class LeaseLostError(Exception):
    """The task was taken over by another process while this one stood still. Nothing was written.

    No `Flux2Error`: no caller is told of it, and what deals with a task's trouble must not take it for some.
    """


class SameIdError(Exception):
    """RunAPI gave a create the id of a task that another create has made. Nothing was written.

    No `Flux2Error`, as above: it is the end of the second create, and no trouble that goes by.
    """


class Journal(Protocol):
    """One account's tasks: stands above SQLite, and may one day stand above PostgreSQL. All calls leave the event loop free.

    Every method raises `JournalError` where the journal can't be read or written.
    """

    async def intend(
        self,
        intents: Sequence[Intent],
        *,
        at: datetime,
        caps: Caps,
        join: bool,
        in_flight: int,
        stated_usd: Decimal | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> IntentResult:
        """Write all intents or none, synced to disk when this returns; what they reserve fits the caps at that moment.

        An intent whose key is known already is not written again: its entry comes back as it stands. Where the last image
        of its kind was charged more than an intent would reserve, it reserves that: nobody knew when it was priced.

        Args:
            intents: For one call; the caps hold for their sum. Those that fit `in_flight` are started with it.
            at: Now.
            caps: The caps in force. Spending of every process on this home counts, whatever its key; the sandbox's apart.
            join: Look first for a task that does the same in the same workspace and has not been told to anybody,
                and give that instead.
            in_flight: At most so many tasks are under way at once, over all processes.
            stated_usd: `max_cost_usd` of the call.
            before: Called before anything new is written that fits the caps, and not where everything was there before.
                What it raises is raised, and nothing is written.

        Raises:
            InvalidRequestError: A known key belongs to another request.
            BudgetError: Under a cap, tasks without a known price were to run together, or what the last of them cost was
                never told; or what is new would cost more than was stated.
        """
        ...

    async def start(self, entry: TaskRecord, *, at: datetime, in_flight: int) -> TaskRecord:
        """Note that an intent is about to be sent, if fewer than `in_flight` are under way; see `TaskRecord.started`.

        Raises:
            LeaseLostError: It is another process's by now.
        """
        ...

    async def hold(self, entry: TaskRecord) -> None:
        """See that the task is still this process's, right before something that can't be taken back.

        Raises:
            LeaseLostError: It is another process's by now.
        """
        ...

    async def adopt(self, intent: Intent, task_id: str, *, at: datetime) -> TaskRecord:
        """Record a task that was made elsewhere, as submitted. A known task id is not written again.

        One that stands under another key or service is taken from there: RunAPI has told this key of it.
        """
        ...

    async def take(self, entry: TaskRecord, path: str) -> NameOwner:
        """Take a file's name, an absolute path, right before a task's image gets it; of several tasks, the first has it.

        Raises:
            LeaseLostError: The task is another process's by now.
        """
        ...

    async def apply(self, entry: TaskRecord, event: Event, change: TaskChange) -> TaskRecord:
        """Take one step of a task's life, in the same transaction that sees whose the task is.

        Args:
            entry: As this process last saw it.
            event: What has happened.
            change: What it taught.

        Raises:
            LeaseLostError: It is another process's by now.
            IllegalTransitionError: The table has no such step.
            SameIdError: The task id that it taught is another task's.
        """
        ...

    async def find(self, ids: Sequence[str]) -> tuple[TaskRecord, ...]:
        """The entries with these task ids or keys, in the order asked for; unknown ids are left out."""
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
        """The newest entries that match, newest first. None: any. `before` is a key: only what was made before it."""
        ...

    async def matched(
        self,
        *,
        states: Collection[State] | None = None,
        since: datetime | None = None,
        workspace: str | None = None,
    ) -> TaskMatches:
        """How many tasks match, and their sums. The arguments are those of `recent`."""
        ...

    async def told(self, keys: Sequence[str], *, at: datetime) -> None:
        """Note that the end of these tasks was told to a caller, so that nobody joins them any more."""
        ...

    async def claim(self, *, take: bool = True) -> tuple[TaskRecord, ...]:
        """Take, or keep, the lease of every unfinished task that no living process holds; gives all that are ours.

        Without `take` only what is ours is kept.
        """
        ...

    async def offer(self, entry: TaskRecord) -> None:
        """Let another process take this task, if there is one, until this one claims it again."""
        ...

    async def belongs(self, holder: str) -> None:
        """Write down which account of RunAPI the key belongs to. From then on the tasks of all keys of that account are one's own."""
        ...

    async def known(self) -> bool:
        """Whether it is written down which account the key belongs to."""
        ...

    async def apart(self) -> bool:
        """Whether other keys have made tasks on the same service, of whichever account."""
        ...

    async def strangers(self) -> tuple[TaskRecord, ...]:
        """Open tasks that no key of this account has made on this service and that nobody looks after."""
        ...

    async def elsewhere(self, ident: str) -> str | None:
        """The service whose task has this id or key, made with another key or at another service; None where none has."""
        ...

    async def unfinished(self) -> int:
        """How many tasks all processes together have yet to finish."""
        ...

    async def release(self) -> None:
        """Give up all leases, so that others need not wait for them to lapse."""
        ...

    async def pace(self, rate: float, longest: float = inf) -> float:
        """Take the next turn of the shared limiter, at most `rate` calls a second.

        Gives when it is, on the machine's monotonic clock: as seconds to wait it would be too soon by as long as the
        journal was waited for.

        Raises:
            RateLimitedError: RunAPI wants no call for longer than `longest` seconds, and has told whoever called before.
        """
        ...

    async def limited(self, retry_after: float | None, rate: float = inf) -> None:
        """RunAPI said 429: halve the rate and let nobody call before `retry_after` seconds have passed.

        `rate` is what the caller goes by, in calls a second; it is halved where no other is known.
        """
        ...

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

    async def with_images(self, before: datetime) -> tuple[TaskRecord, ...]:
        """The tasks that were made before then and whose images are kept, oldest first."""
        ...

    async def still_used(self, paths: Sequence[str]) -> frozenset[str]:
        """Which of these files belong to a task, of whichever account."""
        ...

    async def keep_images(self, key: str, images: Sequence[StoredImage]) -> None:
        """Write down which images a task still has."""
        ...

    async def upload(self, identity: str, *, at: datetime) -> UploadedFile | None:
        """The file that RunAPI still holds of this content `at` this time."""
        ...

    async def uploaded(self, identity: str, file: UploadedFile) -> None:
        """Note that RunAPI holds this content, under an address that works until the file's `expires_at`."""
        ...

    async def spending(self, by: SpendingBy, since: datetime | None) -> tuple[SpendingGroup, ...]:
        """What the tasks made since then were quoted and charged (None: all of them), summed up."""
        ...

    async def nudge(self, push_url: str) -> None:
        """RunAPI called back: mark the open task that this address belongs to, if there is one."""
        ...

    async def nudged(self) -> tuple[str, ...]:
        """The keys of our tasks that were marked; the marks are gone after."""
        ...

    async def version(self) -> int:
        """Changes whenever another process has written."""
        ...

    async def durations(self) -> dict[tuple[str, str], tuple[float, ...]]:
        """Seconds from submission to completion by kind, oldest first, the latest 200 of each."""
        ...

    async def close(self) -> None:
        """Let go of what is open."""
        ...
