"""Validates a call: its request, its sources, where it saves, what it may cost. Nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from flux2_mcp.domain import budget, catalog, finishing, pricing
from flux2_mcp.domain.models import MAKING, Action, RequestArgs
from flux2_mcp.domain.urls import callback_problems, is_loopback
from flux2_mcp.engine import submission
from flux2_mcp.engine.live_prices import LivePrices
from flux2_mcp.engine.seam import Seam
from flux2_mcp.engine.source_images import SourceImages, SourceSet
from flux2_mcp.errors import InvalidRequestError, Problem, Wording
from flux2_mcp.images import size_check
from flux2_mcp.settings import Settings

NO_SOURCE = "is empty: name what is to be remixed, or leave it out to make an image from the prompt alone."
ONE_PICTURE = Wording("is 1 without {name:prompt}: the picture that is to be finished exists once.")
OPAQUE = Wording("a JPEG has no transparent ground; end {name:save_to} in .png or .webp.")


class RequestChecks:
    """Validates calls.

    Args:
        source_images: Finds the sources.
        prices: What is known of prices.
        settings: As parsed from the environment.
        seam: Whether the sandbox makes the images, and whether callers are on other machines.
    """

    def __init__(self, source_images: SourceImages, prices: LivePrices, settings: Settings, seam: Seam) -> None:
        self._source_images = source_images
        self._prices = prices
        self._settings = settings
        self._sandbox, self._remote = seam.backend.sandbox, seam.remote

    async def request(
        self,
        args: RequestArgs,
        *,
        folders: Sequence[Path] = (),
        terms: submission.Terms = submission.Terms(),  # noqa: B008  # frozen
    ) -> submission.CheckedRequest:
        """Validate a request. No field is dropped, and nothing is sent yet. A remix keeps the shape of its source.

        Where many people call, pictures are decoded last, and only if nothing else is wrong: a call that is refused costs little.

        Args:
            args: The arguments of the caller.
            folders: The folders that may hold local sources, the workspace first.
            terms: What else the call wants, so that one error names all that is wrong with it.

        Raises:
            InvalidRequestError: It names every wrong field and what is allowed.
            SettingsError: A setting that is needed for spending is not usable.
        """
        self._settings.need()
        local = self._sandbox or is_loopback(urlsplit(self._settings.base_url).hostname)
        found, wrong = await self._source_images.find(args.source_images or (), folders, local=local)
        if (
            args.source_images is not None and not args.source_images
        ):  # a remix of nothing is not an image from the prompt alone
            wrong = (Problem("source_images", NO_SOURCE),)
        wrong = (*wrong, *callback_problems(args.callback_url, local=local), *_too_large(args, found))
        saved, hindered = self._save_problems(terms, next(iter(folders), None))
        try:
            first, *finish = finishing.steps_of(args, also=[*wrong, *saved, *_finish_problems(args, terms)])
        except InvalidRequestError as exc:
            raise InvalidRequestError(*exc.problems, *hindered, *self._cost_problems(args, terms)) from None
        dear = self._cost_problems(args, terms) if hindered else ()
        if dear:  # `offer` would refuse the call for its cost alone
            raise InvalidRequestError(*hindered, *dear)
        found, broken = await self._source_images.decoded(found)
        if broken := (*broken, *_too_large(args, found)):
            raise InvalidRequestError(*broken, *hindered, *self._cost_problems(args, terms))
        making = first.action in MAKING
        return submission.CheckedRequest(catalog.shaped(first) if making else first, found, tuple(finish))

    def _save_problems(
        self, terms: submission.Terms, workspace: Path | None
    ) -> tuple[Sequence[Problem], Sequence[Problem]]:
        """Return what is wrong with the place to save; and what is in the way there now, which may concern no new task."""
        if self._remote is not None and terms.save_to is not None:
            return [Problem("save_to", self._remote.fetching(terms.save_to))], ()
        try:
            plan = submission.saving(terms.save_to, terms.count, workspace, overwrite=terms.overwrite)
        except InvalidRequestError as exc:
            return exc.problems, ()
        hindrance = plan.hindrance()
        return (), () if hindrance is None else hindrance.problems

    def _cost_problems(self, args: RequestArgs, terms: submission.Terms) -> Sequence[Problem]:
        """Return the cap that a refused call would not fit, either. Known prices are enough; nothing is fetched."""
        if not (args.prompt or "").strip() and any(getattr(args, name) is not None for name in finishing.arguments()):
            return ()  # no image is made, and what finishes one has no published price
        action = Action.REMIX_IMAGE if args.source_images else Action.TEXT_TO_IMAGE
        try:
            model = catalog.find(args.variant, action)
        except InvalidRequestError:
            return ()
        size = args.output_resolution if args.output_resolution in model.resolutions else catalog.DEFAULT_RESOLUTION
        each = pricing.dearest(self._prices.at_hand, model, size)
        if each is None or terms.max_cost_usd is None or terms.idempotency_key is not None:
            return ()
        if (total := each * terms.count) <= terms.max_cost_usd:
            return ()
        return [Problem("max_cost_usd", f"the call would cost {budget.dollars(total)}.")]


def _too_large(args: RequestArgs, found: Sequence[SourceSet]) -> list[Problem]:
    """Return the problem of a picture that would be larger than what can be checked when it is delivered."""
    size = found[0].size if len(found) == 1 and not (args.prompt or "").strip() else None
    if size is None or args.upscale not in finishing.arguments()["upscale"]:
        return []
    width, height = (side * args.upscale for side in size)
    why = size_check.too_large(width, height)
    return [] if why is None else [Problem("upscale", why)]


def _finish_problems(args: RequestArgs, terms: submission.Terms) -> list[Problem]:
    """Return what does not fit a picture that is finished, beside what `finishing` checks."""
    wrong = []
    finishes = any(getattr(args, name) is not None for name in finishing.arguments())
    if finishes and terms.count != 1 and not (args.prompt or "").strip():
        wrong.append(Problem("count", ONE_PICTURE))
    if args.background is not None and (terms.save_to or "").lower().endswith((".jpg", ".jpeg")):
        wrong.append(Problem("save_to", OPAQUE))
    return wrong
