"""Whether a service can do its work now: the journal, the folder of images, RunAPI. For a load balancer to ask."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import anyio
import anyio.to_thread

from flux2_mcp.engine.seam import Seam
from flux2_mcp.errors import ApiError, Flux2Error, ServiceError

FRESH_SECONDS = 5.0
"""How long an answer is kept: many may ask, and each answer costs a call to RunAPI."""
CHECK_SECONDS = 5.0
"""The maximum time of one check."""
OK = "ok"
LATE = "no answer in time"


class Health:
    """Checks what a service needs. The answers name no path, no address and no key.

    Args:
        seam: The journal and the way to RunAPI.
        images: The folder of images.
    """

    def __init__(self, seam: Seam, images: Path) -> None:
        self._seam = seam
        self._images = images
        self._lock = anyio.Lock()
        self._found: Mapping[str, str] = {}
        self._found_at = float("-inf")

    async def check(self) -> Mapping[str, str]:
        """Return what was found for each part: `OK`, or what is wrong in a few words. At most `FRESH_SECONDS` old."""
        async with self._lock:
            if self._seam.monotonic() - self._found_at > FRESH_SECONDS:
                self._found = await self._check()
                self._found_at = self._seam.monotonic()
            return self._found

    async def _check(self) -> Mapping[str, str]:
        found = dict.fromkeys(("journal", "images", "runapi"), LATE)

        async def noted(name: str, check: Callable[[], Awaitable[str]]) -> None:
            with anyio.move_on_after(CHECK_SECONDS):
                found[name] = await check()

        async with anyio.create_task_group() as group:
            group.start_soon(noted, "journal", self._journal)
            group.start_soon(noted, "images", self._folder)
            group.start_soon(noted, "runapi", self._runapi)
        return found

    async def _journal(self) -> str:
        try:
            if self._seam.journal.exists:
                await self._seam.journal.money.spent(at=self._seam.now(), session=None)
        except Flux2Error:
            return "can't be read"
        return OK

    async def _folder(self) -> str:
        try:
            await anyio.to_thread.run_sync(self._write, abandon_on_cancel=True)
        except OSError:
            return "can't be written"
        return OK

    def _write(self) -> None:
        self._images.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = self._images / f".ready-{secrets.token_hex(8)}"
        try:
            probe.write_bytes(b"\0")
        finally:
            probe.unlink(missing_ok=True)

    async def _runapi(self) -> str:
        try:
            await (await self._seam.backend.api()).clock_ahead()
        except ServiceError:
            return "fails"
        except ApiError:
            return OK  # it answers
        except Flux2Error:
            return "can't be reached"
        return OK
