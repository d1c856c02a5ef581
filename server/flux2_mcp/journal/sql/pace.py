"""The pace of calls. Times are on the clock of `Store.now`; SQLite's starts anew with the machine."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING

from flux2_mcp.domain import pacing
from flux2_mcp.errors import RateLimitedError
from flux2_mcp.journal.sql.store import PACE

if TYPE_CHECKING:
    from flux2_mcp.journal.sql.store import Database, Store, Value

BLOCKED = "RunAPI answered 429: Too many requests"
"""RunAPI gave this answer to an earlier call."""
MAX_AHEAD_SECONDS = timedelta(days=7).total_seconds()
"""Seconds. No turn, and no wait that RunAPI asks for, lies further ahead: a later time is a broken record."""
_READABLE = (
    "account = ? AND rate > 0 AND typeof(rate) = 'real' AND typeof(blocked_until) = 'real' AND typeof(seen_at) = 'real'"
)
"""The condition that a record of the pace is sound; a broken one is overwritten."""


class SqlPace:
    """See `contract.Pace`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def turn(self, rate: float, longest: float = inf) -> float:
        """See `contract.Pace.turn`."""
        turn_at, now = await self._store.write(
            lambda database: self._turn(rate, longest, database), durable=False, alone=PACE
        )
        # Read again, if it can be: the way back from the thread takes time.
        return turn_at - (now if self._store.clock is None else self._store.clock())

    async def limited(self, retry_after: float | None, rate: float = inf) -> None:
        """See `contract.Pace.limited`."""
        await self._store.write(lambda database: self._limited(retry_after, rate, database), durable=False, alone=PACE)

    def _turn(self, rate: float, longest: float, database: Database) -> tuple[float, float]:
        """The moment of the turn, and now."""
        account = self._store.account
        known = database.read(f"SELECT rate, blocked_until, seen_at FROM pace WHERE {_READABLE}", (account,))
        now = self._store.now(database)  # read inside the transaction, so that no earlier write has a later time
        allowed = pacing.recovered(rate, known[0]["rate"]) if known else rate
        blocked = known[0]["blocked_until"] if known else now
        if not known or now < known[0]["seen_at"] or blocked - now > MAX_AHEAD_SECONDS:  # the machine started anew
            blocked = now
            database.later("DELETE FROM turn WHERE account = ?", (account,))
        if blocked - now > longest:
            raise RateLimitedError(BLOCKED, status=HTTPStatus.TOO_MANY_REQUESTS, retry_after=blocked - now)
        database.later(
            "INSERT INTO pace (account, rate, blocked_until, seen_at) VALUES (:account, :rate, :blocked, :now) ON CONFLICT (account)"
            " DO UPDATE SET rate = :rate, blocked_until = :blocked, seen_at = :now",
            {"account": account, "rate": allowed, "blocked": blocked, "now": now},
        )
        over, oldest = "at < ? OR at > ? OR typeof(at) <> 'real'", now - pacing.kept_seconds(allowed)
        database.later(f"DELETE FROM turn WHERE account = ? AND ({over})", (account, oldest, now + MAX_AHEAD_SECONDS))
        window = pacing.window(allowed)
        latest = "SELECT at FROM turn WHERE account = ? ORDER BY at DESC LIMIT 1 OFFSET ?"
        before = database.read(latest, (account, window.together - 1))
        at: float = max([now, blocked] + [row[0] + window.apart_seconds for row in before])
        database.later("INSERT INTO turn (account, at) VALUES (?, ?)", (account, at))
        return at, now

    def _limited(self, retry_after: float | None, rate: float, database: Database) -> None:
        """Halve the rate. `rate` is used if the account has no turn yet: the key's account may just have been recorded.

        A refusal that comes while calls are blocked belongs to a call sent before the block: the rate is not halved
        again.
        """
        account = self._store.account
        known = database.read(f"SELECT rate, blocked_until FROM pace WHERE {_READABLE}", (account,))
        now = self._store.now(database)
        until = now + (pacing.DEFAULT_WAIT_SECONDS if retry_after is None else retry_after)
        blocked = bool(known) and known[0]["blocked_until"] > now
        values: dict[str, Value] = {
            "account": account,
            "rate": known[0]["rate"] if blocked else pacing.halved(known[0]["rate"] if known else rate),
            "until": max(known[0]["blocked_until"], until) if known else until,
            "now": now,
        }
        database.later(
            "INSERT INTO pace (account, rate, blocked_until, seen_at) VALUES (:account, :rate, :until, :now)"
            " ON CONFLICT (account) DO UPDATE SET rate = :rate, blocked_until = :until",
            values,
        )
