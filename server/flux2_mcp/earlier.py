"""Earlier results as sources: `task:ID` becomes an address that RunAPI can fetch."""

from __future__ import annotations

from collections.abc import Sequence

from flux2_mcp.errors import ApiError, InvalidRequestError, Problem
from flux2_mcp.gateway import Gateway
from flux2_mcp.journal.entry import Journal
from flux2_mcp.models import Status

PREFIX = "task:"


class Earlier:
    """Looks up earlier results.

    Args:
        journal: Knows what was made.
        gateway: The way to RunAPI, which gives an address that is fresh.
    """

    def __init__(self, journal: Journal, gateway: Gateway) -> None:
        self._journal = journal
        self._gateway = gateway

    async def addresses(self, sources: Sequence[str]) -> list[str]:
        """The sources, each `task:ID` replaced by the address of that task's image; asking for it costs nothing.

        Raises:
            InvalidRequestError: Naming each task that is not known, not finished, or whose image RunAPI has no more.
        """
        found: list[str | Problem] = [
            await self._address(number, source) if source.startswith(PREFIX) else source
            for number, source in enumerate(sources, 1)
        ]
        if wrong := [each for each in found if isinstance(each, Problem)]:
            raise InvalidRequestError(*wrong)
        return [each for each in found if isinstance(each, str)]

    async def _address(self, number: int, source: str) -> str | Problem:
        entries = await self._journal.find([source.removeprefix(PREFIX)])
        if not entries or entries[0].task_id is None:
            return Problem(
                "source_images", f"item {number}: the journal knows no such task; check_task lists those it does."
            )
        entry, task_id = entries[0], entries[0].task_id
        try:
            remote = await (await self._gateway.api()).get(entry.request.action, task_id)
        except ApiError as exc:
            return Problem("source_images", f"item {number}: {exc.message}")
        if remote.status is not Status.COMPLETED:
            return Problem("source_images", f"item {number}: the task is {remote.status}; wait for it with check_task.")
        if not remote.image_urls:
            return Problem("source_images", f"item {number}: RunAPI does not have the task's image any more.")
        return remote.image_urls[0]
