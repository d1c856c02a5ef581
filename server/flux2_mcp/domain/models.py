"""The domain's frozen types. No I/O, no JSON: `runapi.wire` translates for RunAPI, `server.results` for the host."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Literal

from msgspec import Struct, field

from flux2_mcp.domain import account_names

SERVICE = "flux-2"
"""The name, in RunAPI's price calls, of the service whose models make images from a prompt."""
SANDBOX = account_names.SANDBOX
"""The account of the embedded sandbox, which spends no money. Every other account spends."""


class Action(StrEnum):
    """The model's action. The value is the last part of RunAPI's endpoint (`catalog.Model.endpoint`)."""

    TEXT_TO_IMAGE = "text_to_image"
    REMIX_IMAGE = "remix_image"
    REMOVE_BACKGROUND = "remove_background"
    UPSCALE_IMAGE = "upscale_image"


MAKING = (Action.TEXT_TO_IMAGE, Action.REMIX_IMAGE)
"""The actions that make an image from a prompt. The others finish a picture: each has one source and no prompt."""


class Status(StrEnum):
    """A task's status at RunAPI. A status that RunAPI never documented is read as UNKNOWN, which is never success."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def ended(self) -> bool:
        """True if the status is final."""
        return self in {Status.COMPLETED, Status.FAILED}


class SourceImage(Struct, frozen=True, kw_only=True):
    """A source image: the caller's name for it, and what was sent to RunAPI.

    `given` is short enough to show: a path, a URL, `task:ID`, or a word for a `data:` URI. `identity` is the same for
    the same picture, whatever address it is sent under. `uploaded_bytes` is None if only an address left this machine.
    `width` and `height`, of the upright picture in pixels, are None if this machine never read the picture.
    `transparent` is True if it is known to be transparent somewhere, or was to be.
    """

    given: str
    identity: str
    uploaded_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    transparent: bool | None = None


class RequestArgs(Struct, frozen=True, kw_only=True):
    """A caller's request, unchecked, with the names of `generate`'s arguments. `catalog.request_of` checks it.

    The tool and the command line make it. None means: not given. `background` and `upscale` finish the picture that the
    prompt makes, or the only source image if there is no prompt.
    """

    prompt: str | None = None
    variant: str | None = None
    source_images: Sequence[str] | None = None
    aspect_ratio: str | None = None
    output_resolution: str | None = None
    enable_safety_checker: bool | None = None
    callback_url: str | None = None
    background: str | None = None
    upscale: int | None = None


class ImageRequest(Struct, frozen=True, kw_only=True):
    """One validated request for one image (`catalog.request` makes it). None means: not sent, the service's default.

    `prompt` of a step that finishes a picture is that of the picture, and is not sent; it is empty if there is none. `source_image_urls` is empty, too, as long as the source is the image of a
    task that has not made it yet.
    `sources` says where the `source_image_urls` come from, in the same order; it is empty if that is not known.
    """

    action: Action
    variant: str
    model: str
    prompt: str
    source_image_urls: tuple[str, ...] = ()
    aspect_ratio: str | None = None
    output_resolution: str | None = None
    enable_safety_checker: bool | None = None
    upscale_factor: int | None = None
    callback_url: str | None = None
    sources: tuple[SourceImage, ...] = ()


class RemoteTask(Struct, frozen=True, kw_only=True):
    """RunAPI's answer about a task, read liberally.

    `cost_usd` is the charge in USD by RunAPI's answer; it is final only after the task has ended. `refunded`: the money
    was given back, and nothing is charged. `reserved_usd` is what RunAPI holds of the balance for the task.
    `retry_after` is the shortest wait before the next poll, in seconds. `location` is set for a hybrid task: the path
    after the base URL where it is polled. `replayed`: a create found the task that its key had made before.
    """

    task_id: str
    status: Status
    image_urls: tuple[str, ...] = ()
    cost_usd: Decimal | None = None
    refunded: bool = False
    reserved_usd: Decimal | None = None
    error: str | None = None
    retry_after: float | None = None
    location: str | None = None
    replayed: bool = False


class ListenEvent(Struct, frozen=True):
    """A callback that RunAPI kept for a listen session. `task_id` is None if it can't be read."""

    id: int
    task_id: str | None


class ListenEvents(Struct, frozen=True):
    """The events of one answer, and the shortest wait before the next call, in seconds."""

    events: tuple[ListenEvent, ...]
    retry_after: float | None = None


class PriceSchedule(Struct, frozen=True, kw_only=True):
    """The live price of one model: cents an image by resolution (None: not stated).

    `dearest_cents` is the highest amount in the schedule; it is used if the schedule does not state which amount
    applies. `as_of` is RunAPI's own time stamp, unchanged.
    """

    model: str
    action: Action
    cents: dict[str, Decimal | None] = field(default_factory=dict)
    dearest_cents: Decimal | None = None
    as_of: str


class Balance(Struct, frozen=True, kw_only=True):
    """The account's money in USD: the balance, its paid part and its bonus part, and the sums spent."""

    balance_usd: Decimal
    paid_usd: Decimal | None = None
    bonus_usd: Decimal | None = None
    spent_today_usd: Decimal | None = None
    spent_total_usd: Decimal | None = None


class RunApiAccount(Struct, frozen=True, kw_only=True):
    """The owner of a key. `account_id` is the same for all keys of an account; empty if RunAPI does not state it."""

    name: str
    email: str
    account_name: str
    account_id: str = ""


class UploadedFile(Struct, frozen=True, kw_only=True):
    """A source image that RunAPI holds for an hour. `expires_at` is UTC."""

    file_name: str
    url: str
    size_bytes: int
    mime_type: str
    expires_at: datetime | None


PriceSource = Literal["live", "cached", "published", "charged", "invented", "unknown"]
"""The source of a price. "charged": no price is published, and this is RunAPI's charge for the last image. "invented": no
price is published, and the sandbox made this one up."""


class StoredImage(Struct, frozen=True, kw_only=True):
    """An image on disk, checked. `path` is absolute; sizes are in pixels and bytes.

    `transparent_share` is the share of its pixels, 0 to 1, that are transparent (an alpha below 128 of 255), rounded to 4
    places; None for a picture that has no transparency at all, and for one that an earlier version stored.
    `saved` is the absolute path of its copy in the workspace, if the caller wanted one and it was made. `saved_sha256`
    is that of the copy, if it was converted to another type. `note` is a text for the user about that copy.
    """

    path: str
    mime_type: str
    width: int
    height: int
    size_bytes: int
    sha256: str
    transparent_share: float | None = None
    saved: str | None = None
    saved_sha256: str | None = None
    note: str | None = None


class Save(Struct, frozen=True):
    """Where in the workspace a task's image is saved. `target` is relative to it, with `/`; a folder ends in `/`."""

    target: str
    overwrite: bool = False


class NameOwner(StrEnum):
    """Which task owns a file name in the workspace, seen from a task whose image is about to get it.

    FREE: no other task has claimed it since this one was made, so a file there may be replaced if the caller wants
        that.
    OURS: this task claimed it before, so a file there is its own image, perhaps changed since. TAKEN: another task
    claimed it while this one was under way.
    """

    FREE = "free"
    OURS = "ours"
    TAKEN = "taken"
