"""Files that RunAPI holds for a limited time."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flux2_mcp.domain.models import UploadedFile
from flux2_mcp.journal.records import checked
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sql.store import NOTHING

if TYPE_CHECKING:
    from flux2_mcp.journal.sql.store import Database, Store

UPLOAD_LIFETIME = timedelta(hours=1)
"""How long RunAPI holds an uploaded file (`api/runapi.md`, files)."""


class SqlUploads:
    """See `contract.Uploads`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, identity: str, *, at: datetime) -> UploadedFile | None:
        """See `contract.Uploads.find`."""
        return await self._store.run(lambda database: self._find(identity, at, database))

    async def add(self, identity: str, file: UploadedFile) -> None:
        """See `contract.Uploads.add`."""
        await self._store.write(
            lambda database: self._add(identity, file, database), durable=False, alone=NOTHING, tell=False
        )

    def _find(self, identity: str, at: datetime, database: Database) -> UploadedFile | None:
        sql = "SELECT * FROM upload WHERE account = ? AND identity = ? AND expires_at > ?"
        found = database.read(sql, (self._store.account, identity, at.timestamp()))
        if not found:
            return None
        row = found[0]
        try:
            return checked(
                UploadedFile(
                    file_name=row["file_name"],
                    url=row["url"],
                    size_bytes=row["size_bytes"],
                    mime_type=row["mime_type"],
                    expires_at=task_rows.utc(row["expires_at"]),
                )
            )
        except (TypeError, ValueError):  # a broken record: the file is sent and recorded again
            return None

    def _add(self, identity: str, file: UploadedFile, database: Database) -> None:
        """Record an upload, and delete the records of files that RunAPI does not hold any more."""
        expires_at = 0.0 if file.expires_at is None else file.expires_at.timestamp()
        database.execute("DELETE FROM upload WHERE expires_at < ?", (expires_at - UPLOAD_LIFETIME.total_seconds(),))
        database.execute(
            "INSERT INTO upload (account, identity, file_name, url, size_bytes, mime_type, expires_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (account, identity) DO UPDATE SET file_name = excluded.file_name,"
            " url = excluded.url, size_bytes = excluded.size_bytes, mime_type = excluded.mime_type,"
            " expires_at = excluded.expires_at",
            (self._store.account, identity, file.file_name, file.url, file.size_bytes, file.mime_type, expires_at),
        )
