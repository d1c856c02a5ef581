"""The results about tasks: typed, and the same in words. The tools and the command line use the same results.

Some hosts drop the words, others drop the data (`hosts.md`, section 1), so both contain all that matters. What is not
known is left out of the data that a tool answers with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import anyio.to_thread
from msgspec.structs import replace
from pydantic import BaseModel, ConfigDict, SkipValidation

from flux2_mcp.domain import pricing
from flux2_mcp.domain.lifecycle import RESULT_LIFETIME, STATUSES, State, TaskStatus
from flux2_mcp.domain.models import SourceImage, StoredImage
from flux2_mcp.engine.applied import GOOD, Applied
from flux2_mcp.engine.waiting import MAX_IDS, Outcome, TaskReport, with_steps
from flux2_mcp.errors import GET_A_KEY, Flux2Error, SettingsError, TaskFailedError, Wording, shortened, together
from flux2_mcp.images import size_check
from flux2_mcp.journal.records import TaskMatches, TaskRecord
from flux2_mcp.server.results import apply as apply_results
from flux2_mcp.server.results.apply import ApplyResult

SANDBOX_NOTICE = (
    "SANDBOX: drawn on this machine to try things out. These are NOT FLUX.2 images and no money moved."
    f" For real ones: {GET_A_KEY}."
)
JOINED_NOTICE = "An identical call was made before and its result not yet seen, so this is that one: it is paid once."
REPEATED_NOTICE = (
    "The user's yes that came with this call was used before: these are its tasks, and nothing new was made or paid. For a"
    " new image call generate again without that answer (without inputResponses and requestState): the user is asked again."
)

MAX_PROMPT_CHARS = 160
"""The maximum length of a prompt in the data."""
GO_ON = (
    "The pictures of the steps before are kept, at the path of each. {{name:Call again}} with the same arguments, but"
    " {count} and without {{name:idempotency_key}}: only the missing steps are made and paid."
)
MAX_PICTURES, MAX_PICTURE_TASKS = 50, 8
"""The maximum number of a manifest's pictures, and of their tasks, in an answer."""
_STOPPED = frozenset({State.FAILED, State.REJECTED})
NO_URL: Final = {"url": None, "expires_at": None}
"""Of an image that is answered without its URL: a signed URL is long and dies in a week."""


Words: TypeAlias = Annotated[str, SkipValidation]
"""A text of ours. It is not validated, because pydantic would turn a `Wording` into a plain string."""

GenerationStatus = Literal["completed", "processing", "partial", "failed", "unknown", "none"]


def states(status: TaskStatus) -> tuple[State, ...]:
    """Return the states of the journal that a status stands for."""
    return tuple(state for state, name in STATUSES.items() if name == status)


class Result(BaseModel):
    """Base of what tools answer. Amounts are USD, times ISO 8601 UTC, sizes pixels and bytes."""

    model_config = ConfigDict(frozen=True)


class ImageResult(Result):
    """One image. `path` is where it is kept, `saved` where save_to put a copy.

    Only while no file is there, `url` has its address, which dies at `expires_at`. `matches_request` is whether what was measured is what was asked for, `mismatch` why it is not. `transparent_share` is 0 to 1.
    """

    url: str | None = None
    expires_at: str | None = None
    path: str | None = None
    saved: str | None = None
    mime_type: str | None = None
    width: int | None = None
    height: int | None = None
    size_bytes: int | None = None
    transparent_share: float | None = None
    matches_request: bool | None = None
    mismatch: str | None = None
    note: str | None = None


class SourceResult(Result):
    """A source image, and what of it left this machine."""

    source: str
    sent: str


class StepResult(Result):
    """A task whose picture the next step of the same call works on. `path` is where its picture is kept."""

    task_id: str
    status: TaskStatus
    model: str
    quoted_usd: float | None = None
    charged_usd: float | None = None
    path: str | None = None
    error: Words | None = None


class TaskResult(Result):
    """One task. `task_id` is RunAPI's, or our own handle while RunAPI has not answered; check_task takes both.

    `prompt` is shortened to its first 160 characters. `steps` are the paid tasks before this one that led to its picture.
    """

    task_id: str
    status: TaskStatus
    prompt: str | None = None
    variant: str
    model: str
    action: str
    images: list[ImageResult]
    sources: list[SourceResult]
    steps: list[StepResult] | None = None
    quoted_usd: float | None
    charged_usd: float | None
    created_at: str
    completed_at: str | None
    error: Words | None


