"""The service of one person's calls: what it shows is written into the audit first. A server for one person has none.

What is not written down is not shown. An audit with holes would prove nothing: whoever fills the disk, or cuts the server
from its database, could then look at everything unseen. The other way costs little: a journal that can't be written can
make no picture either, and the answer says why, and that nothing was lost.

What costs is written by the journal itself, in the transaction that counts the caps: see `contract.Journal.of`. What a cap
refuses is written by the journal, too; what is refused before caps are counted, because of its price, is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from flux2_mcp.domain.audit import AuditEntry, What
from flux2_mcp.domain.people import Caller
from flux2_mcp.engine.confirmation import Quotation
from flux2_mcp.engine.service import Service
from flux2_mcp.engine.submission import CheckedRequest
from flux2_mcp.engine.waiting import OnProgress, Outcome
from flux2_mcp.errors import BudgetError, JournalError, before_sending
from flux2_mcp.journal.listed import ListedTask
from flux2_mcp.journal.records import TaskRecord

NOTHING_SHOWN = "Nothing is shown, because the audit of it could not be written."
NOTHING_TOLD = "The call was not answered, because the audit of it could not be written."


class AuditedService(Service):
    """Answers a person's calls. Make it with `Service.of`."""

    _caller: Caller

    @classmethod
    def answering(cls, whole: Service, caller: Caller) -> AuditedService:
        """Return the same service with the tasks of a person."""
        view = cls.__new__(cls)  # it has no runner of its own: the whole one works on the tasks of all
        view.__dict__.update(whole.__dict__, _caller=caller)
        view.__dict__.pop("manifests", None)
        person = caller.person
        journal = whole._journal.of(  # noqa: SLF001  # another self
            person.key, sees_all=person.admin, client=caller.client, address=caller.address
        )
        view._answer_on(replace(whole._seam, journal=journal, person=person.key), person)  # noqa: SLF001  # as above
        return view

    async def offer(self, checked: CheckedRequest, **terms: Any) -> Quotation:  # noqa: ANN401  # the same arguments
        """See `Service.offer`. An admin's use of the tasks of others as sources is written down, and so is a refusal."""
        await self.show([source.record for source in checked.found if source.record is not None])
        try:
            return await super().offer(checked, **terms)
        except (
            BudgetError
        ):  # it costs more than the caller allows, or nobody knows: the journal is not asked to write it
            with before_sending():
                await self._note([replace(self._entry(What.GENERATE), allowed=False)], NOTHING_TOLD)
            raise

    async def check(
        self,
        task_ids: Sequence[str],
        *,
        wait_seconds: float,
        on_progress: OnProgress | None = None,
        first: bool = False,
    ) -> Outcome:
        """See `Service.check`. An admin's look at the tasks of others is written down."""
        outcome = await super().check(task_ids, wait_seconds=wait_seconds, on_progress=on_progress, first=first)
        await self.show([report.record for report in outcome.tasks])
        return outcome

    async def recent(self, **wanted: Any) -> Outcome:  # noqa: ANN401  # the same arguments
        """See `Service.recent`. Each list is written down."""
        outcome = await super().recent(**wanted)
        await self._note([self._entry(What.LIST)])
        return outcome

    async def page(self, *, limit: int, before: str | None) -> tuple[TaskRecord, ...]:
        """See `Service.page`. Each list is written down."""
        found = await super().page(limit=limit, before=before)
        await self._note([self._entry(What.LIST)])
        return found

    async def newest(self, *, limit: int, before: str | None) -> tuple[ListedTask, ...]:
        """See `Service.newest`. Each list is written down."""
        found = await super().newest(limit=limit, before=before)
        await self._note([self._entry(What.LIST)])
        return found

    async def show(self, records: Sequence[TaskRecord], *, images: bool = False) -> None:
        """See `Service.show`. One's own task without its image is not written down: who waits for it asks often."""
        what = What.IMAGE if images else What.TASK
        own = self._caller.person.key
        await self._note([self._entry(what, record) for record in records if images or record.person != own])

    def _entry(self, what: What, record: TaskRecord | None = None) -> AuditEntry:
        caller, others = self._caller, record is not None and record.person != self._caller.person.key
        return AuditEntry(
            at=self._seam.now(),
            what=what,
            person=caller.person.key,
            client=caller.client,
            address=caller.address,
            whose=record.person if record is not None and others else None,
            task=None if record is None else record.key,
        )

    async def _note(self, entries: Sequence[AuditEntry], otherwise: str = NOTHING_SHOWN) -> None:
        if not entries:
            return
        try:
            await self._journal.audit.note(entries)
        except JournalError as exc:
            raise JournalError(
                f"{otherwise} {exc.message}",
                next_step=exc.next_step,
                reason=exc.reason,
            ) from exc


async def note_link(service: Service, record: TaskRecord, *, client: str | None, address: str | None) -> None:
    """Write down that somebody opens a link to a task's image. Who it is nobody knows; whose it is, the entry says.

    Args:
        service: A service without a person.
        record: The task.
        client: As in `Caller`.
        address: As in `Caller`.

    Raises:
        JournalError: It can't be written; then nothing may be shown.
    """
    at, journal = service._seam.now(), service._journal  # noqa: SLF001  # a friend
    entry = AuditEntry(
        at=at, what=What.IMAGE, person=None, client=client, address=address, whose=record.person, task=record.key
    )
    await journal.audit.note([entry])
