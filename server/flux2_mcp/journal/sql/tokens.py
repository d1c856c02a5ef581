"""The personal tokens of a team: their digests alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flux2_mcp.domain.personal_tokens import TokenRecord
    from flux2_mcp.journal.sql.store import Database, Row, Store, Value


class SqlTokens:
    """See `team_contract.Tokens`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, token: TokenRecord) -> None:
        """See `team_contract.Tokens.add`."""
        values: dict[str, Value] = {
            "digest": token.digest,
            "name": token.name,
            "created": token.created_at.timestamp(),
            "expires": None if token.expires_at is None else token.expires_at.timestamp(),
        }
        sql = "INSERT INTO token (digest, name, created_at, expires_at) VALUES (:digest, :name, :created, :expires)"

        def work(database: Database) -> None:
            database.execute(sql, values)
            _note(database, token.name, token.created_at, made=True)

        await self._store.write(work)

    async def all(self) -> tuple[TokenRecord, ...]:
        """See `team_contract.Tokens.all`."""
        return await self._read("SELECT * FROM token ORDER BY created_at DESC, digest", {})

    async def live(self, *, at: datetime) -> tuple[TokenRecord, ...]:
        """See `team_contract.Tokens.live`."""
        sql = "SELECT * FROM token WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :at)"
        return await self._read(sql, {"at": at.timestamp()})

    async def revoke(self, digest: str, *, at: datetime) -> bool:
        """See `team_contract.Tokens.revoke`."""
        sql = "UPDATE token SET revoked_at = :at WHERE digest = :digest AND revoked_at IS NULL"
        values: dict[str, Value] = {"digest": digest, "at": at.timestamp()}

        def work(database: Database) -> bool:
            if not database.execute(sql, values):
                return False
            (row,) = database.read("SELECT name FROM token WHERE digest = :digest", values)
            _note(database, row["name"], at, made=False)
            return True

        return await self._store.write(work)

    async def _read(self, sql: str, values: dict[str, Value]) -> tuple[TokenRecord, ...]:
        rows = await self._store.run(lambda database: database.read(sql, values))
        return tuple(map(_token, rows))


def _note(database: Database, name: str, at: datetime, *, made: bool) -> None:
    """Write into the audit that a token was made, or taken back."""
    from flux2_mcp.domain import personal_tokens  # a server for one person has no use for these
    from flux2_mcp.domain.audit import AuditEntry, What
    from flux2_mcp.journal.sql import audit

    what = What.TOKEN if made else What.REVOKE
    audit.write(database, [AuditEntry(at=at, what=what, whose=personal_tokens.person(name).key)])


def _token(row: Row) -> TokenRecord:
    from flux2_mcp.domain.personal_tokens import TokenRecord  # as above

    return TokenRecord(
        digest=row["digest"],
        name=row["name"],
        created_at=datetime.fromtimestamp(row["created_at"], UTC),
        expires_at=_time(row["expires_at"]),
        revoked_at=_time(row["revoked_at"]),
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
