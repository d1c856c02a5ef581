"""What became of a plan: each picture, its task, and what went wrong."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from flux2_mcp.engine.manifest_quotes import ManifestQuote
from flux2_mcp.engine.waiting import Outcome, TaskReport
from flux2_mcp.errors import Flux2Error
from flux2_mcp.journal.records import TaskRecord

PATIENCE_SECONDS = 86_400.0
"""How long a run waits for a task: RunAPI knows the key of a create for as long."""


class Result(StrEnum):
    """What became of a picture.

    MADE: it was asked for, and is there. RESTORED: it was paid before, and is there again. MOVED: it has its new name.
    DERIVED: files were made from it. FORGOTTEN: the lock names it no more. CURRENT: nothing was to do. KEPT: a file that
    was edited by hand is in its place. WAITING: a picture that it is made from is not there. OPEN: its task runs on.
    FAILED: it could not be made.
    """

    MADE = "made"
    RESTORED = "restored"
    MOVED = "moved"
    DERIVED = "derived"
    FORGOTTEN = "forgotten"
    CURRENT = "current"
    KEPT = "kept"
    WAITING = "waiting"
    OPEN = "open"
    FAILED = "failed"


GOOD = frozenset({Result.MADE, Result.RESTORED, Result.MOVED, Result.DERIVED, Result.FORGOTTEN, Result.CURRENT})
"""The results after which nothing is left to do for a picture."""


class AppliedImage(Struct, frozen=True, kw_only=True):
    """What became of one picture: its task, if it had one in this run, and what went wrong. `ident` is the id of a task under way.

    `goes_on`: the task of an earlier run, on whose picture this one went on.
    """

    path: str
    result: Result
    report: TaskReport | None = None
    ident: str | None = None
    error: Flux2Error | None = None
    goes_on: TaskRecord | None = None


class Applied(Struct, frozen=True, kw_only=True):
    """What became of a run so far: its quote, each picture in the quote's order, and the tasks."""

    quote: ManifestQuote
    images: tuple[AppliedImage, ...]
    done: bool
    sandbox: bool

    @property
    def tasks(self) -> Outcome:
        """The tasks of the run."""
        return Outcome(
            tasks=tuple(each.report for each in self.images if each.report is not None),
            sandbox=self.sandbox,
            nothing="No task was needed, so nothing was paid." if self.done else "No task is there yet.",
        )
