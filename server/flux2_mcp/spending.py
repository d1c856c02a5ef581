"""What was spent, summed up: quoted beside charged. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum


class By(StrEnum):
    """What tasks are summed up by. Days are the machine's own, from midnight to midnight."""

    DAY = "day"
    VARIANT = "variant"
    WORKSPACE = "workspace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Tasks that belong together. Amounts are USD.

    `failed` tasks were quoted and cost nothing. Of `open` ones the charge is not known: they run, or RunAPI never told.
    `unquoted` ones had no price when they were asked for, so that only their charge is counted.
    `name` is the day (ISO 8601), the variant or the folder; None where a task had none.
    """

    name: str | None
    tasks: int
    failed: int
    open: int
    unquoted: int
    quoted_usd: Decimal
    charged_usd: Decimal


def total(groups: Iterable[Spending]) -> Spending:
    """All of them together, without a name."""
    found = list(groups)
    return Spending(
        name=None,
        tasks=sum(group.tasks for group in found),
        failed=sum(group.failed for group in found),
        open=sum(group.open for group in found),
        unquoted=sum(group.unquoted for group in found),
        quoted_usd=sum((group.quoted_usd for group in found), Decimal(0)),
        charged_usd=sum((group.charged_usd for group in found), Decimal(0)),
    )
