"""What a plan costs, and what of it is paid already. It reads the journal and the prices; nothing that is paid is sent.

A picture's key comes from the project's folder and its request: a run that was killed finds its tasks again by it, and so
does one that makes a picture anew whose file somebody has removed. A request whose task failed, or whose picture is gone,
gets the key of the next try.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal

import anyio
import anyio.to_thread
from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain import budget, catalog, finishing, pricing
from flux2_mcp.domain.budget import CapRoom, SpentSums
from flux2_mcp.domain.lifecycle import RESULT_LIFETIME, State
from flux2_mcp.domain.manifest.plan import MAKES, Plan, PlannedImage, Standing
from flux2_mcp.domain.models import Balance, ImageRequest
from flux2_mcp.domain.pricing import PriceBook
from flux2_mcp.engine import image_paths, submission
from flux2_mcp.engine.confirmation import Confirmation
from flux2_mcp.engine.live_prices import LivePrices
from flux2_mcp.engine.project import Project
from flux2_mcp.engine.seam import Seam, opened
from flux2_mcp.errors import Flux2Error, InvalidRequestError, Problem, meant, together
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.settings import Settings

MAX_TRIES = 100
"""Tries of one request in one project."""
ASKS = MAKES | {Standing.MISSING}
"""The standings of pictures that may have to be asked for."""


class QuotedImage(Struct, frozen=True, kw_only=True):
    """One picture of a plan, and what it would cost.

    Attributes:
        planned: What is to do about it.
        steps: Its requests, without those whose picture is there to go on from; none if nothing has to be asked for.
        pays: Whether it has to be paid. Otherwise its picture is there, or under way.
        usd: Its price, 0 if it is not paid; None: nobody publishes it.
        most_usd: The highest known price, as caps count it.
        key: The key that it would be sent with; None: its request is not known before a source is made.
        record: The task that made it before, or is about to.
        goes_on: The task of an earlier step, on whose picture its steps go on; None: they begin with the first.
        kept: A file is there that is not the one that was made, so nothing is done.
        blocked: A picture that it is made from is kept or blocked, so it can't be made.
    """

    planned: PlannedImage
    steps: tuple[ImageRequest, ...] = ()
    pays: bool = False
    usd: Decimal | None = Decimal(0)
    most_usd: Decimal | None = Decimal(0)
    key: str | None = None
    record: TaskRecord | None = None
    goes_on: TaskRecord | None = None
    kept: bool = False
    blocked: bool = False


class Earlier(Struct, frozen=True):
    """What the journal has of a picture's request.

    Attributes:
        key: The key of its next try; "" if that is not known yet.
        record: The newest task of its last step.
        there: Whether that has a picture on this machine, or has not ended.
        goes_on: The task of an earlier step, on whose picture the next try goes on.
    """

    key: str = ""
    record: TaskRecord | None = None
    there: bool = False
    goes_on: TaskRecord | None = None


NOTHING_EARLIER = Earlier()


class ManifestQuote(Struct, frozen=True, kw_only=True):
    """A plan with its price.

    Attributes:
        project: Whose plan it is.
        plan: All of it.
        images: The chosen pictures.
        overwrite: Whether files that were edited by hand are replaced.
        known_usd: The sum of all known prices.
        unknown: How many of those that are paid have no known price.
        stated_usd: The most that the user allows.
        caps: The caps that are set, and what is left of them.
        balance: The account's; None without a key, or if nothing is paid.
        trouble: Why the balance is not known.
        confirmation: What the user has to agree to first.
        consent: Names the answer to an earlier question, if the call came with one.
        note: A sentence about the price, if the sandbox made it up.
        sandbox: Whether the sandbox draws the pictures.
    """

    project: Project
    plan: Plan
    images: tuple[QuotedImage, ...]
    overwrite: bool = False
    known_usd: Decimal = Decimal(0)
    unknown: int = 0
    stated_usd: Decimal | None = None
    caps: Sequence[CapRoom] = ()
    balance: Balance | None = None
    trouble: Flux2Error | None = None
    confirmation: Confirmation | None = None
    consent: str | None = None
    note: str | None = None
    sandbox: bool = False

    @property
    def usd(self) -> Decimal | None:
        """The price of all that is paid; None if one of the prices is not known."""
        return None if self.unknown else self.known_usd

    @property
    def to_ask(self) -> Confirmation | None:
        """What to ask the user now; None if a cap will refuse the plan anyway."""
        return None if self.confirmation is None or self.confirmation.over else self.confirmation

    @property
    def paid(self) -> tuple[QuotedImage, ...]:
        """The pictures that have to be paid."""
        return tuple(image for image in self.images if image.pays and not image.kept and not image.blocked)

    @property
    def todo(self) -> tuple[QuotedImage, ...]:
        """The pictures about which something is done."""
        return tuple(i for i in self.images if i.planned.standing is not Standing.CURRENT and not i.kept)


class ManifestQuotes:
    """Prices plans.

    Args:
        seam: The journal, the way to RunAPI, the clock.
        prices: The price schedules.
        settings: The caps, and the amount that a call may cost without a confirmation.
    """

    def __init__(self, seam: Seam, prices: LivePrices, settings: Settings) -> None:
        self._journal = seam.journal
        self._person = seam.person
        self._images = image_paths.folder(settings.home, seam)
        self._backend = seam.backend
        self._now = seam.now
        self._prices = prices
        self._settings = settings

    async def quote(
        self,
        project: Project,
        plan: Plan | None = None,
        *,
        paths: Collection[str] = (),
        overwrite: bool = False,
        stated_usd: Decimal | None = None,
        balance: bool = False,
        consent: str | None = None,
    ) -> ManifestQuote:
        """Plan, and price what is to do.

        Args:
            project: The project.
            plan: Its plan, if it was made just now.
            paths: Only these pictures, and those that they are made from; none: all.
            overwrite: Replace files that were edited by hand.
            stated_usd: The most that all may cost. A user who states it has confirmed it.
            balance: Ask for the account's balance, too, if something has to be paid.
            consent: See `ManifestQuote`.

        Raises:
            ManifestError: The manifest or the lock can't be used.
            InvalidRequestError: A path names no picture of the manifest.
        """
        planned = await anyio.to_thread.run_sync(project.plan) if plan is None else plan
        chosen = _chosen(planned, paths)
        quoted, held = await self._quoted(project, planned, chosen, overwrite=overwrite, balance=balance)
        paid = [image for image in quoted if image.pays and not image.kept and not image.blocked]
        known = [image.usd for image in paid if image.usd is not None]
        made = ManifestQuote(
            project=project,
            plan=planned,
            images=tuple(quoted),
            overwrite=overwrite,
            known_usd=sum(known, Decimal(0)),
            unknown=len(paid) - len(known),
            stated_usd=stated_usd,
            consent=consent,
            sandbox=self._backend.sandbox,
        )
        return await self._with_money(made, held) if paid else made

    async def _quoted(
        self, project: Project, plan: Plan, chosen: Sequence[PlannedImage], *, overwrite: bool, balance: bool
    ) -> tuple[list[QuotedImage], Balance | Flux2Error | None]:
        """Return the pictures with their prices; and the balance if it is wanted, something is paid, and there is a key.

        RunAPI is asked for both at the same time.
        """
        asks = [
            image
            for image in chosen
            if image.standing in ASKS or (image.standing is Standing.EDITED and image.edited and overwrite)
        ]
        steps = {image.path: _steps(plan, image) for image in asks}
        earlier = await self.earlier(project, plan, asks, steps)
        used = {step for image in asks for step in steps[image.path]}
        pays = any(not earlier.get(path, NOTHING_EARLIER).there for path in steps)
        book, held = PriceBook(), list[Balance | Flux2Error]()
        async with anyio.create_task_group() as group:
            if balance and pays and self._backend.has_key and not self._backend.sandbox:
                group.start_soon(self._balance, held)
            if used:
                book = await self._book(used)
        found = []
        for image in chosen:
            if image.path not in steps:
                left = image.standing is Standing.EDITED or (image.standing is Standing.MOVED and image.edited)
                found.append(QuotedImage(planned=image, kept=left and not overwrite))
                continue
            known = earlier.get(image.path, NOTHING_EARLIER)
            there = known.there
            missing = missing_after(known.goes_on, steps[image.path])
            prices = [pricing.price_of(book, step).usd for step in missing]
            most = [pricing.dearest_of(book, step) for step in missing]
            found.append(
                QuotedImage(
                    planned=image,
                    steps=missing,
                    pays=not there,
                    usd=Decimal(0) if there else _sum(prices) if None not in most else None,
                    most_usd=Decimal(0) if there else _sum(most),
                    key=known.key or None,
                    record=known.record,
                    goes_on=known.goes_on,
                    kept=image.edited and not overwrite and not there,
                )
            )
        return _with_blocked(found), next(iter(held), None)

    async def _balance(self, held: list[Balance | Flux2Error]) -> None:
        try:
            held.append(await (await self._backend.api()).balance())
        except Flux2Error as exc:
            held.append(exc)  # a plan is useful without the balance

    async def _book(self, steps: Iterable[ImageRequest]) -> PriceBook:
        """Return the prices. The sandbox's are the published ones, so that it need not start for them."""
        models = [catalog.all_models()[step.model] for step in steps]
        if self._backend.sandbox and all(model.published_cents for model in models):
            return PriceBook(sandbox=True)
        return await self._prices.book({model.service for model in models})

    async def earlier(
        self, project: Project, plan: Plan, images: Sequence[PlannedImage], steps: Mapping[str, Sequence[ImageRequest]]
    ) -> Mapping[str, Earlier]:
        """Return what the journal has of each picture whose request is known.

        An earlier task will do if its picture is on this machine, or it has not ended; and if it is not that of another
        entry: a new entry may have the number that another one with the same request had before.
        """
        owners = {one.locked.task: one.path for one in plan.images if one.locked is not None and one.locked.task}
        known = {image.path: image for image in images if image.request is not None}
        found: dict[str, Earlier] = {}
        if self._journal.was_made:
            of_lock = [one.locked.task for one in known.values() if one.locked and one.locked.request == one.request]
            tasks = {record.task_id: record for record in await self._journal.tasks.find(of_lock)} if of_lock else {}
            for path, one in known.items():
                record = tasks.get(one.locked.task) if one.locked is not None else None
                if record is not None:
                    there = await self._will_do(record)
                    found[path] = Earlier(_key(project, one) if there else "", record, there)
        left = [one for one in known.values() if not found.get(one.path, NOTHING_EARLIER).key]
        for number in range(1, MAX_TRIES + 1):
            keys = {
                submission.following(self._recorded(_key(project, one, number)), len(steps[one.path]) - 1): one
                for one in left
            }
            records = await self._journal.tasks.find([*keys]) if keys and self._journal.was_made else ()
            by_key = {record.key: record for record in records}
            for last, one in keys.items():
                record = by_key.get(last)
                if record is None:
                    before = found.get(one.path, NOTHING_EARLIER).record
                    found[one.path] = Earlier(_key(project, one, number), before)
                elif owners.get(record.task_id or "", one.path) != one.path:
                    found[one.path] = NOTHING_EARLIER
                else:
                    found[one.path] = await self._tried(_key(project, one, number), record, steps[one.path])
            left = [one for one in left if not found[one.path].key]
            if not left:
                break
        return found

    async def _will_do(self, record: TaskRecord) -> bool:
        """Whether a task has a picture on this machine or in the store, or will have."""
        if record.state is not State.DELIVERED:
            return record.state.unfinished and record.readable
        for image in record.images[:1]:
            if image.saved is not None and await anyio.Path(image.saved).is_file():
                return True
            return await self._images.has(image)
        return False

    def _recorded(self, key: str) -> str:
        """Return the key under which the journal has a picture's task."""
        return submission.own(key, self._person) or key

    async def _tried(self, key: str, record: TaskRecord, steps: Sequence[ImageRequest]) -> Earlier:
        """Return what became of a try.

        Args:
            key: Its key.
            record: The task of its last step.
            steps: Its requests.
        """
        if await self._will_do(record):
            return Earlier(key, record, there=True)
        way = [*await self._journal.tasks.find([self._recorded(key)])] if len(steps) > 1 else []
        for step in steps[1:] if way else ():
            alike = [each for each in await self._journal.tasks.followers([way[-1].key]) if _asks_for(each, step)]
            if not alike:
                break
            way.append(alike[-1])
        if len(way) == len(steps):
            record = way[-1]
            if await self._will_do(record):
                return Earlier(key, record, there=True)
        for each in reversed(way[: len(steps) - 1]):
            at_runapi = each.created_at > self._now() - RESULT_LIFETIME
            if each.state is State.DELIVERED and (at_runapi or await self._will_do(each)):
                return Earlier(key, record, goes_on=each)
        return Earlier("", record)

    async def _with_money(self, made: ManifestQuote, held: Balance | Flux2Error | None) -> ManifestQuote:
        spent = await self.spent()
        caps = budget.left(self._settings.caps, spent)
        models = {step.model for image in made.paid for step in image.steps}
        note = pricing.invented(pricing.unpublished(models)) if made.sandbox else None
        threshold = self._settings.confirm_usd
        confirmation = None
        if made.stated_usd is None and threshold is not None and (made.usd is None or made.usd > threshold):
            confirmation = Confirmation(
                question=_question(made, caps, note),
                quoted_usd=made.usd,
                threshold_usd=threshold,
                cheaper=None,
                over=made.usd is not None and budget.exceeded(made.usd, self._settings.caps, spent) is not None,
                note=note,
            )
        return replace(
            made,
            caps=caps,
            balance=held if isinstance(held, Balance) else None,
            trouble=held if isinstance(held, Flux2Error) else None,
            confirmation=confirmation,
            note=note,
        )

    async def spent(self) -> SpentSums:
        """Return what the caps count; before the first task of any process, no journal is made for that."""
        if not self._journal.was_made:
            return SpentSums()
        money, caps = self._journal.money, self._settings.caps
        return await money.spent(at=self._now(), session=self._journal.owner, caps=caps)


