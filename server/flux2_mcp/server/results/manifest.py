"""A project's plan and what became of it, as typed results, and the same in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from flux2_mcp.domain import finishing
from flux2_mcp.domain.budget import dollars
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.domain.manifest.plan import Plan, PlannedImage, Standing
from flux2_mcp.engine.applied import GOOD, Applied, AppliedImage
from flux2_mcp.engine.applied import Result as Became
from flux2_mcp.engine.manifest_quotes import ManifestQuote, QuotedImage
from flux2_mcp.errors import Wording, together
from flux2_mcp.server.results.tasks import SANDBOX_NOTICE, Result, Words, number, trouble

MAX_IMAGES = 50
"""The maximum number of pictures in a tool's answer; sums are over all."""
KEPT = "edited by hand, so it is left as it is; overwrite replaces it"
CHANGES = {"sandbox": "drawn by the sandbox, not by FLUX.2"}
"""What a change is called, where its name does not say it."""


class PlannedResult(Result):
    """One picture. `standing` is new, changed, missing, edited, moved, derive or unnamed; `usd` is 0 for what is not paid.

    `changed` has what changed of its request, `derive` the files that are made from it on this machine for nothing.
    """

    path: str
    standing: Standing
    changed: list[str] | None = None
    moved_from: str | None = None
    waits_for: list[str] | None = None
    derive: list[str] | None = None
    usd: float | None = None
    kept: bool = False


class CapResult(Result):
    """A cap that is set, and what is left of it."""

    name: str
    cap_usd: float
    left_usd: float


class PlanResult(Result):
    """What is to do so that a project's pictures are those of its manifest. Nothing was made.

    `images` has those about which something is to do, `current` how many are as they should be. `usd` is the price of
    all, null if one has no published price; absent where nobody was asked (plan --check).
    """

    manifest: str
    counts: dict[Standing, int]
    current: int
    images: list[PlannedResult]
    more: int = 0
    usd: float | None = None
    unpriced: int = 0
    balance_usd: float | None = None
    caps: list[CapResult] | None = None
    sandbox: bool = False
    notice: Words | None = None


class AppliedResult(Result):
    """What became of one picture; `task_id` is that of its task in this run."""

    path: str
    result: Became
    task_id: str | None = None
    charged_usd: float | None = None
    error: Words | None = None


class ApplyResult(Result):
    """What became of a plan. `open` tasks run on; `left` is how many pictures are not yet as they should be."""

    manifest: str
    done: bool
    images: list[AppliedResult]
    more: int = 0
    current: int
    left: int
    charged_usd: float | None = None
    sandbox: bool = False
    next_step: Words | None = None


def plan(found: ManifestQuote | Plan, *, most: int | None = None) -> PlanResult:
    """Make the result of a plan, with its price if there is one.

    Args:
        found: The plan with its price, or alone.
        most: The maximum number of pictures.
    """
    quote = None if isinstance(found, Plan) else found
    whole = found if isinstance(found, Plan) else found.plan
    quoted: Sequence[QuotedImage | PlannedImage] = whole.images if quote is None else quote.images
    images = [_planned(each) for each in quoted]
    todo = [each for each in images if each.standing is not Standing.CURRENT]
    counts: dict[Standing, int] = {}
    for each in todo:
        counts[each.standing] = counts.get(each.standing, 0) + 1
    shown = todo if most is None else todo[:most]
    result = PlanResult(
        manifest=whole.manifest.name,
        counts={standing: counts[standing] for standing in Standing if standing in counts},
        current=len(images) - len(todo),
        images=shown,
        more=len(todo) - len(shown),
    )
    return result if quote is None else result.model_copy(update=_money(quote))


def _money(quote: ManifestQuote) -> dict[str, object]:
    notices = [
        "SANDBOX: no money moves." if quote.sandbox else None,
        quote.note,
        None if quote.trouble is None else Wording("The balance could not be read: {why}", why=trouble(quote.trouble)),
    ]
    caps = [CapResult(name=cap.name, cap_usd=float(cap.cap_usd), left_usd=float(cap.left_usd)) for cap in quote.caps]
    return {
        "usd": number(quote.usd),
        "unpriced": quote.unknown,
        "balance_usd": None if quote.balance is None else number(quote.balance.balance_usd),
        "caps": caps or None,
        "sandbox": quote.sandbox,
        "notice": together(notices) or None,
    }