class NextAction(Result):
    """The call to make next."""

    tool: str
    arguments: dict[str, Any]


class MatchedResult(Result):
    """All tasks that match, of which `shown` are listed. `before` is check_task's argument for the next older ones.

    `uncharged` are those whose charge is not known, so that `charged_usd` is not all.
    """

    count: int
    shown: int
    by_status: dict[TaskStatus, int]
    quoted_usd: float | None = None
    charged_usd: float | None = None
    uncharged: int = 0
    before: str | None = None


class GenerationResult(Result):
    """What became of a call, task by task. In a list, status and amounts are those of all tasks that match.

    `manifest` has each picture of a manifest that the call made; `tasks` are the first of its tasks.
    """

    status: GenerationStatus
    sandbox: bool
    notice: Words | None
    tasks: list[TaskResult]
    matched: MatchedResult | None = None
    quoted_usd: float | None
    charged_usd: float | None
    next_action: NextAction | None
    next_step: Words | None = None
    manifest: ApplyResult | None = None


async def files_there(records: Iterable[TaskRecord]) -> frozenset[str]:
    """Return the places of these tasks' images where a file is now.

    A thread looks: a folder of the user may be on a disk that hangs, and the other calls have to go on.
    """
    images = [image for record in records for image in record.images]
    places = [place for image in images for place in (image.saved, image.path) if place is not None]

    def look() -> frozenset[str]:
        return frozenset(place for place in places if Path(place).is_file())

    return await anyio.to_thread.run_sync(look, abandon_on_cancel=True)


Shown: TypeAlias = Callable[[TaskRecord, int, ImageResult], ImageResult]
"""What is answered of an image: its task, its number in it, counted from 0, and all that is known of it."""


def all_of_it(_: TaskRecord, __: int, image: ImageResult) -> ImageResult:
    """Show all that is known."""
    return image


def no_url(_: TaskRecord, __: int, image: ImageResult) -> ImageResult:
    """Show all but the URL."""
    return image.model_copy(update=NO_URL)


def without_file(there: frozenset[str]) -> Shown:
    """Return what shows the URL of those images alone that have none of the files `there`: only then it is of use."""
    return lambda record, number, image: (
        image if there.isdisjoint((image.saved, image.path)) else no_url(record, number, image)
    )


Link: TypeAlias = Callable[[TaskRecord, int], tuple[str, datetime]]
"""Makes a link to an image of a task, by its number, which opens for whoever has it until the time that is returned."""


def shown_to(link: Link | None, there: frozenset[str]) -> Shown:
    """Return what shows images to a caller: on another machine, where there is a `link`, or on this one, where files are `there`."""
    return without_file(there) if link is None else linked(link)


def linked(link: Link) -> Shown:
    """Return what shows images to a caller on another machine: by a link, and without the paths of this one."""

    def shown(record: TaskRecord, number: int, image: ImageResult) -> ImageResult:
        if image.path is None:
            return image
        url, expires_at = link(record, number)
        return image.model_copy(update={"url": url, "expires_at": stamp(expires_at), "path": None, "saved": None})

    return shown


def generation(outcome: Outcome, *, shown: Shown = all_of_it) -> GenerationResult:
    """Make the result of `generate` and `check_task`.

    Args:
        outcome: The outcome of the call.
        shown: What to answer of an image.
    """
    tasks = [task(report, shown=shown) for report in outcome.tasks]
    # A picture that can't be fetched, or of which a step can't, is left out, because another check is useless. Its error
    # says what to do.
    every = with_steps(outcome.tasks)
    stuck = {report.record.key for report in outcome.tasks if any(_lost(each.record) for each in report.steps)}
    unended = {
        record.task_id or record.key: None
        for record in (*(report.record for report in outcome.tasks), *outcome.unended)
        if record.state.unfinished and not _lost(record) and record.key not in stuck
    }
    open_ids = list(unended)[:MAX_IDS]
    matched = None if outcome.matched is None else _matched(outcome.matched, outcome)
    statuses = [STATUSES[report.record.state] for report in every] if matched is None else list(matched.by_status)
    status = _overall(statuses)
    quoted, charged = (
        (
            _total(report.record.quoted_usd for report in every),
            _total(_charged(report.record) for report in every),
        )
        if matched is None
        else (matched.quoted_usd, matched.charged_usd)
    )
    return GenerationResult(
        status=status,
        sandbox=outcome.sandbox,
        notice=together([SANDBOX_NOTICE if outcome.sandbox else None, *remarks(outcome)]) or None,
        tasks=tasks,
        matched=matched,
        quoted_usd=quoted,
        charged_usd=charged,
        next_action=NextAction(tool="check_task", arguments={"task_ids": open_ids}) if open_ids else None,
        next_step=_next_step(outcome, status) if matched is None else None,
    )


