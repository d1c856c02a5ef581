"""How a command reports on tasks: the progress of the wait, then the files and the costs, and the exit code."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from flux2_mcp.cli import output, terminal_images
from flux2_mcp.cli.output import own_words, usd
from flux2_mcp.cli.terminal_images import Draw
from flux2_mcp.domain.lifecycle import STATUSES, State
from flux2_mcp.engine.waiting import Outcome, Progress
from flux2_mcp.errors import LOGIN, ServiceError, TaskFailedError, shortened
from flux2_mcp.server.results import task_words
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.results.task_words import MAX_SHOWN_URL_CHARS
from flux2_mcp.server.results.tasks import (
    GenerationResult,
    TaskResult,
)

BAR_COLUMNS = 20
FAILED = {State.FAILED, State.REJECTED, State.UNDELIVERED, State.UNKNOWN}
"""The states of tasks that have ended without an image on disk."""
COLORS = {"completed": "green", "failed": "red"}
LATER = "The next flux2-mcp that runs goes on with it: sends what was not taken yet, brings the files to disk."
DRAWN_NOTICE = f"SANDBOX: drawn on this machine, NOT FLUX.2 images. Real ones: {LOGIN}."
"""What the sandbox's notice is for a person who reads it below each image: one line of a terminal of 80 columns."""
ELLIPSIS = "..."
NO_CANCEL = "Stopped waiting. RunAPI has no cancel: what was sent runs on, and is charged when it completes."


def waiting_on(*ids: str) -> str:
    """Return the advice how to wait for tasks that have not ended."""
    return f"{output.PROGRAM} wait {' '.join(ids)} waits on, and costs nothing."


no_picture_option = click.option("--no-picture", is_flag=True, help="Show no pictures in the terminal.")
verbose_option = click.option("--verbose", is_flag=True, help="Print each image's URL and all its files.")


def tell(outcome: Outcome, again: str | None, *, as_json: bool, verbose: bool, env: Mapping[str, str] | None) -> int:
    """Print the outcome of a call, and return the exit code.

    Args:
        outcome: The outcome.
        again: A sentence that says what the same command would do if it ran again.
        as_json: Whether to print JSON instead of words.
        verbose: Whether the words have the URLs, too.
        env: The environment, to find out whether the terminal shows pictures; None: no pictures. A pipe gets none.
    """
    terminal = sys.stdout is not None and sys.stdout.isatty()
    draw = terminal_images.drawer(env) if terminal and env is not None else None
    # Each picture stands above its own file.
    width = shutil.get_terminal_size().columns if terminal and draw is None and not verbose else None
    words = partial(_words, remarks=task_results.remarks(outcome), again=again, draw=draw, verbose=verbose, width=width)
    output.tell(generation(outcome), words, as_json=as_json)
    return exit_code(outcome)


def generation(outcome: Outcome) -> GenerationResult:
    """Return a command's result. The sandbox's own URLs end with the command, so it has none."""
    return task_results.generation(outcome, shown=task_results.no_url if outcome.sandbox else task_results.all_of_it)


def exit_code(outcome: Outcome) -> int:
    """Return 0 if every image is on disk, or else the code of the first error, of a failed task, or of a time-out."""
    left = [report for report in outcome.tasks if report.record.state is not State.DELIVERED]
    troubles = [report.trouble for report in left if report.trouble is not None]
    if not left or troubles:
        return troubles[0].exit_code if troubles else 0
    ended = not any(report.record.state.unfinished for report in left)
    failed = any(report.record.state in {State.FAILED, State.REJECTED} for report in left)
    return TaskFailedError.exit_code if ended and failed else ServiceError.exit_code


class WaitLine:
    """Formats the progress of a wait in one short line.

    The bar never goes back, although the forecast of the remaining time may grow.
    """

    def __init__(self) -> None:
        self._share = 0.0

    def __call__(self, progress: Progress) -> str:
        """Return the line for this progress."""
        still = [state for state in progress.states if state.unfinished]
        ended, together = len(progress.states) - len(still), len(progress.states)
        failed = sum(state in FAILED for state in progress.states)
        alone = "fetching" if State.COMPLETED in still else STATUSES[progress.states[0]]
        what = alone if together == 1 else f"{ended - failed} of {together} done"
        what += f", {failed} failed" if failed and together > 1 else ""
        line = f"{what}, {progress.elapsed:.0f} s"
        left = None if progress.remaining is None else max(1, round(progress.remaining))
        share = 0.0 if left is None else progress.elapsed / (progress.elapsed + left)
        if together > 1:
            # Before the first forecast, too: what has ended is known.
            share = max(share, ended / together)
        self._share = max(self._share, share)
        drawn = f"{bar(self._share)}  {line}" if self._share or together > 1 else line
        return drawn if left is None else f"{drawn}, about {left} s left"