def _planned(each: QuotedImage | PlannedImage) -> PlannedResult:
    quoted = each if isinstance(each, QuotedImage) else None
    planned = each.planned if isinstance(each, QuotedImage) else each
    kept = quoted.kept if quoted is not None else planned.edited or bool(planned.edited_files)
    return PlannedResult(
        path=planned.path,
        standing=planned.standing,
        changed=list(planned.changed) or None,
        moved_from=planned.moved_from,
        waits_for=list(planned.waits_for) or None,
        derive=list(planned.derive) or None,
        usd=None if quoted is None else number(Decimal(0) if kept else quoted.usd),
        kept=kept,
    )


def about(image: PlannedResult) -> str:
    """Describe what is to do about a picture, in a few words."""
    says = {
        Standing.NEW: "",
        Standing.CHANGED: ", ".join(CHANGES.get(each, each) for each in image.changed or ()),
        Standing.MISSING: "its file is gone" if image.moved_from is None else f"was {image.moved_from}, which is gone",
        Standing.EDITED: "",
        Standing.MOVED: f"was {image.moved_from}",
        Standing.DERIVE: "",
        Standing.UNNAMED: "forgotten; its file stays",
        Standing.CURRENT: "",
    }[image.standing]
    files = len(image.derive or ())
    more = f"{files} {'file' if files == 1 else 'files'} from it" if files else ""
    waits = f"from {', '.join(image.waits_for)}" if image.waits_for else ""
    return "; ".join(filter(None, [says, waits, more, KEPT if image.kept else ""]))


def counted(counts: Mapping[Standing, int]) -> str:
    """Return how many pictures stand how: "6 changed, 1 missing"."""
    return ", ".join(f"{count} {standing}" for standing, count in counts.items())


def price(result: PlanResult) -> str:
    """Return what a plan costs, in words."""
    if result.usd is None and result.unpriced:
        return f"{result.unpriced} have no published price"
    return "nothing is paid" if not result.usd else dollars(Decimal(str(result.usd)))


def plan_words(result: PlanResult) -> str:
    """Describe a plan in words, a line for each picture that is not as it should be."""
    lines = [
        f"{each.path}: {', '.join(filter(None, [each.standing, about(each), _cost(each)]))}" for each in result.images
    ]
    if result.more:
        lines.append(f"and {result.more} more")
    if not result.images:
        return f"{result.manifest}: nothing to do, {result.current} pictures are as it says."
    lines.append(f"{result.manifest}: {counted(result.counts)}, {result.current} current; {price(result)}")
    if result.balance_usd is not None:
        lines.append(f"balance: {dollars(Decimal(str(result.balance_usd)))}")
    lines += [f"left of {cap.name}: {dollars(Decimal(str(cap.left_usd)))}" for cap in result.caps or ()]
    return "\n".join([*lines, *filter(None, [result.notice])])


def _cost(image: PlannedResult) -> str:
    return dollars(Decimal(str(image.usd))) if image.usd else ""


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
        charged_usd=number(sum(charged, Decimal(0))) if charged else None,
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
        task_id=None if record is None else record.task_id or record.key,
        charged_usd=number(_charged(each)),
        error=None if each.error is None else each.error.message,
    )


def _charged(each: AppliedImage) -> Decimal | None:
    """Return what this run was charged for a picture, all its steps together."""
    if each.result is not Became.MADE or each.report is None:
        return None
    records = [report.record for report in (*each.report.steps, each.report)]
    known = [record.charged_usd for record in records if record.state is State.DELIVERED]
    return None if None in known else sum((usd for usd in known if usd is not None), Decimal(0))


def apply_words(result: ApplyResult) -> str:
    """Describe a run in words."""
    lines = [
        ", ".join(filter(None, [f"{each.path}: {each.result}", each.task_id, each.error])) for each in result.images
    ]
    if result.more:
        lines.append(f"and {result.more} more")
    lines.append(f"{result.manifest}: {result.left} left to do, {result.current} were current")
    if result.next_step is not None:
        lines.append(f"Next: {result.next_step}")
    return "\n".join([*lines, *([SANDBOX_NOTICE] if result.sandbox else [])])


def models(image: QuotedImage) -> str:
    """Return what makes a picture: its models, and their resolution or factor."""
    return ", ".join(finishing.labels(image.steps))
