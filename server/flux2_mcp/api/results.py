"""What the client returns: frozen dataclasses. Amounts are USD as `Decimal`, times aware UTC, sizes pixels and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path

from flux2_mcp.domain.lifecycle import RESULT_LIFETIME, STATUSES, UNPAID, TaskStatus
from flux2_mcp.domain.models import Action, PriceSource, StoredImage
from flux2_mcp.domain.pricing import UnitPrice
from flux2_mcp.engine.waiting import Outcome, TaskReport
from flux2_mcp.images import size_check
from flux2_mcp.journal.records import TaskRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One image of a task.

    Attributes:
        path: The checked file in FLUX2_HOME; None while it is not there.
        saved: Its copy at `save_to`; None if none was wanted or none could be made, and then `note` says why.
        url: RunAPI's address of it, which works until `expires_at`.
        expires_at: A week after the task was completed.
        mime_type: Such as image/png.
        width: Measured, pixels.
        height: Measured, pixels.
        size_bytes: The size of the file at `path`.
        sha256: The digest of that file, in hex.
        transparent_share: The share of its pixels, 0 to 1, that are transparent; None for a picture without transparency.
        matches_request: Whether what was measured is what was asked for: the size, and the transparency of a picture
            that was cut out. None while there is no file.
        mismatch: A sentence that says what differs.
        note: A sentence about its copy or its shape.
    """

    path: Path | None = None
    saved: Path | None = None
    url: str | None = None
    expires_at: datetime | None = None
    mime_type: str | None = None
    width: int | None = None
    height: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    transparent_share: float | None = None
    matches_request: bool | None = None
    mismatch: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task as the journal knows it now. It does not change: `get` and `tasks.wait` return newer ones.

    Attributes:
        id: RunAPI's id; our own key while RunAPI has not answered. Every method takes both.
        status: See `TaskStatus`. A task is "completed" before its images are on disk; `ended` is True after that.
        ended: Whether there is nothing left to do.
        images: In RunAPI's order; empty until the task is completed.
        model: RunAPI's name of the model.
        variant: Its variant.
        action: "text_to_image", "remix_image", "remove_background" or "upscale_image".
        prompt: As it was given; empty for a task that another program made, and for a picture that was only finished.
        quoted_usd: The price of this task before it was made; None if nobody publishes it.
        charged_usd: What RunAPI says that it charged for this task; 0 for a failed task; None while that is not known.
        created_at: When it was written down here.
        completed_at: When RunAPI's result was seen.
        idempotency_key: The key that it was sent under.
        error: Why it failed, or what holds it up now.
        sandbox: Whether the sandbox drew it. Then it is no FLUX.2 image, and no money moved.
        joined: Whether it is that of an earlier identical call, whose end was reported to nobody: it is paid once.
        steps: The paid tasks before this one that led to its picture, first to last; empty if it was made by one task.
            `tasks.recent` lists each task by itself, without its steps.
    """

    id: str
    status: TaskStatus
    ended: bool
    images: tuple[Image, ...]
    model: str
    variant: str
    action: Action
    prompt: str
    quoted_usd: Decimal | None
    charged_usd: Decimal | None
    created_at: datetime
    completed_at: datetime | None
    idempotency_key: str
    error: str | None
    sandbox: bool
    joined: bool = False
    steps: tuple[Task, ...] = ()

    @property
    def total_charged_usd(self) -> Decimal | None:
        """What was charged for the picture: for this task and its steps. None while one of the charges is not known."""
        charges = [each.charged_usd for each in (*self.steps, self)]
        known = [usd for usd in charges if usd is not None]
        return sum(known, Decimal(0)) if len(known) == len(charges) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The price of one image of a model at a resolution.

    Attributes:
        model: RunAPI's name.
        variant: Its variant.
        action: "text_to_image", "remix_image", "remove_background" or "upscale_image".
        output_resolution: "1k" or "2k"; of a model that enlarges, its factor ("2", "4", "8"); "any" if no price depends
            on it.
        usd: For one image; None if nobody publishes it.
        source: "live", "cached" (live, up to 15 minutes old), "published", "charged" (the last image's), "invented" (by
            the sandbox), or "unknown".
        as_of: The source's own time stamp, unchanged; None if it has none.
    """

    model: str
    variant: str
    action: Action
    output_resolution: str
    usd: Decimal | None
    source: PriceSource
    as_of: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What images would cost. Nothing is reserved.

    Attributes:
        price: Of one image.
        count: How many images.
        usd: Of all of them; None if nobody publishes the price.
    """

    price: Price
    count: int
    usd: Decimal | None


def price(found: UnitPrice) -> Price:
    """Make the result about one price."""
    return Price(
        model=found.model.id,
        variant=found.model.variant,
        action=found.model.action,
        output_resolution=found.output_resolution,
        usd=found.usd,
        source=found.source,
        as_of=found.as_of,
    )


def tasks(outcome: Outcome) -> tuple[Task, ...]:
    """Make the results about the pictures of a call, in its order: of each the last task, with those before as its steps."""
    found = []
    for report in outcome.tasks:
        steps: tuple[Task, ...] = ()
        for each in report.steps:
            steps = (*steps, _task(each, steps, sandbox=outcome.sandbox, joined=outcome.joined))
        found.append(_task(report, steps, sandbox=outcome.sandbox, joined=outcome.joined))
    return tuple(found)


def named(outcome: Outcome, ids: Sequence[str]) -> tuple[Task, ...]:
    """Make the results about the tasks with these ids or keys, in this order, each once. They may be steps of others."""
    every = [each for task in tasks(outcome) for each in (*task.steps, task)]
    known = {name: each for each in every for name in (each.id, each.idempotency_key)}
    return tuple({known[ident].idempotency_key: known[ident] for ident in ids if ident in known}.values())


def _task(report: TaskReport, steps: tuple[Task, ...], *, sandbox: bool, joined: bool) -> Task:
    record = report.record
    held_up = report.trouble.message if report.trouble is not None and record.state.unfinished else None
    return Task(
        id=record.task_id or record.key,
        status=STATUSES[record.state],
        ended=not record.state.unfinished,
        images=_images(record),
        model=record.request.model,
        variant=record.request.variant,
        action=record.request.action,
        prompt=record.request.prompt,
        quoted_usd=record.quoted_usd,
        charged_usd=Decimal(0) if record.state in UNPAID else record.charged_usd,
        created_at=record.created_at,
        completed_at=record.completed_at,
        idempotency_key=record.key,
        error=report.error or held_up,
        sandbox=sandbox,
        joined=joined,
        steps=steps,
    )


def _images(record: TaskRecord) -> tuple[Image, ...]:
    done = record.completed_at
    expires_at = None if done is None else done + RESULT_LIFETIME
    # A later poll of a task may return fewer URLs than the task had images.
    both = zip_longest(record.image_urls, record.images)
    return tuple(_image(record, url, file, expires_at) for url, file in both)


def _image(record: TaskRecord, url: str | None, file: StoredImage | None, expires_at: datetime | None) -> Image:
    if file is None:
        return Image(url=url, expires_at=expires_at)
    mismatch = size_check.mismatch(record.request, file.width, file.height, file.transparent_share)
    return Image(
        path=Path(file.path),
        saved=None if file.saved is None else Path(file.saved),
        url=url,
        expires_at=expires_at,
        mime_type=file.mime_type,
        width=file.width,
        height=file.height,
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        transparent_share=file.transparent_share,
        matches_request=mismatch is None,
        mismatch=mismatch,
        note=" ".join(filter(None, (file.note, None if mismatch else size_check.squared(record.request)))) or None,
    )
