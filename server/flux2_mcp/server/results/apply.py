"""What became of a project's plan as a typed result, and the same in words. Plain dataclasses, as in `plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.engine.applied import GOOD, Applied, AppliedImage
from flux2_mcp.engine.applied import Result as Became
from flux2_mcp.errors import Wording


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedResult:
    """What became of one picture; `task_id` is that of its task in this run.

    `waiting`: it is made from another picture. `open`: its task runs on. `kept`: a file that was edited by hand was left.
    """

    path: str
    result: Became
    task_id: str | None = None
    charged_usd: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyResult:
    """What became of a plan. `open` tasks run on; `left` is how many pictures are not yet as they should be."""

    manifest: str
    done: bool
    images: list[AppliedResult]
    more: int = 0
    current: int
    left: int
    charged_usd: float | None = None
    sandbox: bool = False
    next_step: str | None = None


def applied(found: Applied, *, most: int | None = None) -> ApplyResult:
    """Make the result of a run."""
    images = [each for each in found.images if each.result is not Became.CURRENT]
    shown = images if most is None else sorted(images, key=lambda each: each.result in GOOD)[:most]
    charged = [usd for each in images if (usd := _charged(each)) is not None]
    left = [each for each in images if each.result not in GOOD]
    return ApplyResult(
        manifest=found.quote.plan.manifest.name,
        done=found.done,
        images=[_applied(each) for each in shown],
        more=len(images) - len(shown),
        current=len(found.images) - len(images),
        left=len(left),
        charged_usd=_number(sum(charged, Decimal(0))) if charged else None,
        sandbox=found.sandbox,
        next_step=_next_step(left),
    )


def _next_step(left: Sequence[AppliedImage]) -> str | None:
    """Return what to do about the pictures that are not as they should be; None if there are none."""
    results = {each.result for each in left}
    if Became.OPEN in results:
        return Wording("{name:Call again} later: it joins what runs, and pays nothing twice.")
    if Became.FAILED in results:
        return Wording("Read why, mend it, and {name:call again}: what is there is not made or paid again.")
    if Became.KEPT in results:
        return Wording(
            "{name:overwrite: true} replaces what was edited by hand; flux2-mcp adopt FILE takes it as it is."
        )
    return None


def _applied(each: AppliedImage) -> AppliedResult:
    record = None if each.report is None else each.report.record
    return AppliedResult(
        path=each.path,
        result=each.result,
        task_id=each.ident if record is None else record.task_id or record.key,
        charged_usd=_number(_charged(each)),
        error=None if each.error is None else each.error.message,
    )


def _charged(each: AppliedImage) -> Decimal | None:
    """Return what this run was charged for a picture, all its steps together."""
    if each.result is Became.RESTORED or each.report is None:
        return None
    records = [report.record for report in (*each.report.steps, each.report)]
    if each.goes_on is not None:  # an earlier run has paid for it, and for what led to it
        keys = [record.key for record in records]
        records = records[keys.index(each.goes_on.key) + 1 :] if each.goes_on.key in keys else records
    known = [record.charged_usd for record in records if record.state is State.DELIVERED]
    return None if None in known else sum((usd for usd in known if usd is not None), Decimal(0))


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def apply_words(result: ApplyResult) -> str:
    """Describe a run in words."""
    lines = [
        ", ".join(filter(None, [f"{each.path}: {each.result}", each.task_id, each.error])) for each in result.images
    ]
    if result.more:
        lines.append(f"and {result.more} more")
    lines.append(f"{result.manifest}: {result.left} left to do, {result.current} were current")
    return "\n".join(lines)
