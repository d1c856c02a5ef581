"""What the journal holds: one record for each task, the intent that it began with, and what each step changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from flux2_mcp.domain.budget import CapRoom
from flux2_mcp.domain.catalog import resolution
from flux2_mcp.domain.lifecycle import UNPAID, State
from flux2_mcp.domain.models import Action, ImageRequest, Save, SourceImage, StoredImage

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

    @classmethod
    def from_record(cls, record: TaskRecord) -> Intent:
        """The intent that a task began with, to write it down anew in a journal that has lost it."""
        return cls(
            key=record.key,
            request=record.request,
            quoted_usd=record.quoted_usd,
            reserved_usd=record.reserved_usd,
            workspace=record.workspace,
            client=record.client,
            session=record.session,
            push_url=record.push_url,
            save=record.save,
        )


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
        if self.state in UNPAID:
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
    """What became of a call's intents: its records; or the cap that they don't fit, and then nothing was written.

    `joined` is True where the records were there before. `wanted_usd` is what they would set aside of `over`.
    """

    records: tuple[TaskRecord, ...] = ()
    joined: bool = False
    over: CapRoom | None = None
    wanted_usd: Decimal = Decimal(0)


Soundness: TypeAlias = Literal["none", "vanished", "no_file", "unreadable", "broken", "sound"]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found, as ids of tasks.

    `unread` are records that can't be read, `foreign` open tasks that another key has made and that no process looks after,
    `elsewhere` those of other services, by service. `lost`: what closes the day, see `SpentSums.lost`. `known`: it is written
    down which account the key belongs to.
    """

    unread: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    known: bool = False
    elsewhere: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """The state of a journal: its file, whether that is sound, how many tasks and bytes it holds, and what is in it.

    `reason` says why it can't be read. `inspection` is None where it is not sound, or is in use for long.
    """

    soundness: Soundness
    path: Path
    tasks: int = 0
    size_bytes: int = 0
    reason: str = ""
    inspection: Inspection | None = None


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


def service_of(account: str) -> str:
    """The service in the name of an account, see `engine.backend.account_name`; "" for the sandbox."""
    return account.rpartition(":")[0]


class LeaseLostError(Exception):
    """The task was taken over by another process while this one stood still. Nothing was written.

    No `Flux2Error`: no caller is told of it, and what deals with a task's trouble must not take it for some.
    """


class SameIdError(Exception):
    """RunAPI gave a create the id of a task that another create has made. Nothing was written.

    No `Flux2Error`, as above: it is the end of the second create, and no trouble that goes by.
    """
