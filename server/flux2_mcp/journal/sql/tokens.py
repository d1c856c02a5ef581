"""The personal tokens of a team: their digests alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import structs

from flux2_mcp.journal.sql.store import NOTHING

if TYPE_CHECKING:
    from flux2_mcp.domain.people import Caller
    from flux2_mcp.domain.personal_tokens import TokenRecord
    from flux2_mcp.journal.sql.store import Database, Row, Store, Value


class SqlTokens:
    """See `team_contract.Tokens`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def add(self, token: TokenRecord, *, caller: Caller | None = None) -> None:
        """See `team_contract.Tokens.add`."""
        values: dict[str, Value] = {
            "digest": token.digest,
            # With a blank at its end it is nobody's for a server of before sign-ins, which knows people of tokens by these names.
            "name": token.name if token.issuer is None else f"{token.name} ",
            "created": token.created_at.timestamp(),
            "expires": None if token.expires_at is None else token.expires_at.timestamp(),
            "issuer": token.issuer,
            "subject": token.subject,
        }
        sql = (
            "INSERT INTO token (digest, name, created_at, expires_at, issuer, subject)"
            " VALUES (:digest, :name, :created, :expires, :issuer, :subject)"
        )

        from flux2_mcp.domain.audit import What  # a server for one person has no use for it

        def work(database: Database) -> None:
            database.execute(sql, values)
            _note(database, token, token.created_at, What.TOKEN, caller)

        await self._store.write(work, alone=NOTHING)

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
        from flux2_mcp.domain.audit import What  # as above

        def work(database: Database) -> bool:
            if not database.execute(sql, values):
                return False
            (row,) = database.read("SELECT * FROM token WHERE digest = :digest", values)
            _note(database, _token(row), at, What.REVOKE, None)
            return True

        return await self._store.write(work, alone=NOTHING)

    async def _read(self, sql: str, values: dict[str, Value]) -> tuple[TokenRecord, ...]:
        rows = await self._store.run(lambda database: database.read(sql, values))
        return tuple(map(_token, rows))


def _note(database: Database, token: TokenRecord, at: datetime, what: str, caller: Caller | None) -> None:
    """Write into the audit that a token was made, or taken back."""
    from flux2_mcp.domain.audit import AuditEntry  # as above
    from flux2_mcp.journal.sql import audit

    entry = AuditEntry(at=at, what=what, whose=token.person.key)
    if caller is not None:
        entry = structs.replace(entry, person=caller.person.key, client=caller.client, address=caller.address)
    audit.write(database, [entry])


def _token(row: Row) -> TokenRecord:
    from flux2_mcp.domain.personal_tokens import TokenRecord  # as above

    return TokenRecord(
        digest=row["digest"],
        name=row["name"].strip(),
        created_at=datetime.fromtimestamp(row["created_at"], UTC),
        expires_at=_time(row["expires_at"]),
        revoked_at=_time(row["revoked_at"]),
        issuer=row["issuer"],
        subject=row["subject"],
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
