"""Caps on spending. Pure. They fail closed: under a cap, a request without a price is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.errors import BudgetError, Wording

DAILY_VARIABLE = "FLUX2_DAILY_BUDGET_USD"
REOPEN = Wording(
    "The user opens it with flux2-mcp spend --lost USD: what of the last 24 hours is missing from flux2-mcp spend,"
    " 0 for nothing (flux2-mcp balance tells what RunAPI charged today). Then {name:call again}."
)
VARIABLES: Mapping[str, str] = {
    "FLUX2_MAX_COST_USD": "call_usd",
    "FLUX2_SESSION_BUDGET_USD": "session_usd",
    DAILY_VARIABLE: "daily_usd",
    "FLUX2_MONTHLY_BUDGET_USD": "monthly_usd",
    "FLUX2_PERSON_DAILY_BUDGET_USD": "person_daily_usd",
    "FLUX2_PERSON_MONTHLY_BUDGET_USD": "person_monthly_usd",
}
"""Each cap: the setting's name, and the field of `Caps`. A cap on a sum has the field of the same name in `SpentSums`."""
OF_A_PERSON = frozenset(name for name, field in VARIABLES.items() if field.startswith("person_"))
"""The caps that hold for each person of a team by themselves."""


class Caps(Struct, frozen=True, kw_only=True):
    """The caps on spending, in USD; None: no such cap.

    A day is any 24 hours, a month is any 30 days, a session is one server process. The caps of a person hold for the tasks
    of each person; tasks that are nobody's have none.
    """

    call_usd: Decimal | None = None
    session_usd: Decimal | None = None
    daily_usd: Decimal | None = None
    monthly_usd: Decimal | None = None
    person_daily_usd: Decimal | None = None
    person_monthly_usd: Decimal | None = None

    @property
    def any(self) -> bool:
        """True if at least one cap is set."""
        return self.any_sum or self.call_usd is not None

    @property
    def any_sum(self) -> bool:
        """True if at least one cap on a sum is set."""
        return any(getattr(self, field) is not None for field in SpentSums.fields())

    def with_own(self, daily_usd: Decimal | None, monthly_usd: Decimal | None) -> Caps:
        """Return these caps with those of one person, in USD, in the place of everybody's; None leaves everybody's."""
        return replace(
            self,
            person_daily_usd=self.person_daily_usd if daily_usd is None else daily_usd,
            person_monthly_usd=self.person_monthly_usd if monthly_usd is None else monthly_usd,
        )


def as_texts(caps: Caps) -> dict[str, str]:
    """The caps that are set, in USD, by the names of their variables."""
    found = {name: getattr(caps, field) for name, field in VARIABLES.items()}
    return {name: str(usd) for name, usd in found.items() if usd is not None}


def from_texts(texts: Mapping[str, str]) -> Caps:
    """The caps that `as_texts` has written. Raises ArithmeticError for what is no number."""
    return Caps(**{VARIABLES[name]: Decimal(usd) for name, usd in texts.items() if name in VARIABLES})


