"""Finished pictures: the steps of a call that cuts out or enlarges what it made, or a picture that exists. Pure.

Each step is a task of its own, and its source is the image of the step before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.catalog import Model
from flux2_mcp.domain.models import Action, ImageRequest, RequestArgs
from flux2_mcp.errors import InvalidRequestError, Problem, Wording, shortened

NO_PICTURE = Wording(
    "is missing: say what to make, or give in {name:source_images} the one picture that is to be finished."
)
ONE_SOURCE = Wording(
    "without {name:prompt}, one picture at a time is finished; give one source, or say in {name:prompt} what to make."
)
WITH_PROMPT = Wording(
    "goes with {name:prompt} only: without one, no image is made, and the picture is finished as it is."
)


def arguments() -> dict[str, list[str | int]]:
    """The arguments of `generate` that finish a picture, in the order of the steps, and the values of each."""
    found: dict[str, list[str | int]] = {}
    for model in catalog.finishers().values():
        if model.argument is not None:
            found.setdefault(model.argument, []).extend(values(model))
    return found


def values(model: Model) -> Sequence[str | int]:
    """The values of the model's argument."""
    if model.value is not None:
        return [model.value]
    return [value for value in model.fields[model.size_field or ""].enum if value != 1]


def steps_of(args: RequestArgs, *, also: Sequence[Problem] = ()) -> tuple[ImageRequest, ...]:
    """The requests that a call makes for one picture, first to last. All but the first have no source yet.

    Only the last has the caller's callback address.

    Raises:
        InvalidRequestError: It names every wrong argument, as `catalog.request` does.
    """
    finishers, wrong = _finishers(args)
    made: list[ImageRequest] = []
    if (finishers or wrong) and not _says(args.prompt):
        wrong += _unfit(args)
        if wrong or also:
            raise InvalidRequestError(*wrong, *also)
        finishers[0] = replace(finishers[0], source_image_urls=tuple(args.source_images or ()))
    else:
        last = replace(args, callback_url=None) if finishers else args
        made = [catalog.request_of(last, also=[*wrong, *also])]
        finishers = [replace(step, prompt=made[0].prompt) for step in finishers]
    steps = [*made, *finishers]
    return (*steps[:-1], replace(steps[-1], callback_url=args.callback_url))


def _finishers(args: RequestArgs) -> tuple[list[ImageRequest], list[Problem]]:
    """The steps that `args` asks for, without sources, and what is wrong with them."""
    found: dict[str, ImageRequest] = {}
    wrong: list[Problem] = []
    chosen = None if _says(args.prompt) else catalog.finishers().get(args.variant or "")
    for argument, allowed in arguments().items():
        if (value := getattr(args, argument)) is None:
            continue
        # True is equal to 1, and 2.0 to 2, but neither is a value of the contract.
        if value not in allowed or type(value) not in {str, int}:
            wrong.append(Problem(argument, f"got {shortened(repr(value))}; {_listed(allowed)}"))
            continue
        of_it = [model for model in catalog.finishers().values() if model.argument == argument]
        able = [model for model in of_it if value in values(model)]
        model = chosen if chosen in able else able[0]
        found[model.id] = _request(model, value)
    if chosen is not None and chosen.id not in found:
        if chosen.size_field is None:
            found[chosen.id] = _request(chosen, None)
        elif not any(problem.field == chosen.argument for problem in wrong):
            wrong.append(Problem(chosen.argument or "", f"{chosen.id} needs it; {_listed(values(chosen))}"))
    return [found[model_id] for model_id in catalog.finishers() if model_id in found], wrong


def _listed(allowed: Sequence[str | int]) -> str:
    return f"allowed: {', '.join(map(str, allowed))}."


def _says(prompt: str | None) -> bool:
    return bool(prompt and prompt.strip())


def _request(model: Model, value: object) -> ImageRequest:
    size: dict[str, Any] = {} if model.size_field is None else {model.size_field: value}
    return ImageRequest(action=model.action, variant=model.variant, model=model.id, prompt="", **size)


def _unfit(args: RequestArgs) -> list[Problem]:
    """What is wrong with a call that has no prompt."""
    if not args.source_images:
        return [Problem("prompt", NO_PICTURE)]
    wrong = [] if len(args.source_images) == 1 else [Problem("source_images", ONE_SOURCE)]
    variant = None if args.variant in {catalog.DEFAULT_VARIANT, *catalog.finishers()} else args.variant
    given = {
        "variant": variant,
        "aspect_ratio": args.aspect_ratio,
        "output_resolution": args.output_resolution,
        "enable_safety_checker": args.enable_safety_checker,
    }
    return wrong + [Problem(name, WITH_PROMPT) for name, value in given.items() if value is not None]


def is_transparent(steps: Sequence[ImageRequest]) -> bool:
    """Whether the last picture is to have a transparent ground."""
    return any(step.action is Action.REMOVE_BACKGROUND for step in steps)


def labels(steps: Sequence[ImageRequest]) -> Iterator[str]:
    """Each step in words: its model and the resolution or factor."""
    for step in steps:
        size = catalog.resolution(step)
        yield step.model if size == catalog.ANY_SIZE else f"{step.model} at {size}{'x' if step.upscale_factor else ''}"


def unknown(model: Model) -> ImageRequest:
    """The request of a task of this model that was made elsewhere: of its values, only the model is known."""
    return ImageRequest(action=model.action, variant=model.variant, model=model.id, prompt="")
