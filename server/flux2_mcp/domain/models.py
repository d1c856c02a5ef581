"""The domain's own words, frozen. No I/O, no JSON: `runapi.wire` speaks to RunAPI, `server.results` to the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal

SERVICE = "flux-2"
"""The service's name in RunAPI's price calls."""
SANDBOX = "sandbox"
"""The account of the embedded sandbox, where no money moves. Every other account spends."""


class Action(StrEnum):
    """What is asked of the model. The value is RunAPI's endpoint (`/api/v1/flux_2/<action>`)."""

    TEXT_TO_IMAGE = "text_to_image"
    REMIX_IMAGE = "remix_image"


class Status(StrEnum):
    """A task's state at RunAPI. Words that RunAPI never promised read as UNKNOWN, which is never success."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def ended(self) -> bool:
        """True once nothing more will come."""
        return self in {Status.COMPLETED, Status.FAILED}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceImage:
    """A source image as it was given, and what of it went to RunAPI.

    `given` is short enough to show: a path, a URL, `task:ID`, or a word for a `data:` URI. `identity` stays the same
    while the picture does, whatever address it is sent under. `uploaded_bytes` is None where nothing left this machine but an
    address; `width` and `height`, in pixels and upright, are None where the picture was not seen here.
    """

    given: str
    identity: str
    uploaded_bytes: int | None = None
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestArgs:
    """What a caller asks for, by the arguments' names of `generate` and as it was given: `catalog.request_of` checks it.

    The tool and the command line make it. None means: not given.
    """

    prompt: str
    variant: str | None = None
    source_images: Sequence[str] | None = None
    aspect_ratio: str | None = None
    output_resolution: str | None = None
    enable_safety_checker: bool | None = None
    callback_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """One validated request for one image (`catalog.request` makes it). None means: not sent, the service's default.

    `sources` says where the `source_image_urls` come from, in the same order; empty where nobody knows.
    """

    action: Action
    variant: str
    model: str
    prompt: str
    source_image_urls: tuple[str, ...] = ()
    aspect_ratio: str | None = None
    output_resolution: str | None = None
    enable_safety_checker: bool | None = None
    callback_url: str | None = None
    sources: tuple[SourceImage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteTask:
    """What RunAPI says of a task, after liberal reading.

    `cost_usd` is what RunAPI says that it charged, in USD: final only once the task has ended. `refunded`: it was given
    back, and nothing is charged. `reserved_usd` is what RunAPI holds of the balance for the task. `retry_after` is in
    seconds: ask no sooner.
    """

    task_id: str
    status: Status
    image_urls: tuple[str, ...] = ()
    cost_usd: Decimal | None = None
    refunded: bool = False
    reserved_usd: Decimal | None = None
    error: str | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceSchedule:
    """The live price of one model: cents an image by resolution (None: not told).

    `dearest_cents` is the dearest amount that is named at all: it stands in where what applies is not told. `as_of` is
    RunAPI's own time stamp, as it gave it.
    """

    model: str
    action: Action
    cents: dict[str, Decimal | None] = field(default_factory=dict)
    dearest_cents: Decimal | None = None
    as_of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The account's money in USD: what it has, of that what was paid for and what was given, and what was spent."""

    balance_usd: Decimal
    paid_usd: Decimal | None = None
    bonus_usd: Decimal | None = None
    spent_today_usd: Decimal | None = None
    spent_total_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunApiAccount:
    """Whose key it is. `account_id` is the same for all keys of an account; empty where RunAPI does not tell it."""

    name: str
    email: str
    account_name: str
    account_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedFile:
    """A source image that RunAPI holds for its hour. `expires_at` is UTC."""

    file_name: str
    url: str
    size_bytes: int
    mime_type: str
    expires_at: datetime | None


PriceSource = Literal["live", "cached", "published", "charged", "unknown"]
"""Who says what an image costs. "charged": no price is published, and it is what RunAPI took for the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image on disk, checked. `path` is absolute; sizes in pixels and bytes.

    `saved` is the absolute path of its copy in the workspace, where one was asked for and made; `note` says what a user
    should know about that copy.
    """

    path: str
    mime_type: str
    width: int
    height: int
    size_bytes: int
    sha256: str
    saved: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Save:
    """Where in the workspace a task's image is wanted: `target` is relative to it, with `/`; a folder ends in `/`."""

    target: str
    overwrite: bool = False


class NameOwner(StrEnum):
    """Whose a file's name in the workspace is, for a task whose image is about to get it.

    FREE: no other task has taken it since this one was asked for, so what stands there may be replaced, where the caller
    wants that. OURS: this task took it before, so what stands there is its own image, or was changed since. TAKEN: another
    task took it while this one was under way.
    """

    FREE = "free"
    OURS = "ours"
    TAKEN = "taken"