def project(found: Applied, *, shown: Shown) -> GenerationResult:
    """Make the result of `generate` for a manifest.

    Args:
        found: What became of it so far.
        shown: As in `generation`.
    """
    outcome = found.tasks
    made = apply_results.applied(found, most=MAX_PICTURES)
    result = generation(replace(outcome, tasks=outcome.tasks[:MAX_PICTURE_TASKS]), shown=shown)
    ids = [each.task_id for each in made.images if each.result == "open" and each.task_id is not None]
    status: GenerationStatus = "completed" if not made.left else "partial"
    if not found.done:
        status = "processing"
    elif made.left and not any(each.result in GOOD for each in found.images):
        status = "failed"
    update = {
        "status": status,
        "quoted_usd": number(found.quote.usd),
        "charged_usd": made.charged_usd,
        "next_action": NextAction(tool="check_task", arguments={"task_ids": ids[:MAX_IDS]}) if ids else None,
        "next_step": made.next_step,
        "manifest": made,
    }
    return result.model_copy(update=update)


def _lost(record: TaskRecord) -> bool:
    """Whether RunAPI made an image that could not be fetched so far."""
    return record.state is State.COMPLETED and record.error is not None


def _next_step(outcome: Outcome, status: GenerationStatus) -> str | None:
    """Return what to do about failed tasks; None if no task of this call failed, or a later step may still come."""
    stopped = [report for report in outcome.tasks if report.record.state in _STOPPED]
    kept = any(step.record.state is State.DELIVERED for report in stopped for step in report.steps)
    if kept and status == "partial":
        # A picture that is complete would be made again, and a key would stand for the tasks that failed.
        alike = len({report.record.request.prompt for report in stopped}) == 1
        return Wording(GO_ON.format(count=f"count {len(stopped)}" if alike else "count 1 for each"))
    return TaskFailedError.default_next if status == "failed" else None


def _matched(matches: TaskMatches, outcome: Outcome) -> MatchedResult:
    by_status: Counter[TaskStatus] = Counter()
    for state, count in matches.states.items():
        by_status[STATUSES[state]] += count
    return MatchedResult(
        count=matches.tasks,
        shown=len(outcome.tasks),
        by_status=dict(by_status.most_common()),
        quoted_usd=number(matches.quoted_usd),
        charged_usd=number(matches.charged_usd),
        uncharged=matches.uncharged,
        before=outcome.before,
    )


def remarks(outcome: Outcome) -> list[str]:
    """Return what there is to say of all tasks together, beside that the sandbox made them, in sentences."""
    listed = {report.record.request.model for report in outcome.tasks}
    models = listed if outcome.matched is None else outcome.matched.models
    return list(
        filter(
            None,
            [
                pricing.invented(pricing.unpublished(models)) if outcome.sandbox else None,
                JOINED_NOTICE if outcome.joined else None,
                REPEATED_NOTICE if outcome.repeated else None,
                None if outcome.tasks else outcome.nothing,
                outcome.notice,
            ],
        )
    )


def none_matches(filters: Mapping[str, str]) -> str:
    """Return the sentence for a list that is empty because of its filters: their values by their names."""
    return f"No task matches {', '.join(f'{name} {shortened(value)!r}' for name, value in filters.items())}."


