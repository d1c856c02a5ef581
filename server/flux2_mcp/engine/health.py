"""Whether a service can do its work now: the journal, the folder and the store of images, RunAPI. For a load balancer to ask."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from flux2_mcp.engine.seam import Seam
from flux2_mcp.errors import ApiError, Flux2Error, ServiceError, StorageError
from flux2_mcp.images.store import ImageFolder

log = logging.getLogger("flux2_mcp.engine.health")

FRESH_SECONDS = 5.0
"""How long a result is kept: many may ask, and each check costs a call to RunAPI."""
WAIT_SECONDS = 4.0
"""The longest wait of a caller for a result."""
SLOW_SECONDS = 1.0
"""A journal is called slow if a statement takes longer."""
MOST_SECONDS = 10.0
"""A statement that takes longer may never be answered."""
OK = "ok"
SLOW = "slow, takes {:.1f} s for a statement"
LATE = "no answer in time"


class KeptResult:
    """Work that is done again when its result is old, in the background, once at a time.

    A database that says nothing can hold up a call for a minute, and such a call can't be left. Callers wait only so long.

    Args:
        work: Does it, and keeps the result.
        background: In which it is done.
        monotonic: Seconds on a clock that never jumps.
    """

    def __init__(
        self, work: Callable[[], Awaitable[None]], background: TaskGroup, monotonic: Callable[[], float]
    ) -> None:
        self._work = work
        self._background = background
        self._monotonic = monotonic
        self._done: anyio.Event | None = None
        self._done_at = float("-inf")

    async def fresh(self) -> bool:
        """Do the work if its result is old, and return whether it is done, after `WAIT_SECONDS` at the latest."""
        if self._done is None and self._monotonic() - self._done_at <= FRESH_SECONDS:
            return True
        if self._done is None:
            self._done = anyio.Event()
            self._background.start_soon(self._do, self._done)
        with anyio.move_on_after(WAIT_SECONDS):
            await self._done.wait()
            return True
        return False

    async def _do(self, done: anyio.Event) -> None:
        try:
            await self._work()
        except Exception as exc:  # it would end the service
            log.exception("unexpected %s", type(exc).__name__)
        self._done_at, self._done = self._monotonic(), None
        done.set()


def serves(found: Mapping[str, str]) -> bool:
    """Whether calls can be answered with what `Health.check` has found."""
    return all(each == OK or each.startswith(SLOW.partition(",")[0]) for each in found.values())


class Health:
    """Checks what a service needs. The answers name no path, no address and no key.

    Args:
        seam: The journal and the way to RunAPI.
        images: The folder of images, and the store behind it.
        background: In which the checks run.
    """

    def __init__(self, seam: Seam, images: ImageFolder, background: TaskGroup) -> None:
        self._seam = seam
        self._images = images
        self._kept = KeptResult(self._check, background, seam.monotonic)
        self._found: dict[str, str] = {}

    async def check(self) -> Mapping[str, str]:
        """Return what was found for each part: `OK`, or what is wrong in a few words. At most `FRESH_SECONDS` old.

        A journal that is slow, and answers, is no reason to send no calls: see `serves`.
        """
        await self._kept.fresh()
        found = dict(self._found)
        if found.get("journal", LATE) in {OK, LATE}:
            found |= {"journal": self._slow() or found.get("journal", LATE)}
        return found

    def _slow(self) -> str | None:
        """What to say of a journal that is slow, and answers nonetheless."""
        seconds = self._seam.journal.statement_seconds
        return SLOW.format(seconds) if SLOW_SECONDS < seconds <= MOST_SECONDS else None

    async def _check(self) -> None:
        parts = {"journal": self._journal, "images": self._folder, "runapi": self._runapi}
        if self._images.store is not None:
            parts["store"] = self._store
        found = self._found = dict.fromkeys(parts, LATE)

        async def note(name: str, check: Callable[[], Awaitable[str]]) -> None:
            found[name] = await check()

        async with anyio.create_task_group() as group:
            for name, check in parts.items():
                group.start_soon(note, name, check)

    async def _journal(self) -> str:
        try:
            if self._seam.journal.exists:
                await self._seam.journal.money.spent(at=self._seam.now(), session=None)
        except Flux2Error:
            return "can't be read"
        return OK

    async def _folder(self) -> str:
        try:
            await anyio.to_thread.run_sync(self._write)
        except OSError:
            return "can't be written"
        return OK

    async def _store(self) -> str:
        try:
            await self._images.check()
        except StorageError as exc:
            log.warning("the store of images: %s %s", exc.message, exc.next_step)
            return "can't be used" if exc.reason == exc.code else exc.reason
        return OK

    def _write(self) -> None:
        folder = self._images.folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".ready-{secrets.token_hex(8)}"
        try:
            probe.write_bytes(b"\0")
        finally:
            probe.unlink(missing_ok=True)

    async def _runapi(self) -> str:
        try:
            await (await self._seam.backend.api()).clock_ahead(at_once=True)
        except ServiceError:
            return "fails"
        except ApiError:
            return OK  # it answers
        except Flux2Error:
            return "can't be reached"
        return OK