def bar(share: float) -> str:
    """Return a bar that is filled to this share (0 to 1), in characters that the terminal can show."""
    full = round(BAR_COLUMNS * share)
    drawn = "━" * full + "─" * (BAR_COLUMNS - full)
    try:
        drawn.encode(getattr(sys.stderr, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return "#" * full + "." * (BAR_COLUMNS - full)
    return drawn


def _words(
    result: GenerationResult,
    remarks: Sequence[str],
    again: str | None,
    draw: Draw | None,
    *,
    verbose: bool,
    width: int | None,
) -> str:
    """Format the result for a person: the files first, then the costs.

    Several images are a table where it fits into `width` columns. None: no table, as a pipe's reader wants whole paths.
    """
    rows = [] if width is None else _table(result.tasks, width)
    if rows:
        # The same remark on each of eight images is said once.
        lines = [*rows, *dict.fromkeys(line for task in result.tasks for line in _remarks(task))]
    else:
        lines = [
            line
            for task in result.tasks
            for line in (*_drawn(task, draw), *_files(task, verbose=verbose), *_remarks(task))
        ]
    lines.append(_sum(result))
    if result.next_action is not None:
        ids = result.next_action.arguments["task_ids"]
        lines += [LATER, waiting_on(*ids), *([again] if again else [])]
    if result.next_step is not None and result.status == "partial":
        lines.append(own_words(result.next_step))
    lines += [DRAWN_NOTICE] if result.sandbox else []
    return "\n".join([*lines, *map(own_words, remarks)])


def _drawn(task: TaskResult, draw: Draw | None) -> list[str]:
    shown = [
        draw(Path(image.path), image.width, image.height)
        for image in task.images
        if draw is not None and image.path and image.width and image.height
    ]
    return [output.steering(picture) for picture in shown if picture is not None]


def _files(task: TaskResult, *, verbose: bool) -> list[str]:
    """Return the file of each image of a task, and below it what it is."""
    lines = []
    for image in task.images:
        files = [file for file in (image.saved, image.path) if file]
        lines += files if verbose else files[:1]
        if files:
            size = f"{image.width} x {image.height} px, {(image.size_bytes or 0) / 1000:.0f} kB"
            lines.append(f"  {size}, {_price(task)}, task {task.task_id}")
        # An image that is not on disk can be had by its URL alone.
        if image.url and (verbose or not files):
            lines.append(f"  {shortened(image.url, MAX_SHOWN_URL_CHARS)}")
    return lines


def _table(tasks: Sequence[TaskResult], width: int) -> list[str]:
    """Return one line an image below the folder of all; nothing for one image, many folders, or where it does not fit.

    What the names have in common is said once, with the folder, where the whole names don't fit.
    """
    made = [(task, image) for task in tasks for image in task.images]
    files = [Path(file) for _, image in made if (file := image.saved or image.path)]
    if len(files) <= 1 or len({file.parent for file in files}) > 1:
        return []
    common = os.path.commonprefix([file.name for file in files])  # noqa: RUF071  # the characters are wanted
    for cut in (0, common.rfind("-") + 1):
        rest = ELLIPSIS if cut else ""
        cells = [
            (f"  {rest}{Path(file).name[cut:]}", f"{image.width} x {image.height}", _price(task), task.task_id)
            for task, image in made
            if (file := image.saved or image.path)
        ]
        rows = output.columns(cells)
        if max(map(len, rows)) <= width:
            return [f"{files[0].parent}{os.sep}{common[:cut]}{rest}", *rows]
    return []


def _remarks(task: TaskResult) -> list[str]:
    """Return what else there is to say of a task: of its sizes, of what was sent, and why there is no image."""
    lines = []
    for image in task.images:
        lines += [f"  Not what was asked for: {image.mismatch}"] if image.mismatch else []
        lines += [f"  {image.note}"] if image.note else []
    for step in task.steps or ():
        cost = "not charged" if step.status == "failed" else usd(step.charged_usd)
        kept = f": {step.path}" if step.path and task.status == "failed" else ""
        lines.append(f"  after {step.model}, {step.status}, {cost}{kept}")
    if not task.steps:
        lines += [f"  sent: {source.source} ({source.sent})" for source in task.sources]
    if task.error or not any(image.path for image in task.images):
        lines.append(f"{task.task_id}: {task.status}{f': {own_words(task.error)}' if task.error else ''}")
    return lines


def _price(task: TaskResult) -> str:
    """Return what a task cost, or what was quoted for it."""
    return usd(task.charged_usd) if task.charged_usd is not None else f"quoted {usd(task.quoted_usd)}"


def _sum(result: GenerationResult) -> str:
    """Return the last line on the tasks: how many stand how, and what they cost together."""
    lacking = any(task.status == "completed" and not any(image.path for image in task.images) for task in result.tasks)
    counts = Counter(task.status for task in result.tasks)
    stand = result.status if len(result.tasks) == 1 else ", ".join(f"{count} {name}" for name, count in counts.items())
    status = output.style(stand, fg="yellow" if lacking else COLORS.get(result.status, "yellow"))
    quoted = "" if result.quoted_usd is None else f", quoted {usd(result.quoted_usd)}"
    unknown = "not known yet" if result.next_action else "not told by RunAPI"
    charged = task_words.cost(
        result.charged_usd, sandbox=result.sandbox, unknown=unknown, uncharged=task_words.uncharged(result)
    )
    return f"{status}{' but not on disk' if lacking else ''}{quoted}, {charged}"