class SpentSums(Struct, frozen=True, kw_only=True):
    """The sums charged or reserved so far, in USD, by all processes on the same home, whatever their keys.

    None: the sum was not asked for, or there is no person whose sum it is. `lost` names a lost journal whose spending the
    user has not stated yet: only the session's sum is known then. `member`: a person of a team asks, who can raise no cap.
    """

    session_usd: Decimal = Decimal(0)
    daily_usd: Decimal = Decimal(0)
    monthly_usd: Decimal | None = None
    person_daily_usd: Decimal | None = None
    person_monthly_usd: Decimal | None = None
    lost: str | None = None
    member: bool = False

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The names of the sums."""
        return tuple(field for field in VARIABLES.values() if field != "call_usd")


class CapRoom(Struct, frozen=True):
    """A cap: the setting's name, its value and the rest of it, in USD.

    `lost` names a lost journal without which the rest is not known; the rest is 0 then. `member` as in `SpentSums`.
    """

    name: str
    cap_usd: Decimal
    left_usd: Decimal
    lost: str | None = None
    member: bool = False


def reservation(quoted_usd: Decimal | None, stated_usd: Decimal | None, caps: Caps) -> Decimal | None:
    """The reservation for a call, in USD: its quote, else the caller's amount; None if there is neither and no cap.

    Args:
        quoted_usd: The highest known price of the whole call; None if no price is known.
        stated_usd: `max_cost_usd` of the call.
        caps: The caps in force.

    Raises:
        BudgetError: The quote is above the caller's amount; or there is no quote and the caller's amount is 0, or
            missing under a cap.
    """
    if quoted_usd is None:
        # A reservation of 0 would fit every cap.
        if stated_usd == 0 or (stated_usd is None and caps.any):
            allows_nothing = Wording("{name:max_cost_usd} allows nothing")
            why = "a spending cap is set" if stated_usd is None else allows_nothing
            raise BudgetError(
                Wording("Nobody publishes a price for this, and {why}.", why=why),
                next_step=Wording(
                    "State {name:max_cost_usd}, the most this call may cost, or choose a variant with a published price."
                ),
            )
        return stated_usd
    if stated_usd is not None and quoted_usd > stated_usd:
        raise BudgetError(
            Wording(
                "The quote is {quoted} and {name:max_cost_usd} allows {stated}.",
                quoted=dollars(quoted_usd),
                stated=dollars(stated_usd),
            ),
            next_step=Wording("Raise {name:max_cost_usd}, or ask for less."),
        )
    return quoted_usd


def share(stated_usd: Decimal, known_usd: Decimal, unknown: int) -> Decimal:
    """What each task without a known price reserves of the caller's amount, in USD.

    Args:
        stated_usd: `max_cost_usd` of the call.
        known_usd: The price of its other tasks.
        unknown: The number of tasks without a known price.

    Raises:
        BudgetError: Nothing is left for them.
    """
    if stated_usd <= known_usd:
        raise BudgetError(
            Wording(
                "{name:max_cost_usd} allows {stated}, and what has a price costs {known}: nothing is left for the step whose"
                " price nobody publishes.",
                stated=dollars(stated_usd),
                known=dollars(known_usd),
            ),
            next_step=Wording("Raise {name:max_cost_usd}, or ask for less."),
        )
    return (stated_usd - known_usd) / unknown


def first_alone(together: int) -> None:
    """Admit tasks without a known price one at a time: the charge for the first is the price of the next.

    Args:
        together: The number of such tasks that would be under way at once.

    Raises:
        BudgetError: The number is more than one.
    """
    if together > 1:
        raise BudgetError(
            Wording(
                "Nobody publishes a price for this, and a spending cap is set ({name:max_cost_usd} is one, too): one image is"
                " made at a time until RunAPI has said what one costs."
            ),
            next_step=Wording(
                "Wait for the one that is under way ({name:check_task}), or ask for count 1;"
                " or choose a variant with a published price."
            ),
        )


def untold(caps: Caps) -> None:
    """Refuse a task whose price is not known because RunAPI never said the charge for the last one of its kind.

    Raises:
        BudgetError: A cap on a sum is set, and this sum is not known.
    """
    if caps.any_sum:
        raise BudgetError(
            "Nobody publishes a price for this, RunAPI has not said what the last one cost, and a spending cap is set.",
            next_step="Choose a variant with a published price. Or the user unsets"
            f" {' and '.join(_sums_capped(caps))} for it; flux2-mcp balance before and after tells its cost.",
        )


def _sums_capped(caps: Caps) -> list[str]:
    """The names of the caps on sums that are set."""
    return [name for name, field in VARIABLES.items() if field != "call_usd" and getattr(caps, field) is not None]


def left(caps: Caps, spent: SpentSums) -> list[CapRoom]:
    """Each cap that is set and holds for these sums, with the rest of it."""
    rooms = []
    for name, field in VARIABLES.items():
        cap, used = getattr(caps, field), getattr(spent, field, Decimal(0))
        if cap is None or used is None:
            continue
        lost = spent.lost if field not in {"call_usd", "session_usd"} else None
        rest = Decimal(0) if lost is not None else max(Decimal(0), cap - used)
        rooms.append(CapRoom(name, cap, rest, lost, spent.member))
    return rooms


def exceeded(wanted_usd: Decimal, caps: Caps, spent: SpentSums) -> CapRoom | None:
    """The first cap that `wanted_usd` does not fit, or None. A cap without a rest fits nothing, not even $0.00."""
    return next((cap for cap in left(caps, spent) if wanted_usd > cap.left_usd or not cap.left_usd), None)


def overdrawn(caps: Caps, spent: SpentSums) -> CapRoom | None:
    """The first cap that what was charged and reserved so far exceeds, or whose sum is not known; else None."""
    rooms = [cap for cap in left(caps, spent) if cap.name != "FLUX2_MAX_COST_USD"]
    return next((cap for cap in rooms if cap.lost or getattr(spent, VARIABLES[cap.name]) > cap.cap_usd), None)


def stopped(step: str, over: CapRoom | None) -> BudgetError:
    """The refusal of a step whose turn has come, after steps before it were charged more than they were quoted.

    Args:
        step: The model of the step.
        over: The cap that is exceeded; None: it is the most that the call may cost.
    """
    kept = "The picture before it is kept, and paid."
    if over is None:
        return BudgetError(
            Wording("{step} was not sent: with it, the call would cost more than it may. " + kept, step=step),
            next_step=Wording("Raise {name:max_cost_usd}, or the user raises the cap of a call."),
        )
    why = closed(over.lost) if over.lost is not None else f"{over.name} is {dollars(over.cap_usd)}, and it is used up."
    return BudgetError(
        f"{step} was not sent: {why} {kept}",
        next_step=REOPEN if over.lost is not None else f"{_raising(over)}.",
    )


def refusal(
    wanted_usd: Decimal, over: CapRoom, fitting: str | None, note: str | None = None, *, finishes: bool = False
) -> BudgetError:
    """The refusal in words.

    Args:
        wanted_usd: The price of the call.
        over: The cap that it does not fit.
        fitting: The cheapest request of the same kind that would fit, in words, or None.
        note: A sentence about the price, or None.
        finishes: The call finishes pictures, and nobody looked for what would fit.
    """
    if over.lost is not None:
        return BudgetError(f"{closed(over.lost)} {over.name} is closed.", next_step=REOPEN)
    none = "Fewer pictures or steps cost less." if finishes else "Nothing of this kind fits any more."
    advice = f"{fitting} would fit." if fitting else none
    return BudgetError(
        f"The call would cost {dollars(wanted_usd)}; {over.name} is {dollars(over.cap_usd)} and"
        f" {dollars(over.left_usd)} of it is left.{f' {note}' if note else ''}",
        next_step=f"{advice} Or {_raising(over, first=False)}.",
    )


def _raising(over: CapRoom, *, first: bool = True) -> str:
    """What lets more through, the beginning of a sentence or the rest of it: a person of a team can raise no cap."""
    if over.name in OF_A_PERSON:
        of = "30 days" if "MONTHLY" in over.name else "24 hours"
        return f"{'W' if first else 'w'}ait: it counts the last {of}; or whoever runs the server raises it"
    if over.member:
        return f"{'W' if first else 'w'}hoever runs the server raises {over.name}"
    return f"{'R' if first else 'r'}aise {over.name}"


def closed(lost: str) -> str:
    """A sentence that says why the day's sum is not known; `lost` is `SpentSums.lost`."""
    return f"What was spent in the last 24 hours can't be told: {lost} was lost, and not all of it could be read."


