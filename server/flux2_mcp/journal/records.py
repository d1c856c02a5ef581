"""What the journal holds: one record for each task, the intent that it began with, and what each step changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from msgspec import Struct, field, to_builtins

from flux2_mcp.domain.budget import CapRoom
from flux2_mcp.domain.catalog import resolution
from flux2_mcp.domain.lifecycle import UNPAID, State
from flux2_mcp.domain.models import Action, ImageRequest, Save, SourceImage, StoredImage

T = TypeVar("T")

MAX_INTEGER = 2**53
"""The largest count (pixels, bytes, a task's fence): a float still holds it exactly."""


class Intent(Struct, frozen=True, kw_only=True):
    """A task about to be paid for. `key` is the idempotency key that it will be sent with.

    `push_url` is the address at which RunAPI shall call back; it is kept apart from the request, so that equal requests
    stay equal. `reserved_usd` is what the task holds of the budgets until it is charged: the quote, or the caller's own
    limit. `follows` is the key of the task whose image is this one's source: it is sent after that one is delivered.
    `most_usd` is the most that the call may cost, all steps together. `person` is whose task it is (`domain.people.Person.key`);
    None: nobody's, as on a machine of one's own. A person's journal (`contract.Journal.of`) writes its own.
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
    follows: str | None = None
    most_usd: Decimal | None = None
    person: str | None = None

    @classmethod
    def from_record(cls, record: TaskRecord) -> Intent:
        """The intent that a task began with, to write it again into a journal that has lost it."""
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
            follows=record.follows,
            most_usd=record.most_usd,
            person=record.person,
        )


class TaskRecord(Struct, frozen=True, kw_only=True):
    """One task as the journal knows it. Times are aware UTC, money is USD.

    `task_id` is RunAPI's, None until it is known. `account` names the service and the key, without holding the key.
    `reserved_usd` is what the task holds of the caps until it is charged.
    `started` is False as long as it is certain that nothing was sent. `owner` is the process that holds the task, or
    held it. `fence` grows each time another process takes the task over: a process with an older value has lost the
    task. `location` is where a hybrid task is polled, a path after the base URL. `replayed`: RunAPI answered the create
    with the task that this key had made before. `follows`, `most_usd` and `person` are those of the intent. `readable` is False for the stand-in of a record that this version can't read; `error` then says so.
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
    location: str | None = None
    replayed: bool = False
    follows: str | None = None
    most_usd: Decimal | None = None
    person: str | None = None
    readable: bool = True

    @property
    def awaits_source(self) -> bool:
        """Whether it waits for the image of the task that it follows."""
        return self.state is State.INTENT and self.follows is not None and not self.request.source_image_urls

    @property
    def counted_usd(self) -> Decimal:
        """What the task counts against the caps: its charge; until that is known, its reservation; 0 if it failed."""
        if self.state in UNPAID:
            return Decimal(0)
        known = (self.charged_usd, self.reserved_usd, self.quoted_usd)
        return next((usd for usd in known if usd is not None), Decimal(0))

    @property
    def kind(self) -> tuple[str, str]:
        """What the task's duration depends on: model and output resolution."""
        return self.request.model, resolution(self.request)


class TaskFilter(Struct, frozen=True, kw_only=True):
    """Which tasks are wanted. None: any.

    Attributes:
        states: Tasks in one of these states.
        since: Tasks made since then.
        workspace: Tasks that a caller in this folder made.
        query: Tasks with this text in their prompt, in upper or lower case; any white space is one blank. No character in it
            has a meaning.
        sha256: Tasks with an image, or a copy of one in a workspace, that has this SHA-256, as hex digits.
    """

    states: Collection[State] | None = None
    since: datetime | None = None
    workspace: str | None = None
    query: str | None = None
    sha256: str | None = None


MAX_QUERY_CHARS = 5000
"""The maximum length of a query: no prompt is longer."""
ANY = TaskFilter()
"""Every task."""


class TaskMatches(Struct, frozen=True, kw_only=True):
    """Sums over all tasks that match, listed or not, and the known models that made them.

    Amounts are USD; None: no matching task has a known amount. `uncharged` is the number of tasks whose charge is not known,
    and which `charged_usd` therefore leaves out.
    """

    states: Mapping[State, int]
    quoted_usd: Decimal | None
    charged_usd: Decimal | None
    uncharged: int
    models: frozenset[str]

    @property
    def tasks(self) -> int:
        """The number of matching tasks."""
        return sum(self.states.values())


class TaskChange(Struct, frozen=True, kw_only=True):
    """The new values that came with an event, beside the state itself. None: nothing new.

    `reserved_usd` is what RunAPI holds for the task; it counts if it is more than what was reserved here.
    """

    at: datetime
    task_id: str | None = None
    location: str | None = None
    replayed: bool | None = None
    reserved_usd: Decimal | None = None
    charged_usd: Decimal | None = None
    error: str | None = None
    image_urls: tuple[str, ...] | None = None
    images: tuple[StoredImage, ...] | None = None


class IntentResult(Struct, frozen=True, kw_only=True):
    """The result of a call's intents: their records, or the cap that they don't fit; then nothing was written.

    `joined` is True if an earlier call wrote the records, and `repeated` if it had the same consent. `wanted_usd` is what the
    intents would have reserved of `over`.
    """

    records: tuple[TaskRecord, ...] = ()
    joined: bool = False
    repeated: bool = False
    over: CapRoom | None = None
    wanted_usd: Decimal = Decimal(0)


Soundness: TypeAlias = Literal["none", "vanished", "no_file", "unreadable", "broken", "sound"]


class Inspection(Struct, frozen=True):
    """What an inspection of the journal found. Tasks are given by their ids.

    `unread` are records that can't be read. `foreign` are open tasks that another key made on this service and that no
    process holds; `elsewhere` are those of other services, by service. `known` is True if the journal has recorded
    which account the key belongs to. For `lost`, see `SpentSums.lost`.
    """

    unread: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    known: bool = False
    elsewhere: Mapping[str, Sequence[str]] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


class Health(Struct, frozen=True):
    """The state of a journal: its file, whether that is sound, how many tasks and bytes it holds, and what is in it.

    `server` names the database server that holds it, in place of `path`; "": it is a file. `reason` says why it can't be read. `inspection` is None if the file is not sound, or another process keeps it busy.
    """

    soundness: Soundness
    path: Path
    tasks: int = 0
    size_bytes: int = 0
    reason: str = ""
    inspection: Inspection | None = None
    server: str = ""


def adopted(task_id: str) -> str:
    """The key under which a task made elsewhere is recorded."""
    return f"adopted-{task_id}"


def dump_images(images: Sequence[StoredImage]) -> str:
    """The images as JSON. What an image does not have is left out, so that an earlier version reads those it could make."""
    return json.dumps([{k: v for k, v in to_builtins(image).items() if v is not None} for image in images])


def dump(request: ImageRequest) -> str:
    """The request as canonical JSON: equal requests give equal text."""
    return _canonical(_values(request))


def load(text: str) -> ImageRequest:
    """The request back from `dump`. On a text that is no request, errors of any type may be raised."""
    values = json.loads(text)
    values["action"] = Action(values["action"])
    values["source_image_urls"] = tuple(items(values["source_image_urls"]))
    values["sources"] = tuple(checked(SourceImage(**source)) for source in items(values.get("sources", [])))
    return checked(ImageRequest(**values))


def items(value: object) -> list[Any]:
    """The value, which must be a JSON list.

    Without this check, a text would be read as a list of its letters, and an object as a list of its names.

    Raises:
        TypeError: The value is no list.
    """
    if not isinstance(value, list):
        raise TypeError
    return value


def checked(made: T) -> T:
    """The dataclass itself, after a check that each field has its declared type. For values that were read from a file.

    Raises:
        TypeError: A field has another type.
        ValueError: A count is below 0 or above `MAX_INTEGER`, or a text can't be encoded (JSON can hold half of a
            surrogate pair).
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
    """For each field of a dataclass: its name, the types that it or its items may have, and whether it is a tuple."""
    hints = get_type_hints(kind).items()
    return tuple(
        (
            name,
            frozenset(get_args(hint)[:1] if get_origin(hint) is tuple else get_args(hint) or (hint,)),
            get_origin(hint) is tuple,
        )
        for name, hint in hints
    )


def digest(request: ImageRequest, *, follows: str | None = None) -> str:
    """A digest that identifies a request without showing it. The addresses of uploaded sources do not change it.

    Args:
        request: The request.
        follows: The digest of the task whose image is the source, which then stands for the source.
    """
    values = _values(request)
    del values["sources"]
    if follows is not None:
        values["source_image_urls"] = [follows]
    elif request.sources:
        values["source_image_urls"] = [source.identity for source in request.sources]
    return hashlib.sha256(_canonical(values).encode()).hexdigest()


def digests(steps: Sequence[ImageRequest]) -> list[str]:
    """The digest of each step of a call, of which each follows the one before."""
    found: list[str] = []
    for request in steps:
        found.append(digest(request, follows=found[-1] if found else None))
    return found


def _values(request: ImageRequest) -> dict[str, Any]:
    """The fields. One that an earlier version did not have is left out if it has no value, so that digests stay equal."""
    values: dict[str, Any] = to_builtins(request)
    if request.upscale_factor is None:
        del values["upscale_factor"]
    for source in values["sources"]:
        if source["transparent"] is None:
            del source["transparent"]
    return values


def _canonical(values: dict[str, object]) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def service_of(account: str) -> str:
    """The service in the name of an account (see `engine.backend.account_name`); "" for the sandbox."""
    return account.rpartition(":")[0]


class LeaseLostError(Exception):
    """Another process took the task over while this one stood still. Nothing was written.

    It is no `Flux2Error`: no caller sees it, and the code that handles a task's errors must not catch it.
    """


class SameIdError(Exception):
    """RunAPI answered a create with the id of a task that another create has made. Nothing was written.

    It is no `Flux2Error`, as above: the second create ends with it, and a retry does not help.
    """
