"""How a command reports on tasks: the progress of the wait, then the files and the costs, and the exit code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import click

from flux2_mcp.cli import output, terminal_images
from flux2_mcp.cli.output import own_words, usd
from flux2_mcp.cli.terminal_images import Draw
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.waiting import Outcome, Progress
from flux2_mcp.errors import ServiceError, TaskFailedError, shortened
from flux2_mcp.server.results import tasks as task_results
from flux2_mcp.server.results.tasks import MAX_SHOWN_URL_CHARS, STATUSES, GenerationResult, TaskResult

BAR_COLUMNS = 20
COLORS = {"completed": "green", "failed": "red"}
LATER = "The next flux2-mcp that runs goes on with it: sends what was not taken yet, brings the files to disk."
NO_CANCEL = "Stopped waiting. RunAPI has no cancel: what was sent runs on, and is charged when it completes."


def waiting_on(*ids: str) -> str:
    """Return the advice how to wait for tasks that have not ended."""
    return f"{output.PROGRAM} wait {' '.join(ids)} waits on, and costs nothing."


no_picture_option = click.option("--no-picture", is_flag=True, help="Show no pictures in the terminal.")


def tell(outcome: Outcome, again: str | None, *, as_json: bool, env: Mapping[str, str] | None) -> int:
    """Print the outcome of a call, and return the exit code.

    Args:
        outcome: The outcome.
        again: A sentence that says what the same command would do if it ran again.
        as_json: Whether to print JSON instead of words.
        env: The environment, to find out whether the terminal shows pictures; None: no pictures. A pipe gets none.
    """
    terminal = sys.stdout is not None and sys.stdout.isatty()
    draw = terminal_images.drawer(env) if terminal and env is not None else None
    output.tell(task_results.generation(outcome), partial(_words, again=again, draw=draw), as_json=as_json)
    return exit_code(outcome)


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
        done, together = len(progress.states) - len(still), len(progress.states)
        alone = "fetching" if State.COMPLETED in still else STATUSES[progress.states[0]]
        what = alone if together == 1 else f"{done} of {together} done"
        line = f"{what}, {progress.elapsed:.0f} s"
        if progress.remaining is None:
            return line
        left = max(1, round(progress.remaining))
        self._share = max(self._share, progress.elapsed / (progress.elapsed + left))
        return f"{bar(self._share)}  {line}, about {left} s left"


def bar(share: float) -> str:
    """Return a bar that is filled to this share (0 to 1), in characters that the terminal can show."""
    full = round(BAR_COLUMNS * share)
    drawn = "━" * full + "─" * (BAR_COLUMNS - full)
    try:
        drawn.encode(getattr(sys.stderr, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return "#" * full + "." * (BAR_COLUMNS - full)
    return drawn


def _words(result: GenerationResult, again: str | None, draw: Draw | None) -> str:
    """Format the result for a terminal: the files first, then their sources and costs."""
    lines = [line for task in result.tasks for line in [*_drawn(task, draw), *_task(task)]]
    quoted = "" if result.quoted_usd is None else f", quoted {usd(result.quoted_usd)}"
    unknown = "not known yet" if result.next_action else "not told by RunAPI"
    charged = unknown if result.charged_usd is None else usd(result.charged_usd)
    lacking = any(task.status == "completed" and not any(image.path for image in task.images) for task in result.tasks)
    status = click.style(result.status, fg="yellow" if lacking else COLORS.get(result.status, "yellow"))
    lines.append(f"{status}{' but not on disk' if lacking else ''}{quoted}, charged {charged}")
    if result.next_action is not None:
        ids = result.next_action.arguments["task_ids"]
        lines += [LATER, waiting_on(*ids), *([again] if again else [])]
    if result.notice:
        lines.append(own_words(result.notice))
    return "\n".join(lines)


def _drawn(task: TaskResult, draw: Draw | None) -> list[str]:
    shown = [
        draw(Path(image.path), image.width, image.height)
        for image in task.images
        if draw is not None and image.path and image.width and image.height
    ]
    return [picture for picture in shown if picture is not None]


def _task(task: TaskResult) -> list[str]:
    lines = []
    for image in task.images:
        size = f"  {image.width} x {image.height} px, {(image.size_bytes or 0) / 1000:.0f} kB"
        lines += [each for each in (image.saved, image.path) if each is not None]
        lines += [size] if image.path else []
        lines += [f"  {shortened(str(image.url), MAX_SHOWN_URL_CHARS)}"]
        lines += [f"  Not what was asked for: {image.mismatch}"] if image.mismatch else []
        lines += [f"  {image.note}"] if image.note else []
    lines += [f"  sent: {source.source} ({source.sent})" for source in task.sources]
    if task.error or not any(image.path for image in task.images):
        lines.append(f"{task.task_id}: {task.status}{f': {own_words(task.error)}' if task.error else ''}")
    return lines