@asynccontextmanager
async def quoting(settings: Settings) -> AsyncIterator[ManifestQuotes]:
    """Open what prices a plan, and nothing that makes pictures: a plan is asked for often, and that takes long to load."""
    async with opened(settings) as usual:
        prices = LivePrices(
            usual.backend,
            usual.journal.money,
            patience_seconds=usual.timing.prices_seconds,
            monotonic=usual.monotonic,
        )
        yield ManifestQuotes(usual, prices, settings)


def key_of(project: Project, request: str, number: int, tried: int) -> str:
    """Return the idempotency key of a picture.

    Args:
        project: Its project.
        request: The digest of its request.
        number: Its number among the entries that ask for the same.
        tried: The number of the try.
    """
    text = "\0".join([project.real, request, str(number)])
    return f"project-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:40]}-{tried}"


def _key(project: Project, image: PlannedImage, tried: int = 1) -> str:
    return key_of(project, image.request or "", image.number, tried)


def missing_after(record: TaskRecord | None, steps: Sequence[ImageRequest]) -> tuple[ImageRequest, ...]:
    """Return the steps that are missing after a task; all if there is none."""
    done = 0 if record is None else next(n for n, step in enumerate(steps, 1) if step.model == record.request.model)
    return tuple(steps[done:])


def _asks_for(record: TaskRecord, step: ImageRequest) -> bool:
    """Whether a task has the request of this step, on whatever picture."""
    return [*finishing.labels([record.request])] == [*finishing.labels([step])]


