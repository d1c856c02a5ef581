"""One run over a plan: it makes what the plan says, through the same calls as any other caller; and writes the lock, picture by picture.

Rules
- Whatever was begun is found again by its key: a run that was killed is run again and pays nothing twice.
- A picture's lines are written into the lock after its file is there.
- A file that was edited by hand is only replaced if the user says so. That is looked at right before it would be.
- A picture that is made from another one waits for it.
- One picture that fails stops no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from msgspec.structs import replace

from flux2_mcp.domain import budget, catalog
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.domain.manifest import digests, reading
from flux2_mcp.domain.manifest.entries import Entry, is_remote
from flux2_mcp.domain.manifest.lock import LockedImage
from flux2_mcp.domain.manifest.plan import MAKES, PlannedImage, Standing, contents_of
from flux2_mcp.domain.models import StoredImage
from flux2_mcp.engine.applied import GOOD, PATIENCE_SECONDS, Applied, AppliedImage, Result
from flux2_mcp.engine.manifest_quotes import ManifestQuote, ManifestQuotes, QuotedImage
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.submission import Terms
from flux2_mcp.engine.waiting import Progress, TaskReport
from flux2_mcp.errors import (
    DeliveryError,
    Flux2Error,
    InvalidRequestError,
    JournalError,
    Problem,
    StorageError,
    TaskFailedError,
    Wording,
)
from flux2_mcp.images import download
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.system import files

if TYPE_CHECKING:  # the service has this room
    from flux2_mcp.engine.service import Service

P = ParamSpec("P")
T = TypeVar("T")

PIECE_BYTES = 2**20
WRITERS = 2
"""Threads that convert and write pictures: each may hold a whole one in memory."""
LOST = "Its picture is on this machine no more, and RunAPI does not have it any more, either."
CHANGED_MEANWHILE = "A source was changed after the plan was made. Nothing was sent for this picture."
IN_THE_WAY = "A file is there that flux2-mcp has not made, or that was edited by hand. It was left as it is."


class ApplyRun:
    """One run over a plan."""

    def __init__(
        self, service: Service, seam: Seam, quotes: ManifestQuotes, quote: ManifestQuote, client: str | None
    ) -> None:
        self._service = service
        self._images = service.images
        self._journal = seam.journal
        self._backend = seam.backend
        self._quotes = quotes
        self._quote = quote
        self._made = quote.plan.manifest
        self._project = quote.project
        self._client = client
        self._places = anyio.CapacityLimiter(service.settings.in_flight)
        self._writers = anyio.CapacityLimiter(WRITERS)
        self._readers = anyio.Semaphore(WRITERS)
        self._unpriced = anyio.Lock()
        self._ended = {image.planned.path: anyio.Event() for image in quote.images}
        self._results: dict[str, AppliedImage] = {}
        self._idents: dict[str, str | None] = {}
        self._reports: dict[str, TaskReport] = {}
        self.done = anyio.Event()
        self.failure: Exception | None = None

    async def run(self) -> None:
        """Do all of it. An error that nobody foresaw is kept for the caller, as the service must go on."""
        try:
            await self._in_thread(self._project.clear, self._made)
            async with anyio.create_task_group() as group:
                for image in self._quote.images:
                    group.start_soon(self._reported, image)
            with suppress(Flux2Error):  # all that was made is noted
                await self._in_thread(self._project.settle)
        except Exception as exc:  # noqa: BLE001  # raised to the caller that waits
            self.failure = exc
        finally:
            self.done.set()

    def makes(self, quote: ManifestQuote) -> bool:
        """Whether this run is over the same manifest, and so another one has nothing to add."""
        return quote is self._quote or quote.plan.manifest == self._made

    @property
    def answered(self) -> bool:
        """Whether each picture that is worked on is written down, so that its task can be named."""
        begun = self._idents.items()
        return bool(begun) and all(ident is not None or path in self._results for path, ident in begun)

    def applied(self) -> Applied:
        """Return what became of each picture so far."""
        images = [
            self._results.get(image.planned.path) or self._under_way(image.planned.path) for image in self._quote.images
        ]
        return Applied(quote=self._quote, images=tuple(images), done=self.done.is_set(), sandbox=self._backend.sandbox)

    def _under_way(self, path: str) -> AppliedImage:
        result = Result.OPEN if path in self._idents else Result.WAITING
        return AppliedImage(path=path, result=result, ident=self._idents.get(path))

    def progress(self, elapsed: float) -> Progress:
        """Return how many of the pictures that are worked on have ended."""
        states = []
        for image in self._quote.todo:
            found = self._results.get(image.planned.path)
            ended = State.DELIVERED if found is not None and found.result in GOOD else State.FAILED
            states.append(State.SUBMITTED if found is None or found.result is Result.OPEN else ended)
        return Progress(elapsed=elapsed, remaining=None, states=tuple(states))

    async def _reported(self, image: QuotedImage) -> None:
        path = image.planned.path
        try:
            self._results[path] = await self._one(image)
        except Flux2Error as exc:
            self._results[path] = AppliedImage(
                path=path, result=Result.FAILED, report=self._reports.get(path), error=exc
            )
        finally:
            self._ended[path].set()

    async def _one(self, image: QuotedImage) -> AppliedImage:
        planned = image.planned
        for needed in planned.waits_for:
            await self._ended[needed].wait()
            before = self._results.get(needed)
            if before is None or before.result not in GOOD:
                return AppliedImage(path=planned.path, result=Result.WAITING)
        if image.kept:
            return AppliedImage(path=planned.path, result=Result.KEPT)
        if planned.standing is Standing.UNNAMED:
            await self._in_thread(self._project.note, without=[planned.path])
            return AppliedImage(path=planned.path, result=Result.FORGOTTEN)
        if planned.standing is Standing.MOVED:
            moved = await self._moved(planned)
            return AppliedImage(path=planned.path, result=Result.MOVED if moved else Result.KEPT)
        if planned.standing in {Standing.DERIVE, Standing.CURRENT, Standing.EDITED} and not image.steps:
            return await self._derived(planned)
        async with self._places:
            self._idents[planned.path] = None
            return await self._asked(image)

    async def _moved(self, planned: PlannedImage) -> bool:
        """Give a picture its new name. Its copies are made anew, which gives the same bytes."""
        locked, old = planned.locked, planned.moved_from
        if locked is None or old is None:
            return False
        if not await self._in_thread(
            self._project.move, old, planned.path, locked.sha256, overwrite=self._quote.overwrite
        ):
            return False
        moved = replace(locked, path=planned.path, derived="", files={})
        await self._in_thread(self._project.note, moved, without=[old])
        await self._derive(planned, moved)
        for path, sha256 in locked.files.items():
            if path not in self._made.outputs:
                await self._in_thread(self._project.remove, path, sha256)
        return True

    async def _derived(self, planned: PlannedImage) -> AppliedImage:
        if planned.standing is Standing.CURRENT or planned.locked is None:
            return AppliedImage(path=planned.path, result=Result.CURRENT)
        await self._derive(planned, planned.locked)
        return AppliedImage(path=planned.path, result=Result.DERIVED)

    async def _asked(self, image: QuotedImage) -> AppliedImage:
        """Find the picture of an earlier task, or have it made."""
        planned, entry = image.planned, self._made.entries[image.planned.path]
        if planned.request is None:  # its sources are there now
            image = await self._known(image, entry)
            planned = image.planned
            if planned.standing is Standing.CURRENT:
                return AppliedImage(path=planned.path, result=Result.CURRENT)
        record = image.record
        if record is None and planned.standing not in MAKES and planned.locked is not None:
            record = await self._elsewhere(planned.locked.task)
        if record is not None:
            self._idents[planned.path] = record.task_id or record.key
            report = await self._wait(record)
            if report is not None and report.record.state is not State.DELIVERED:
                if not image.pays:
                    return self._unmade(planned, report)
            elif (done := await self._placed(planned, record if report is None else report.record)) is not None:
                return AppliedImage(path=planned.path, result=done[0], report=_with(report, done[1]))
        if not image.pays:
            raise DeliveryError(
                LOST, cost="It was paid once.", next_step=Wording("{name:Call again}: its price is told then.")
            )
        if image.most_usd is None:
            async with self._unpriced:  # one after the other: the charge for the first is the price of the next
                return await self._paid(image, entry)
        return await self._paid(image, entry)

    async def _known(self, image: QuotedImage, entry: Entry) -> QuotedImage:
        """Return the picture with its request, now that its sources are there."""
        planned = image.planned
        disk = await self._in_thread(self._project.contents, self._made, _files(self._made.sources(entry)))
        contents = contents_of(self._made, entry, disk)
        if contents is None:
            raise InvalidRequestError(Problem(self._made.at((*entry.toml, "sources")), "a source is not there."))
        parts = digests.parts(self._made, entry, contents)
        request = digests.request(parts)
        locked = planned.locked
        same = locked is not None and locked.request == request and not (locked.sandbox and self._project.live)
        if same and not planned.edited:
            standing = Standing.CURRENT if await self._is_there(planned) else Standing.MISSING
        else:
            standing = planned.standing
        planned = replace(planned, request=request, parts=parts, standing=standing)
        found = await self._quotes.earlier(self._project, self._quote.plan, [planned], {planned.path: image.steps})
        known = found[planned.path]
        return replace(
            image,
            planned=planned,
            key=known.key,
            record=known.record,
            goes_on=known.goes_on,
            pays=image.pays and not known.there,
        )

    async def _is_there(self, planned: PlannedImage) -> bool:
        found = await self._in_thread(self._project.contents, self._made, [planned.path])
        return planned.locked is not None and found.get(planned.path) == planned.locked.sha256

    async def _paid(self, image: QuotedImage, entry: Entry) -> AppliedImage:
        """Have a picture made. It may cost what was quoted, and no more."""
        planned = image.planned
        most = image.most_usd if image.most_usd is not None else self._share()
        terms = Terms(max_cost_usd=most, idempotency_key=image.key)
        try:
            async with self._readers:  # each source is decoded, and sixteen at once would be in memory
                checked = await self._service.request(
                    self._made.request(entry), folders=(self._project.folder,), terms=terms
                )
        except InvalidRequestError as exc:
            raise reading.located_error(self._made, entry, exc) from exc
        contents = dict(zip(self._made.sources(entry), (each.identity for each in checked.found), strict=True))
        if digests.request(digests.parts(self._made, entry, contents)) != planned.request:
            raise InvalidRequestError(Problem(self._made.at((*entry.toml, "sources")), CHANGED_MEANWHILE))
        offer = await self._service.offer(checked, max_cost_usd=most, idempotency_key=image.key, goes_on=image.goes_on)
        key, left = offer.pictures[-1][-1].key, [offer]
        del checked, offer  # they have the bytes of the sources, which nobody needs while the picture is made

        async def written_down(_: Progress) -> None:
            self._idents[planned.path] = key

        outcome = await self._service.generate(
            left.pop(),
            approved=True,
            wait_seconds=PATIENCE_SECONDS,
            client=self._client,
            workspace=self._project.folder,
            on_progress=written_down,
            report_refusal=True,
        )
        [report] = outcome.tasks
        self._reports[planned.path] = report  # it was paid, also if its picture can't be saved here
        if report.record.state is not State.DELIVERED:
            return replace(self._unmade(planned, report), goes_on=image.goes_on)
        done = await self._placed(planned, report.record)
        if done is None:
            raise DeliveryError(LOST, cost="It was paid once.")
        result, record = done
        result = Result.MADE if result is Result.RESTORED else result
        return AppliedImage(path=planned.path, result=result, report=_with(report, record), goes_on=image.goes_on)

    def _share(self) -> Decimal | None:
        """Return what each picture without a known price may cost; None: the user has stated no maximum."""
        stated, quote = self._quote.stated_usd, self._quote
        return None if stated is None else budget.share(stated, quote.known_usd, quote.unknown)

    def _unmade(self, planned: PlannedImage, report: TaskReport) -> AppliedImage:
        """Return what became of a picture whose task has brought none."""
        if report.record.state.unfinished:
            ident = report.record.task_id or report.record.key
            return AppliedImage(path=planned.path, result=Result.OPEN, report=report, ident=ident, error=report.trouble)
        error = report.trouble or TaskFailedError(report.error or "It brought no picture.")
        return AppliedImage(path=planned.path, result=Result.FAILED, report=report, error=error)

    async def _elsewhere(self, task_id: str) -> TaskRecord | None:
        """Return the record of a task that another machine has made, if RunAPI shows it to this key."""
        with suppress(Flux2Error):
            outcome = await self._service.check([task_id], wait_seconds=PATIENCE_SECONDS)
            return next((report.record for report in outcome.tasks), None)
        return None

    async def _wait(self, record: TaskRecord) -> TaskReport | None:
        """Wait for the end of a task that has not ended; None: it has."""
        if not record.state.unfinished:
            return None
        outcome = await self._service.check([record.task_id or record.key], wait_seconds=PATIENCE_SECONDS)
        return next(iter(outcome.tasks), None)

    async def _placed(self, planned: PlannedImage, record: TaskRecord) -> tuple[Result, TaskRecord] | None:
        """Put the picture of a task into its place, and note it in the lock. Return also its record, which names the copy.

        None: the picture is gone.
        """
        record = replace(record, images=self._images.placed(record.images))
        stored = await self._stored(record)
        if stored is None:
            return None
        old = planned.locked
        replaces: Collection[str] | None = () if old is None else (old.sha256,)
        if self._quote.overwrite:
            replaces = None
        path = planned.path
        try:
            sha256 = await self._in_thread(self._project.put, path, stored, replaces=replaces)
        except FileExistsError:
            return Result.KEPT, record
        locked = LockedImage(
            path=path,
            request=planned.request or "",
            parts={name: each[: digests.PART_DIGITS] for name, each in planned.parts.items()},
            task=record.task_id or record.key,
            sha256=sha256,
            size=(stored.width, stored.height),
            files={} if old is None else old.files,
            sandbox=self._backend.sandbox,
            **await self._chain(record, old),
        )
        await self._in_thread(self._project.note, locked, without=[*filter(None, [planned.moved_from])])
        record = await self._remember(record, path, sha256)
        await self._derive(planned, locked)
        return Result.RESTORED, record

    async def _chain(self, record: TaskRecord, old: LockedImage | None) -> Mapping[str, str]:
        """Return the models of the tasks that led to a picture, and what they were charged together.

        Of a task that another machine has made, only the lock knows that.
        """
        if old is not None and old.task == record.task_id:
            return {"model": old.model, "charged_usd": old.charged_usd}
        chain = await self._journal.tasks.led_to([record])
        known = [each.charged_usd for each in chain if each.charged_usd is not None]
        total = f"{sum(known, Decimal(0)).normalize():f}" if len(known) == len(chain) else ""
        return {"model": "+".join(each.request.model for each in chain), "charged_usd": total}

    async def _remember(self, record: TaskRecord, path: str, sha256: str) -> TaskRecord:
        """Tell the journal where the copy is, so that lists and the gallery show it."""
        first, *rest = record.images
        saved = str(self._project.folder / path)
        if first.saved == saved:
            return record
        images = (replace(first, saved=saved, saved_sha256=None if sha256 == first.sha256 else sha256), *rest)
        with suppress(JournalError):  # the copy is there, and the lock says so
            await self._journal.history.keep_images(record.key, tuple(map(self._images.recorded, images)))
        return replace(record, images=images)

    async def _stored(self, record: TaskRecord) -> StoredImage | None:
        """Return the picture of a task with a file that is there and unchanged: ours, its copy, or one fetched anew.

        Raises:
            StorageError: The store of images did not answer, and nobody else has it.
        """
        if not record.images:
            return None
        image, trouble = record.images[0], None
        try:
            await self._images.here(image)
        except StorageError as exc:
            trouble = exc
        places = [(image.path, image.sha256)]
        if image.saved is not None and image.saved_sha256 is None:
            places.append((image.saved, image.sha256))
        for place, sha256 in places:
            if await self._in_thread(_is, Path(place), sha256):
                return replace(image, path=place, saved=None, note=None)
        if (found := await self._fetched(record)) is None and trouble is not None:
            raise trouble
        return found

    async def _fetched(self, record: TaskRecord) -> StoredImage | None:
        """Fetch the picture of a task from RunAPI once more; None if RunAPI does not have it any more."""
        if record.task_id is None:
            return None
        with suppress(Flux2Error):
            api = await self._backend.api()
            remote = await api.get(
                record.request.action, record.task_id, line=catalog.line(record.request), location=record.location
            )
            for url in remote.image_urls[:1]:
                return await download.deliver(
                    api.download,
                    url,
                    folder=self._images.folder,
                    prompt=record.request.prompt,
                    at=record.created_at,
                    threads=self._writers,
                )
        return None

    async def _derive(self, planned: PlannedImage, locked: LockedImage) -> None:
        """Make the files that are made from a picture on this machine, and note them."""
        entry = self._made.entries[planned.path]
        made = await self._in_thread(self._project.derive, self._made, entry, locked, overwrite=self._quote.overwrite)
        if made is not None:
            await self._in_thread(self._project.note, made)

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(partial(work, *args, **more), limiter=self._writers)


def _with(report: TaskReport | None, record: TaskRecord) -> TaskReport | None:
    return None if report is None else replace(report, record=record)


def _files(sources: Sequence[str]) -> list[str]:
    return [source for source in sources if not is_remote(source)]


def _is(place: Path, sha256: str) -> bool:
    """Whether a plain file with this content is there."""
    try:
        with files.open_plain(place) as file:
            digest = hashlib.sha256()
            while piece := file.read(PIECE_BYTES):
                digest.update(piece)
    except OSError:
        return False
    return digest.hexdigest() == sha256
