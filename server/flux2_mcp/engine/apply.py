"""Prices a project's plan, and runs it; see `apply_run` for the rules."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from flux2_mcp.domain import budget
from flux2_mcp.engine.adopt import Adoption
from flux2_mcp.engine.applied import PATIENCE_SECONDS, Applied
from flux2_mcp.engine.apply_run import ApplyRun
from flux2_mcp.engine.manifest_quotes import ManifestQuote, ManifestQuotes
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.waiting import LOOK_SECONDS, PROGRESS_SECONDS, OnProgress
from flux2_mcp.errors import Wording

if TYPE_CHECKING:  # the service has this room
    from flux2_mcp.engine.service import Service

USED = "The user's yes that came with this call was used before."
ASK_AGAIN = (
    "Call generate again without that answer (without inputResponses and requestState): the user is asked again."
)


class Manifests:
    """Prices plans and makes them.

    Args:
        service: Makes the pictures.
        seam: The journal, the way to RunAPI, the clock.
    """

    def __init__(self, service: Service, seam: Seam) -> None:
        self._service = service
        self._seam = seam
        self._quotes = ManifestQuotes(seam, service.prices, service.settings)
        self._running: dict[Path, ApplyRun] = {}
        self._beginning = anyio.Lock()
        self.quote = self._quotes.quote
        self.adopt = Adoption(seam).adopt

    async def apply(
        self,
        quote: ManifestQuote,
        *,
        approved: bool,
        wait_seconds: float = PATIENCE_SECONDS,
        client: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Applied:
        """Make what a quote says, and wait for it. What is not done when the wait is over goes on in the background.

        Args:
            quote: From `quote`.
            approved: Whether the user has agreed, if the quote needs it.
            wait_seconds: The maximum wait.
            client: The name of the host, for the journal.
            on_progress: Called about once a second during the wait.

        Raises:
            BudgetError: The price is above what the user allows or a cap leaves, or the user was not asked.
            AuthenticationError: Something has to be paid, and there is no key.
            SettingsError: A setting that is needed for spending is not usable.
        """
        begun = self._seam.monotonic()
        run = await self._begin(quote, approved=approved, client=client)
        await self._wait(run, begun, wait_seconds, on_progress)
        if run.done.is_set() and not run.makes(quote):  # it was one of an earlier manifest
            run = await self._begin(quote, approved=approved, client=client)
            await self._wait(run, begun, wait_seconds, on_progress)
        if run.failure is not None:
            raise run.failure
        return run.applied()

    async def _begin(self, quote: ManifestQuote, *, approved: bool, client: str | None) -> ApplyRun:
        """Return the project's run that is under way, or a new one: two at once would write the same files."""
        folder = quote.project.folder.resolve()
        async with self._beginning:
            run = self._running.get(folder)
            if run is None or run.done.is_set():
                await self._admit(quote, approved=approved)
                run = self._running[folder] = ApplyRun(self._service, self._seam, self._quotes, quote, client)
                self._service.background.start_soon(run.run)
            return run

    async def _wait(self, run: ApplyRun, begun: float, wait_seconds: float, on_progress: OnProgress | None) -> None:
        """Wait for the end of a run, or until the time is over and each of its tasks can be named."""
        answer_seconds = max(wait_seconds, self._seam.timing.answer_seconds)  # the ids matter most
        while not run.done.is_set():
            elapsed = self._seam.monotonic() - begun
            left = (wait_seconds if run.answered else answer_seconds) - elapsed
            if left <= 0:
                break
            if on_progress is not None:
                await on_progress(run.progress(elapsed))
            with anyio.move_on_after(min(left, PROGRESS_SECONDS if run.answered else LOOK_SECONDS)):
                await run.done.wait()

    async def _admit(self, quote: ManifestQuote, *, approved: bool) -> None:
        """Check that a plan may be made and paid, as a whole: no part of it is sent if the rest would not fit."""
        made = quote.plan.manifest
        todo = [image.planned.path for image in quote.todo]
        await anyio.to_thread.run_sync(quote.project.require_writers, made, todo)
        if not quote.paid:
            return
        settings = self._service.settings
        settings.need()
        self._seam.backend.require_key()
        budget.reservation(quote.usd, quote.stated_usd, settings.caps)
        most = sum((image.most_usd or Decimal(0) for image in quote.paid), Decimal(0))
        over = budget.exceeded(most, settings.caps, await self._quotes.spent())
        if over is not None:
            raise budget.refusal(most, over, None, quote.note, finishes=True)
        needed = quote.confirmation
        if needed is not None and not approved:
            raise needed.refused("The user was not asked.", Wording("Ask the user, then {name:call again}."))
        if needed is None or quote.consent is None:
            return
        # The pictures of a plan that was made are there or under way, and cost nothing: what has to be paid now is new.
        if not await self._seam.journal.tasks.use_consent(quote.consent):
            raise needed.refused(USED, ASK_AGAIN)