def dollars(usd: Decimal) -> str:
    """An amount for people: with two decimal places, or more if it has fractions of a cent."""
    cents = f"{usd:.2f}"
    return f"${cents}" if Decimal(cents) == usd else f"${usd.normalize():f}"


class SpendingBy(StrEnum):
    """How tasks are grouped for sums. Days go from midnight to midnight in the machine's time zone."""

    DAY = "day"
    VARIANT = "variant"
    WORKSPACE = "workspace"
    PERSON = "person"


class SpendingGroup(Struct, frozen=True, kw_only=True):
    """The sums of a group of tasks. Amounts are USD.

    `failed` tasks were quoted and cost nothing. The charge of `open` tasks is not known: they run, or RunAPI never said
    it. `unquoted` tasks had no price when they were made; only their charge is counted. `name` is the day (ISO 8601),
    the variant, the folder or the person (`Person.key`); None for tasks without one. `models` are the known models of these tasks.
    """

    name: str | None
    tasks: int
    failed: int
    open: int
    unquoted: int
    quoted_usd: Decimal
    charged_usd: Decimal
    models: frozenset[str]


def total(groups: Iterable[SpendingGroup]) -> SpendingGroup:
    """The sums of all groups together, without a name."""
    found = list(groups)
    return SpendingGroup(
        name=None,
        tasks=sum(group.tasks for group in found),
        failed=sum(group.failed for group in found),
        open=sum(group.open for group in found),
        unquoted=sum(group.unquoted for group in found),
        quoted_usd=sum((group.quoted_usd for group in found), Decimal(0)),
        charged_usd=sum((group.charged_usd for group in found), Decimal(0)),
        models=frozenset[str]().union(*(group.models for group in found)),
    )
