"""What the servers that share a journal have to agree on, each fact by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flux2_mcp.journal.sql.store import Database, Store, Value


class SqlFacts:
    """See `team_contract.Facts`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def get(self, name: str) -> str | None:
        """See `team_contract.Facts.get`."""
        return await self._store.run(lambda database: _get(database, name))

    async def put(self, name: str, text: str) -> None:
        """See `team_contract.Facts.put`."""
        await self._write(name, text, "DO UPDATE SET value = excluded.value")

    async def settle(self, name: str, text: str) -> str:
        """See `team_contract.Facts.settle`."""
        return await self._write(name, text, "DO NOTHING") or text

    async def _write(self, name: str, text: str, if_there: str) -> str | None:
        """Write a fact, and return what holds afterwards."""
        values: dict[str, Value] = {"name": name, "value": text}
        sql = f"INSERT INTO fact (name, value) VALUES (:name, :value) ON CONFLICT (name) {if_there}"

        def work(database: Database) -> str | None:
            database.execute(sql, values)
            return _get(database, name)

        return await self._store.write(work)


def _get(database: Database, name: str) -> str | None:
    found = database.read("SELECT value FROM fact WHERE name = :name", {"name": name})
    return str(found[0]["value"]) if found else None