def _with_blocked(images: Sequence[QuotedImage]) -> list[QuotedImage]:
    """Return the pictures; those that can't be made because of another one are marked."""
    stuck = {image.planned.path for image in images if image.kept}
    blocked: set[str] = set()
    while more := {
        image.planned.path
        for image in images
        if image.planned.path not in blocked and stuck.intersection(image.planned.waits_for)
    }:
        blocked |= more
        stuck |= more
    return [replace(image, blocked=image.planned.path in blocked) for image in images]


def _steps(plan: Plan, image: PlannedImage) -> tuple[ImageRequest, ...]:
    """Return the requests of a picture, without the addresses of its sources."""
    first, *rest = finishing.steps_of(plan.manifest.request(plan.manifest.entries[image.path]))
    return first, *rest


def _chosen(plan: Plan, paths: Collection[str]) -> list[PlannedImage]:
    """Return the pictures of these paths, and those that they wait for; all if there are no paths.

    Raises:
        InvalidRequestError: A path is in neither file.
    """
    if not paths:
        return list(plan.images)
    known = {image.path: image for image in plan.images}
    wrong = [path for path in paths if path not in known]
    if wrong:
        raise InvalidRequestError(
            *(Problem(path, f"is no picture of {plan.manifest.name}{meant(path, known)}.") for path in wrong)
        )
    wanted: set[str] = set()
    left = [*paths]
    while left:
        path = left.pop()
        if path not in wanted:
            wanted.add(path)
            left += known[path].waits_for
    return [image for image in plan.images if image.path in wanted]


def _sum(amounts: Sequence[Decimal | None]) -> Decimal | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known, Decimal(0)) if len(known) == len(amounts) else None


def _question(made: ManifestQuote, caps: Sequence[CapRoom], note: str | None) -> str:
    """Return the question whether to pay for a plan, several lines."""
    count = len(made.paid)
    known = budget.dollars(made.known_usd)
    price = known if not made.unknown else f"{known} and {made.unknown} of a price that is not published"
    kinds = Counter(label for image in made.paid for label in finishing.labels(image.steps))
    lines = [f"Make {'1 picture' if count == 1 else f'{count} pictures'} of {made.plan.manifest.name} for {price}?"]
    lines += [f"{times} x {label}" for label, times in kinds.items()]
    lines += [f"Left of {cap.name}: {budget.dollars(cap.left_usd)}." for cap in caps]
    return together([*lines, note], "\n")
