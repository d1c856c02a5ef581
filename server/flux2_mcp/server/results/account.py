"""The account and its spending as typed results, for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from flux2_mcp.domain import budget, pricing
from flux2_mcp.domain.budget import SpendingBy, SpendingGroup, SpentSums, total
from flux2_mcp.domain.models import Balance
from flux2_mcp.engine.account import AccountInfo
from flux2_mcp.errors import GET_A_KEY, together
from flux2_mcp.server.results.tasks import Result, Words, number, stamp
from flux2_mcp.settings import Settings
from flux2_mcp.system.logs import masked

SANDBOX_MONEY_NOTICE = f"SANDBOX: this account is on this machine, and no money moved. For a real one: {GET_A_KEY}."


class BalanceResult(Result):
    """The balance in USD; a field that RunAPI does not report is null."""

    sandbox: bool
    notice: Words | None
    balance_usd: float
    paid_usd: float | None
    bonus_usd: float | None
    spent_today_usd: float | None
    spent_total_usd: float | None


class AccountResult(BalanceResult):
    """The balance and the account. `key` is the last four characters of the key; null in the sandbox."""

    name: str
    email: str
    account: str
    key: str | None
    key_source: str | None
    base_url: str


class SpendingResult(Result):
    """The sums of a group of tasks; see `SpendingGroup`. `name` is null for an unnamed group and for the total."""

    name: str | None
    tasks: int
    failed: int
    open: int
    unquoted: int
    quoted_usd: float
    charged_usd: float


class SpendResult(Result):
    """What was spent with this key since a time.

    `counted_usd` is what the daily cap counts: the last 24 hours of all keys in this FLUX2_HOME.
    """

    sandbox: bool
    notice: Words | None
    by: SpendingBy
    since: str | None
    groups: list[SpendingResult]
    total: SpendingResult
    counted_usd: float


def balance(found: Balance, settings: Settings) -> BalanceResult:
    """Make the result of `flux2-mcp balance`."""
    sandbox = settings.mode == "sandbox"
    return BalanceResult(
        sandbox=sandbox,
        notice=SANDBOX_MONEY_NOTICE if sandbox else None,
        balance_usd=float(found.balance_usd),
        paid_usd=number(found.paid_usd),
        bonus_usd=number(found.bonus_usd),
        spent_today_usd=number(found.spent_today_usd),
        spent_total_usd=number(found.spent_total_usd),
    )


def account(known: AccountInfo, settings: Settings) -> AccountResult:
    """Make the result of `flux2-mcp whoami`."""
    money = balance(known.balance, settings)
    key = None if money.sandbox else settings.api_key
    return AccountResult(
        **money.model_dump(),
        name=known.account.name,
        email=known.account.email,
        account=known.account.account_name,
        key=None if key is None else masked(key),
        key_source=None if key is None else settings.key_source,
        base_url=known.base_url,
    )


def spend(
    found: Sequence[SpendingGroup],
    day: SpentSums,
    settings: Settings,
    *,
    by: SpendingBy,
    since: datetime | None,
    notice: str | None,
) -> SpendResult:
    """Make the result of `flux2-mcp spend`. `day` is what the daily cap counts; `notice` is the journal's."""
    sandbox = settings.mode == "sandbox"
    invented = pricing.invented(pricing.unpublished(total(found).models)) if sandbox else None
    closed = (
        None
        if day.lost is None
        else together([f"{budget.closed(day.lost)} {budget.DAILY_VARIABLE} is closed.", budget.REOPEN])
    )
    return SpendResult(
        sandbox=sandbox,
        notice=together((SANDBOX_MONEY_NOTICE if sandbox else None, invented, notice, closed)) or None,
        by=by,
        since=None if since is None else stamp(since),
        groups=[_group(group) for group in found],
        total=_group(total(found)),
        counted_usd=float(day.daily_usd),
    )


def _group(group: SpendingGroup) -> SpendingResult:
    return SpendingResult(
        name=group.name,
        tasks=group.tasks,
        failed=group.failed,
        open=group.open,
        unquoted=group.unquoted,
        quoted_usd=float(group.quoted_usd),
        charged_usd=float(group.charged_usd),
    )