def task(report: TaskReport, *, shown: Shown = all_of_it) -> TaskResult:
    """Make the result of one task. `shown` as in `generation`."""
    record = report.record
    error = report.error or (
        trouble(report.trouble) if report.trouble is not None and record.state.unfinished else None
    )
    return TaskResult(
        task_id=record.task_id or record.key,
        status=STATUSES[record.state],
        prompt=shortened(" ".join(record.request.prompt.split()), MAX_PROMPT_CHARS) or None,
        variant=record.request.variant,
        model=record.request.model,
        action=record.request.action,
        images=[shown(record, number, image) for number, image in enumerate(_images(record))],
        sources=[SourceResult(source=source.given, sent=_sent(source)) for source in record.request.sources],
        steps=[_step(each, shown) for each in report.steps] or None,
        quoted_usd=number(record.quoted_usd),
        charged_usd=number(_charged(record)),
        created_at=stamp(record.created_at),
        completed_at=None if record.completed_at is None else stamp(record.completed_at),
        error=error,
    )


def _step(report: TaskReport, shown: Shown) -> StepResult:
    record = report.record
    first = next((shown(record, 0, image) for image in _images(record)[:1]), None)
    held_up = trouble(report.trouble) if report.trouble is not None and record.state.unfinished else None
    return StepResult(
        task_id=record.task_id or record.key,
        status=STATUSES[record.state],
        model=record.request.model,
        quoted_usd=number(record.quoted_usd),
        charged_usd=number(_charged(record)),
        path=None if first is None else first.path,
        error=report.error or held_up,
    )


def trouble(error: Flux2Error) -> str:
    """Return the error that holds up a task; a settings error, which does not end without help, with its next step."""
    return together([error.message, error.next_step]) if isinstance(error, SettingsError) else error.message


def requests(outcome: Outcome) -> dict[str, dict[str, Any]]:
    """Return the arguments of each task, by id, for the gallery, which has no other source for them."""
    shown = ("prompt", "aspect_ratio", "output_resolution", "enable_safety_checker")
    return {
        record.task_id or record.key: {name: getattr(record.request, name) for name in shown}
        | {
            "source_images": [source.given for source in record.request.sources]
            or list(record.request.source_image_urls),
            "workspace": record.workspace,
        }
        for record in (report.record for report in outcome.tasks)
    }


def _sent(source: SourceImage) -> str:
    if source.uploaded_bytes is None:
        return "its address"
    return f"uploaded, pixels only, {source.width}x{source.height}, {source.uploaded_bytes / 1000:.0f} kB, for an hour"


def _charged(record: TaskRecord) -> Decimal | None:
    """Return what a task cost, in USD; None while it is unknown. A failed or refused task is never charged."""
    return Decimal(0) if record.state in {State.FAILED, State.REJECTED} else record.charged_usd


def _images(record: TaskRecord) -> list[ImageResult]:
    finished = record.completed_at if record.image_urls or record.images else None
    expires_at = None if finished is None else stamp(finished + RESULT_LIFETIME)
    # A later poll of a task may return fewer URLs than the task had images.
    both = zip_longest(record.image_urls, record.images)
    return [_image(record, url, file, expires_at) for url, file in both]


def _image(record: TaskRecord, url: str | None, file: StoredImage | None, expires_at: str | None) -> ImageResult:
    if file is None:
        return ImageResult(url=url, expires_at=expires_at)
    mismatch = size_check.mismatch(record.request, file.width, file.height, file.transparent_share)
    return ImageResult(
        url=url,
        expires_at=expires_at,
        path=file.path,
        saved=file.saved,
        mime_type=file.mime_type,
        width=file.width,
        height=file.height,
        size_bytes=file.size_bytes,
        transparent_share=file.transparent_share,
        matches_request=mismatch is None,
        mismatch=mismatch,
        note=" ".join(filter(None, (file.note, None if mismatch else size_check.squared(record.request)))) or None,
    )


def _overall(statuses: Sequence[TaskStatus]) -> GenerationStatus:
    found = set(statuses)
    if found & {"submitting", "pending", "processing"}:
        return "processing"
    if "completed" in found:
        return "completed" if found == {"completed"} else "partial"
    return "unknown" if "unknown" in found else "failed" if found else "none"


def _total(amounts: Any) -> float | None:  # noqa: ANN401  # an iterable of amounts, some unknown
    known = [amount for amount in amounts if amount is not None]
    return number(sum(known, Decimal(0))) if known else None


def number(amount: Decimal | None) -> float | None:
    """Return USD as a JSON number; amounts are short decimals, so a float is precise enough."""
    return None if amount is None else float(amount)


def stamp(at: datetime) -> str:
    """Format a time as ISO 8601 in UTC, to the second."""
    return at.replace(microsecond=0).isoformat().replace("+00:00", "Z")
