"""Files that RunAPI holds for a limited time, in SQLite."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from flux2_mcp.domain.models import UploadedFile
from flux2_mcp.journal.records import checked
from flux2_mcp.journal.sqlite import task_rows

if TYPE_CHECKING:  # SQLite loads at its first use
    from flux2_mcp.journal.sqlite.file import JournalFile
    from flux2_mcp.system.sqlite_file import Database

UPLOAD_LIFETIME = timedelta(hours=1)
"""How long RunAPI holds an uploaded file (`api/runapi.md`, files)."""


class SqliteUploads:
    """See `contract.Uploads`."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file

    async def find(self, identity: str, *, at: datetime) -> UploadedFile | None:
        """See `contract.Uploads.find`."""
        return await self._file.run(lambda database: self._find(identity, at, database))

    async def add(self, identity: str, file: UploadedFile) -> None:
        """See `contract.Uploads.add`."""
        await self._file.write(lambda database: self._add(identity, file, database), durable=False)

    def _find(self, identity: str, at: datetime, database: Database) -> UploadedFile | None:
        sql = "SELECT * FROM upload WHERE account = ? AND identity = ? AND expires_at > ?"
        found = database.read(sql, (self._file.account, identity, at.timestamp()))
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
            "INSERT OR REPLACE INTO upload VALUES (?, ?, ?, ?, ?, ?, ?)",
            (self._file.account, identity, file.file_name, file.url, file.size_bytes, file.mime_type, expires_at),
        )
