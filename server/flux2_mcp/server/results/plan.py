"""A project's plan as a typed result, and the same in words.

The results are plain dataclasses, and nothing heavy is imported: a plan is asked for before each commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING

from flux2_mcp.domain.budget import dollars
from flux2_mcp.domain.manifest.plan import Plan, PlannedImage, Standing
from flux2_mcp.errors import SettingsError, Wording, together

if TYPE_CHECKING:  # a plan without prices needs none of it
    from flux2_mcp.engine.manifest_quotes import ManifestQuote, QuotedImage

MAX_IMAGES = 50
"""The maximum number of pictures in a tool's answer; sums are over all."""
KEPT = Wording("it stays; {name:overwrite: true} replaces it")
CHANGES = {"sandbox": "drawn by the sandbox, not by FLUX.2"}
"""What a change is called, where its name does not say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedResult:
    """One picture. `standing` is new, changed, missing, edited, moved, derive or unnamed; `usd` is 0 for what is not paid.

    `kept`: its file was edited by hand, and is left. `blocked`: it is made from one that is left. `changed` has what changed of its request, `derive` the files that are made from it on this machine for nothing.
    """

    path: str
    standing: Standing
    changed: list[str] | None = None
    moved_from: str | None = None
    waits_for: list[str] | None = None
    derive: list[str] | None = None
    usd: float | None = None
    kept: bool = False
    blocked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CapResult:
    """A cap that is set, and what is left of it."""

    name: str
    cap_usd: float
    left_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
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
    notice: str | None = None


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
    return result if quote is None else _with_money(result, quote)


def _with_money(result: PlanResult, quote: ManifestQuote) -> PlanResult:
    why = None if quote.trouble is None else quote.trouble.message
    if isinstance(quote.trouble, SettingsError):
        why = together([why, quote.trouble.next_step])
    notices = [
        "SANDBOX: no money moves." if quote.sandbox and quote.paid else None,
        quote.note,
        None if why is None else Wording("The balance could not be read: {why}", why=why),
    ]
    caps = [CapResult(name=cap.name, cap_usd=float(cap.cap_usd), left_usd=float(cap.left_usd)) for cap in quote.caps]
    return replace(
        result,
        usd=_number(quote.usd),
        unpriced=quote.unknown,
        balance_usd=None if quote.balance is None else _number(quote.balance.balance_usd),
        caps=caps or None,
        sandbox=quote.sandbox,
        notice=together(notices) or None,
    )


def _planned(each: QuotedImage | PlannedImage) -> PlannedResult:
    quoted = None if isinstance(each, PlannedImage) else each
    planned = each if isinstance(each, PlannedImage) else each.planned
    kept = quoted.kept if quoted is not None else planned.edited or bool(planned.edited_files)
    blocked = quoted is not None and quoted.blocked
    return PlannedResult(
        path=planned.path,
        standing=planned.standing,
        changed=list(planned.changed) or None,
        moved_from=planned.moved_from,
        waits_for=list(planned.waits_for) or None,
        derive=list(planned.derive) or None,
        usd=None if quoted is None else _number(Decimal(0) if kept or blocked else quoted.usd),
        kept=kept,
        blocked=blocked,
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
    waits = f"from {', '.join(image.waits_for)}{', which stays' if image.blocked else ''}" if image.waits_for else ""
    return together([says, waits, more, KEPT if image.kept else None], "; ")


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


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)
