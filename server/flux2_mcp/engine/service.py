"""The orchestrator: it does the work of the tools and of the command line, in the terms of the domain.

generate: validate -> price -> check caps, write the intents -> the runner sends, polls, fetches -> wait for the caller
check:    read the journal; an id that the journal does not have is looked up at RunAPI and recorded
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup
from msgspec.structs import replace

from flux2_mcp.domain import budget
from flux2_mcp.domain.lifecycle import BEFORE_RESULT, UNFINISHED, State
from flux2_mcp.domain.models import MAKING, ImageRequest
from flux2_mcp.domain.sources import UnreadableError
from flux2_mcp.engine import callbacks, image_paths, submission
from flux2_mcp.engine.account import Account
from flux2_mcp.engine.backend import account_name
from flux2_mcp.engine.confirmation import Quotation, Quotations
from flux2_mcp.engine.foreign_tasks import ForeignTasks
from flux2_mcp.engine.key_holder import KeyHolder
from flux2_mcp.engine.live_prices import LivePrices
from flux2_mcp.engine.pruning import Pruner
from flux2_mcp.engine.request_checks import RequestChecks
from flux2_mcp.engine.runner import TaskRunner
from flux2_mcp.engine.seam import Seam, opened
from flux2_mcp.engine.source_images import SourceImages
from flux2_mcp.engine.waiting import MAX_IDS, OnProgress, Outcome, TaskReport, Waiter, by_picture, refusal, replays
from flux2_mcp.errors import InvalidRequestError, Problem, Wording, before_sending, together
from flux2_mcp.journal.listed import ListedTask
from flux2_mcp.journal.records import Intent, TaskFilter, TaskRecord, adopted, service_of
from flux2_mcp.settings import Settings

if TYPE_CHECKING:  # loaded at the first use alone
    from flux2_mcp.domain.budget import SpentSums
    from flux2_mcp.domain.people import Caller, Person
    from flux2_mcp.engine.apply import Manifests
    from flux2_mcp.engine.health import Health
    from flux2_mcp.engine.team import Callers
    from flux2_mcp.journal.records import TaskMatches

BEFORE = Wording("no task has this id: give the {name:before} that the last list ended with.")
MAX_COUNT = 8
"""The maximum number of tasks in one call."""


class Service:
    """Makes images and reports on tasks. Create it with `Service.opened`.

    Args:
        settings: As parsed from the environment.
        seam: The journal, the way to RunAPI, clocks and times.
        hand_over: Whether another process polls and fetches what this one has sent.
    """

    def __init__(self, settings: Settings, seam: Seam, *, hand_over: bool = False) -> None:
        self.settings = settings
        self.session = seam.journal.owner
        self._account = account_name(settings)
        self._backend = seam.backend
        self.images = image_paths.folder(settings.home, seam)
        self._readable: tuple[Path, ...] = (self.images.folder, *settings.allowed_dirs)
        self._runner = TaskRunner(
            seam,
            self.images,
            self._sources(seam),
            caps=settings.caps,
            rate=settings.rate,
            in_flight=settings.in_flight,
            hand_over=hand_over,
        )
        self._key_holder = KeyHolder(
            seam.journal.accounts, seam.journal.leases, seam.backend, monotonic=seam.monotonic, sleep=seam.sleep
        )
        self._stopping, self._begun = anyio.Event(), anyio.Event()
        self.background: TaskGroup
        self._foreign = ForeignTasks(seam.journal.accounts, service_of(self._account))
        self._foreign_noticed = False
        self.prices = LivePrices(
            seam.backend, seam.journal.money, patience_seconds=seam.timing.prices_seconds, monotonic=seam.monotonic
        )
        self._answer_on(seam)

    def _sources(self, seam: Seam) -> SourceImages:
        return SourceImages(seam, self._readable, self.images)

    def _answer_on(self, seam: Seam, person: Person | None = None) -> None:
        """Make all that answers callers: it shows what the seam's journal shows."""
        self._seam, self._journal, self._person = seam, seam.journal, person
        if person is not None:
            self._readable = ()  # a path that they name is one of their own machine
        self._source_images = self._sources(seam)
        self._waiter = Waiter(seam, self._runner, self._stopping)
        self._quotations = Quotations(self.prices, seam, self.settings)
        self.account = Account(seam)
        self.pruner = Pruner(seam.journal.history, self.images)
        checks = RequestChecks(self._source_images, self.prices, self.settings, seam)
        self.request, self.take_source, self.in_turn = checks.request, self._source_images.take, seam.in_turn

    def of(self, caller: Caller) -> Service:
        """Return what answers a person's calls: their tasks are theirs, and they see no others, unless they are an admin."""
        from flux2_mcp.engine.audited import AuditedService

        return AuditedService.answering(self, caller)

    async def show(self, records: Sequence[TaskRecord], *, images: bool = False) -> None:
        """Note that these tasks are about to be shown to the caller, or with `images` the bytes of their images.

        Raises:
            JournalError: It must be written down, and can't be. Then nothing may be shown.
        """

    @cached_property
    def callers(self) -> Callers:
        """Notes in the journal who calls."""
        from flux2_mcp.engine.team import Callers

        return Callers(self._seam, self.background)

    @property
    def _sees_all(self) -> bool:
        return self._person is None or self._person.admin

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        settings: Settings,
        *,
        keep: bool = True,
        hand_over: bool = False,
        seam: Callable[[Seam], Seam] | None = None,
    ) -> AsyncIterator[Service]:
        """Open a service. Heavy modules are loaded only when there is work for them.

        Args:
            settings: As parsed from the environment.
            keep: Whether the service works on open tasks: sends them, polls them, fetches their images. If False, it
                only reads the journal and does not wait for RunAPI's answers.
            hand_over: With `keep`: only new tasks are sent, and another process does the rest of the work.
            seam: Replaces parts of the usual seam: a clock, a planner, times.
        """
        async with opened(settings) as usual:
            base = usual if keep else replace(usual, timing=replace(usual.timing, answer_seconds=0.0))
            service = cls(settings, base if seam is None else seam(base), hand_over=hand_over)
            failure: Exception | None = None
            async with anyio.create_task_group() as group:
                service.background = group
                if keep:
                    service._start(group)
                try:
                    yield service
                except Exception as exc:  # noqa: BLE001  # raised below, outside the group, which would wrap it
                    failure = exc
                group.cancel_scope.cancel()
            if failure is not None:
                raise failure

    def _start(self, group: TaskGroup) -> None:
        """Start the background work: the runner of open tasks, and what hears RunAPI's callbacks."""
        group.start_soon(self._keep)
        if (receiver := callbacks.receiver(self.settings, self._seam, self._runner)) is not None:
            group.start_soon(receiver)

    @cached_property
    def manifests(self) -> Manifests:
        """Images as code: the pictures of a project."""
        from flux2_mcp.engine.apply import Manifests

        return Manifests(self, self._seam)

    def health(self) -> Health:
        """Return the checks of what this service needs."""
        from flux2_mcp.engine.health import Health

        return Health(self._seam, self.images, self.background)

    async def figures(self) -> tuple[TaskMatches, SpentSums]:
        """Return the sums over all tasks, and what was spent in the last 24 hours.

        Raises:
            JournalError: The journal can't be read.
        """
        matched = await self._journal.history.matched()
        return matched, await self._journal.money.spent(at=self._seam.now(), session=None)

    def stop_waiting(self) -> None:
        """Answer the calls that wait for tasks now, and let no later call wait: the process is about to end."""
        self._waiter.stop()

    async def _keep(self) -> None:
        # Before the first task of any process there is nothing to work on, and no journal file should be made.
        while not (self._begun.is_set() or self._journal.exists):
            with anyio.move_on_after(self._seam.timing.claim_seconds):
                await self._begun.wait()
        self.background.start_soon(self._key_holder.keep_learning)
        await self._runner.run()

    async def _one_account(self) -> None:
        """Give this key the tasks of the account's other keys, before a task is searched for or paid a second time."""
        if not self._key_holder.known and await self._journal.accounts.has_others():
            await self._key_holder.learn()

    def _push_url(self, key: str) -> str | None:
        url = self.settings.callback_url
        return None if url is None else callbacks.address(url, self.settings.api_key or self._account, key)

    async def offer(
        self,
        checked: submission.CheckedRequest,
        *,
        count: int = 1,
        max_cost_usd: Decimal | None = None,
        idempotency_key: str | None = None,
        goes_on: TaskRecord | None = None,
        consent: str | None = None,
    ) -> Quotation:
        """Price a call for `count` images, each a task of its own. Args beside those of the tool are as in `Quotations`.

        Raises:
            InvalidRequestError: The idempotency key is not usable.
            BudgetError: The price is more than `max_cost_usd`, or not known under a cap.
        """
        self._backend.require_key()
        with before_sending():
            if checked.finish:  # an earlier key of this account may have left the picture to go on from
                await self._one_account()
            return await self._quotations.quote(
                checked, count=count, stated_usd=max_cost_usd, key=idempotency_key, goes_on=goes_on, consent=consent
            )

    async def generate(
        self,
        offer: Quotation,
        *,
        approved: bool,
        wait_seconds: float,
        client: str | None = None,
        workspace: Path | None = None,
        save_to: str | None = None,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
        report_refusal: bool = False,
    ) -> Outcome:
        """Make the images of a quotation and wait for them.

        Args, in addition to those of the tool:
            offer: From `offer`.
            approved: Whether the user has agreed, if the call needs it. Not needed if a cap refuses the call.
            client: The name of the host, for the journal.
            workspace: The folder that the caller works in.
            on_progress: Called about once a second during the wait.
            report_refusal: Whether a refusal by RunAPI is in the outcome, and not raised.

        Raises:
            InvalidRequestError: A source image or the place to save is not usable.
            BudgetError: A cap refuses the call, or the user has not agreed. Nothing was sent.
            ApiError: RunAPI refused every one of the tasks.
            JournalError: The journal is not writable. Nothing was sent.
        """
        begun_at = self._seam.monotonic() - offer.took_seconds
        unasked = None if approved or offer.confirmation is None else offer.confirmation
        not_asked = ("The user was not asked.", Wording("Ask the user, then {name:call again}."))
        if unasked is not None and not unasked.over:
            raise unasked.refused(*not_asked)
        saving = submission.saving(save_to, len(offer.pictures), workspace, overwrite=overwrite)
        urls, sources = await self._source_images.send(offer.checked.found)
        offer = replace(offer, checked=replace(offer.checked, found=()))  # their bytes need not stay until the end
        intents = [
            Intent(
                key=task.key,
                request=replace(task.request, source_image_urls=urls, sources=sources)
                if sources and task.follows is None
                else task.request,
                quoted_usd=task.quoted_usd,
                reserved_usd=task.reserved_usd,
                workspace=None if workspace is None else str(workspace),
                client=client,
                session=self.session,
                push_url=self._push_url(task.key),
                save=save if task is picture[-1] else None,
                follows=task.follows,
                most_usd=offer.most_usd,
            )
            for picture, save in zip(offer.pictures, saving.saves, strict=True)
            for task in picture
        ]
        with before_sending():
            await self._one_account()
        # `intend` raises this only if it would write a new task and the caps have room for the task.
        hindrance = saving.hindrance() or (None if unasked is None else unasked.refused(*not_asked))
        async with self._runner.taking_in():
            intended = await self._journal.tasks.intend(
                intents,
                at=self._seam.now(),
                caps=self.settings.caps,
                join=offer.joinable,
                in_flight=self.settings.in_flight,
                stated_usd=offer.stated_usd,
                unless=hindrance,
                consent=offer.consent,
            )
            self._keep_ours(intended.records)
        self.background.start_soon(self._key_holder.learn)
        if intended.over is not None:
            alone = not offer.checked.finish and offer.checked.request.action in MAKING
            action, new, left = offer.checked.request.action, offer.new, intended.over.left_usd
            fitting = await self.prices.fitting(action, new, left) if alone else None
            raise budget.refusal(intended.wanted_usd, intended.over, fitting, offer.note, finishes=not alone)
        begun = await self._journal.tasks.led_to(offer.begun)
        tasks = await self._waiter.wait((*begun, *intended.records), wait_seconds, on_progress, begun=begun_at)
        if not (report_refusal or intended.repeated) and (refused := refusal(tasks)) is not None:
            raise refused
        await self._key_holder.learn(by=begun_at + wait_seconds)  # a later key finds these tasks again
        return replace(await self._outcome(tasks), joined=intended.joined, repeated=intended.repeated)

    async def check(
        self,
        task_ids: Sequence[str],
        *,
        wait_seconds: float,
        on_progress: OnProgress | None = None,
        first: bool = False,
    ) -> Outcome:
        """Report the state of tasks, and wait for those that have not ended.

        Args:
            task_ids: RunAPI's ids, our keys for tasks that have no id yet, or the caller's own keys.
            wait_seconds: The maximum wait for the tasks to end.
            on_progress: As in `generate`.
            first: Wait only until one of them has ended.

        Raises:
            NotFoundError: Neither the journal nor RunAPI knows an id, or it is no task of this person's.
        """
        await self._one_account()
        ids = list(dict.fromkeys([await self._get_known(each) for each in dict.fromkeys(task_ids)]))
        # All are read again together: the first task may have ended while RunAPI answered about the last.
        found = await self._journal.tasks.find(ids)
        return await self._check(await self._journal.tasks.led_to(found), wait_seconds, on_progress, first=first)

    async def recent(
        self,
        *,
        limit: int,
        states: Collection[State] | None = None,
        since: datetime | None = None,
        workspace: str | None = None,
        query: str | None = None,
        file: str | None = None,
        before: str | None = None,
        folders: Sequence[Path] = (),
        also: Sequence[Problem] = (),
        wait_seconds: float = 0,
        on_progress: OnProgress | None = None,
    ) -> Outcome:
        """List recorded tasks, newest first.

        Args, in addition to those of `check`:
            limit: The maximum number of tasks.
            states: Only tasks in these states.
            since: Only tasks created since then.
            workspace: Only tasks that a caller in this folder created.
            query: Only tasks with this text in their prompt, in upper or lower case.
            file: Only tasks that made this file, by its content: it may have been copied or renamed since.
            before: Only tasks created before the one with this id: the `before` of an earlier outcome.
            folders: The folders that may hold the file, the workspace first.
            also: What else is wrong with the call, so that one error names all.

        Raises:
            InvalidRequestError: The file can't be read, or is outside; or no task has the id `before`.
        """
        await self._one_account()
        wrong = [*also]
        sha256 = None
        if file is not None:
            try:
                sha256 = await self._source_images.content(file, folders)
            except UnreadableError as exc:
                wrong.append(Problem("file", exc.message))
        oldest = None if before is None else await self.known(before)
        if before is not None and oldest is None:
            wrong.append(Problem("before", BEFORE))
        if wrong:
            raise InvalidRequestError(*wrong)
        wanted = TaskFilter(states=states, since=since, workspace=workspace, query=query, sha256=sha256)
        # One more than is shown tells whether there are older ones.
        found = await self._journal.tasks.recent(
            limit=limit + 1, wanted=wanted, before=None if oldest is None else oldest.key
        )
        self._foreign_noticed = False
        outcome = await self._check(found[:limit], wait_seconds, on_progress, pictures=False)
        matched = await self._journal.history.matched(wanted)
        still = UNFINISHED if states is None else UNFINISHED.intersection(states)
        unended = await self._journal.tasks.recent(limit=MAX_IDS, wanted=replace(wanted, states=still))
        last = found[limit - 1] if len(found) > limit else None
        return replace(
            outcome, matched=matched, unended=unended, before=None if last is None else last.task_id or last.key
        )

    async def page(self, *, limit: int, before: str | None) -> tuple[TaskRecord, ...]:
        """Read a page of tasks from the journal, newest first: those older than the record with the key `before`."""
        await self._one_account()
        return image_paths.of_records(await self._journal.tasks.recent(limit=limit, before=before), self.images)

    async def newest(self, *, limit: int, before: str | None) -> tuple[ListedTask, ...]:
        """Read the same page as lists of resources have it: also where a record can't be read."""
        await self._one_account()
        return await self._journal.tasks.newest(limit=limit, before=before)

    async def called_back(self, ident: str, target: str | None) -> bool:
        """Poll a task soon, because a callback names it. Return whether it is a task of ours that RunAPI works on.

        Args:
            ident: RunAPI's id. Nothing else of a callback is believed.
            target: The address that was called, or its path. It must end in the task's token, if the task has one.
        """
        if not self._journal.exists:
            return False
        for record in await self._journal.tasks.find([ident]):
            pushed = None if record.request.callback_url else record.push_url
            if record.state not in BEFORE_RESULT or not callbacks.authentic(target, pushed):
                return False
            self._runner.nudge(record.key)
            if pushed is not None:  # another process may look after the task
                await self._journal.callbacks.mark(pushed)
            return True
        return False

    async def known(self, ident: str) -> TaskRecord | None:
        """Return the journal's record of a task id or key, or None."""
        await self._one_account()
        found = await self._journal.tasks.find(submission.names(ident, self._seam.person))
        return next(iter(image_paths.of_records(found, self.images)), None)

    async def _check(
        self,
        records: Sequence[TaskRecord],
        wait_seconds: float,
        on_progress: OnProgress | None,
        *,
        first: bool = False,
        pictures: bool = True,
    ) -> Outcome:
        if wait_seconds > 0:
            for record in records:
                self._runner.hurry(record.key)
        reports = await self._waiter.wait(records, wait_seconds, on_progress, first=first)
        return await self._outcome(reports, pictures=pictures)

    async def _get_known(self, ident: str) -> str:
        """Return the id or key by which the journal has a task.

        An unknown id is looked up at RunAPI and recorded; but not for a person: RunAPI does not know whose it is.
        """
        for name in submission.names(ident, self._seam.person):
            if await self._journal.tasks.find([name]):
                return name
        from flux2_mcp.engine.unknown_ids import at_runapi, not_yours

        if not self._sees_all:
            raise not_yours(ident)
        self._backend.require_key()
        request, location = await at_runapi(await self._backend.api(), ident, self._foreign.missing)
        await self._adopt(request, ident, location)
        return ident

    async def _adopt(self, request: ImageRequest, task_id: str, location: str | None) -> None:
        intent = Intent(key=adopted(task_id), request=request, quoted_usd=None, session=self.session)
        async with self._runner.taking_in():
            record = await self._journal.tasks.adopt(intent, task_id, at=self._seam.now(), location=location)
            self._keep_ours([record])

    def _keep_ours(self, records: Sequence[TaskRecord]) -> None:
        """Give the runner the tasks that were just recorded, except those that another process holds."""
        self._begun.set()
        for record in records:
            if record.owner == self.session and record.state.unfinished:
                self._runner.keep(record)

    async def _outcome(self, tasks: tuple[TaskReport, ...], *, pictures: bool = True) -> Outcome:
        noticed, self._foreign_noticed = self._foreign_noticed, True
        # What concerns the tasks of others is for those who see them.
        foreign = await self._foreign.notice() if self._sees_all and not noticed else None
        unread = self._journal.unread_notice() if self._sees_all else None
        notices = [self._journal.notice, unread, foreign, replays(tasks)]
        notice = together(notices) or None
        tasks = image_paths.of_reports(by_picture(tasks) if pictures else tasks, self.images)
        if pictures:  # their files are shown: another machine may have fetched them
            await self.images.bring([image for report in tasks for image in report.record.images][:MAX_COUNT])
        return Outcome(tasks=tasks, sandbox=self._backend.sandbox, notice=notice)
