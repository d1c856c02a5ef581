"""Records that this version can't read: a process warns of each once."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.system.logs import fields

log = logging.getLogger("flux2_mcp.journal")


class Unread:
    """Remembers which records could not be read."""

    def __init__(self) -> None:
        self._unread: set[str] = set()
        self._untold = 0

    def unread_notice(self) -> str | None:
        """A text for the user about records that can't be read, or None. A process reports each record once."""
        untold, self._untold = self._untold, 0
        if not untold:
            return None
        return (
            f"The journal holds {'a record' if untold == 1 else f'{untold} records'} that this version of flux2-mcp can't read,"
            " a newer version's or broken. They were left as they are; update flux2-mcp, or see flux2-mcp doctor."
        )

    def warn_unreadable(self, records: Sequence[TaskRecord]) -> tuple[TaskRecord, ...]:
        """Return the same records, after a warning in the log for each that can't be read."""
        for record in records:
            if not record.readable and record.key not in self._unread:
                self._unread.add(record.key)
                self._untold += 1
                log.warning(
                    "a record can't be read; it is left unchanged", extra=fields(task=record.task_id or record.key)
                )
        return tuple(records)
