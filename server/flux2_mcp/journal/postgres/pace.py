"""Turns in PostgreSQL: as a rule one is taken in one way to the server and back, with the lock held at the server alone."""

from __future__ import annotations

from math import inf

from flux2_mcp.domain import pacing
from flux2_mcp.journal.postgres.connection import Database, Given
from flux2_mcp.journal.postgres.server import CLOCK, JournalServer
from flux2_mcp.journal.sql.pace import MAX_AHEAD_SECONDS, SqlPace
from flux2_mcp.journal.sql.store import PACE

_TURN = (
    "WITH clock AS (SELECT {clock} AS now), known AS ("
    "SELECT now, blocked_until FROM clock, pace WHERE account = :account AND rate > 0 AND rate * :recovery >= :rate"
    " AND seen_at <= now AND blocked_until - now <= :ahead AND blocked_until - now <= :longest"
    "), before AS (SELECT at FROM turn, known WHERE account = :account AND at <= now + :ahead"
    " ORDER BY at DESC LIMIT 1 OFFSET :before"
    "), seen AS (UPDATE pace SET rate = :rate, seen_at = now FROM known WHERE account = :account"
    "), gone AS (DELETE FROM turn USING known WHERE account = :account AND (at < now - :kept OR at > now + :ahead)"
    ") INSERT INTO turn (account, at) SELECT :account, greatest(now, blocked_until, (SELECT at + :apart FROM before)) FROM known"
    " RETURNING at, (SELECT now FROM clock) AS now"
)
"""SQL for `SqlPace` where no 429 has halved the rate, and no clock has begun anew: else no row comes back, and nothing changes."""


class PostgresPace(SqlPace):
    """See `contract.Pace`."""

    def __init__(self, server: JournalServer) -> None:
        super().__init__(server)
        self._server = server

    async def turn(self, rate: float, longest: float = inf) -> float:
        """See `contract.Pace.turn`."""
        clock = self._server.clock
        window = pacing.window(rate)
        values: dict[str, Given] = {
            "clock": None if clock is None else clock(),
            "rate": rate,
            "recovery": pacing.RECOVERY_FACTOR,
            "longest": longest,
            "ahead": MAX_AHEAD_SECONDS,
            "before": window.together - 1,
            "apart": window.apart_seconds,
            "kept": pacing.kept_seconds(rate),
        }
        sql = _TURN.format(clock=CLOCK if clock is None else ":clock")

        def work(database: Database) -> tuple[float, float] | None:
            found = database.read(sql, values | {"account": self._server.account})
            return (found[0]["at"], found[0]["now"]) if found else None

        taken = await self._server.write(work, durable=False, alone=PACE, tell=False, whole=True)
        if taken is None:
            return await super().turn(rate, longest)
        return taken[0] - (taken[1] if clock is None else clock())
