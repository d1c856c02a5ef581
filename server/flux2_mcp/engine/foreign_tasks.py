"""Tasks that this process can't ask about: another key of another account made them, or another service has them."""

from __future__ import annotations

from flux2_mcp.engine.waiting import MAX_LISTED
from flux2_mcp.errors import NotFoundError, Wording, shortened, together
from flux2_mcp.journal.contract import Accounts
from flux2_mcp.journal.records import service_of

OTHER_KEY = Wording(
    "To collect it, set RUNAPI_API_KEY to the key that made it and {name:start the server again};"
    " RunAPI keeps the image for a week."
)
OTHER_KEYS_TASKS = (
    "Of tasks under way, {count} were made with another key, of another RunAPI account as far as is known, so this one can't ask"
    " about them: {ids}. {advice}"
)
OTHER_SERVICE = Wording(
    "To collect it, set RUNAPI_BASE_URL to that address and RUNAPI_API_KEY to the key that made it and {name:start the server again};"
    " RunAPI keeps the image for a week."
)
OTHER_ACCOUNT = "Of tasks under way, {count} were made at {service}, where this server does not ask: {ids}. {advice}"


class ForeignTasks:
    """Names them, and says how to collect their images.

    Args:
        accounts: Which tasks a key may see.
        service: The service that this process asks.
    """

    def __init__(self, accounts: Accounts, service: str) -> None:
        self._accounts = accounts
        self._service = service

    async def notice(self) -> str | None:
        """Return a notice about the open ones, which no process can collect; None if there are none."""
        found: dict[str, list[str]] = {}
        for record in await self._accounts.foreign_tasks():
            found.setdefault(service_of(record.account), []).append(record.task_id or record.key)
        notices = [
            Wording(
                OTHER_KEYS_TASKS if service == self._service else OTHER_ACCOUNT,
                count=len(ids),
                ids=", ".join(ids[:MAX_LISTED]),
                service=service,
                advice=OTHER_KEY if service == self._service else OTHER_SERVICE,
            )
            for service, ids in found.items()
        ]
        return together(notices) or None

    async def missing(self, task_id: str) -> NotFoundError:
        """Return the error for an id that neither the journal nor RunAPI knows under this key."""
        service, shown = await self._accounts.service_of_task(task_id), repr(shortened(task_id))
        if service is None:
            return NotFoundError(f"Neither the journal nor RunAPI knows the task {shown}.", status=404)
        if service != self._service:
            return NotFoundError(
                f"The task {shown} was made at {service}, where this server does not ask.",
                status=404,
                cost="It is charged there, if it completes.",
                next_step=OTHER_SERVICE,
            )
        return NotFoundError(
            f"The task {shown} was made with another key, of another RunAPI account as far as is known.",
            status=404,
            cost="It is charged to that account, if it completes.",
            next_step=OTHER_KEY,
        )
