"""The arguments of `run` and `create`, by RunAPI's names and ours, and how they become a request."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, Literal, Required, TypeAlias, TypedDict

from msgspec import Struct

from flux2_mcp.domain import catalog, finishing
from flux2_mcp.domain.models import MAKING, Action, RequestArgs
from flux2_mcp.errors import Flux2Error, InvalidRequestError, Problem, reworded, shortened

PathText: TypeAlias = "str | os.PathLike[str]"
Usd: TypeAlias = Decimal | str | int | float
MAX_USD = 10_000


class TextToImageFields(TypedDict, total=False):
    """What `text_to_image.run` and `create` take. None counts as not given.

    RunAPI's own: `model` (its name; or `variant`: pro, flex, max), `prompt` (3 to 5,000 characters), `aspect_ratio`,
    `output_resolution`, `enable_safety_checker`, `callback_url`. Ours: `background` ("transparent": the subject alone)
    and `upscale` (2, 4 or 8: each side so many times longer), each one more paid task; `save_to` (a file, or a folder
    with / at its end, in the workspace), `overwrite` (let `save_to` replace a file), `max_cost_usd` (refuse a dearer
    call, all its tasks together), `idempotency_key` (1 to 512 printable ASCII characters, 508 with `background` and `upscale`:
    the same key is the same picture, paid once).
    """

    prompt: Required[str]
    model: str | None
    variant: str | None
    aspect_ratio: str | None
    output_resolution: str | None
    enable_safety_checker: bool | None
    callback_url: str | None
    background: Literal["transparent"] | None
    upscale: Literal[2, 4, 8] | None
    save_to: PathText | None
    overwrite: bool
    max_cost_usd: Usd | None
    idempotency_key: str | None


class RemixImageFields(TextToImageFields, total=False):
    """What `remix_image.run` and `create` take: `TextToImageFields`, and the images to remix (1 to 8; max: 1).

    `source_image_urls` and `source_images` are the same, and one of them is needed: https URLs, paths in the workspace,
    or "task:ID" for the image of an earlier task.
    """

    source_images: Sequence[PathText] | None
    source_image_urls: Sequence[PathText] | None


class RemoveBackgroundFields(TypedDict, total=False):
    """What `remove_background.run` and `create` take. None counts as not given.

    `source_image` and `source_image_url` are the same, and one of them is needed: an https URL, a path in the workspace,
    or "task:ID" for the image of an earlier task. `model` is RunAPI's name, by default recraft-remove-background. The
    others are those of `TextToImageFields`.
    """

    source_image: PathText | None
    source_image_url: PathText | None
    model: str | None
    callback_url: str | None
    save_to: PathText | None
    overwrite: bool
    max_cost_usd: Usd | None
    idempotency_key: str | None


class UpscaleImageFields(RemoveBackgroundFields, total=False):
    """What `upscale_image.run` and `create` take: `RemoveBackgroundFields`, and `upscale_factor`.

    `model` is topaz-upscale-image by default, which needs the factor: each side becomes so many times longer.
    recraft-crisp-upscale takes none.
    """

    upscale_factor: Literal[2, 4, 8] | None


FIELDS: Final[Mapping[Action, frozenset[str]]] = {
    Action.TEXT_TO_IMAGE: frozenset(TextToImageFields.__annotations__),
    Action.REMIX_IMAGE: frozenset(RemixImageFields.__annotations__),
    Action.REMOVE_BACKGROUND: frozenset(RemoveBackgroundFields.__annotations__),
    Action.UPSCALE_IMAGE: frozenset(UpscaleImageFields.__annotations__),
}
NAMES: Final[Mapping[str, str]] = {
    "overwrite: true": "overwrite=True",
    "wait_seconds": "timeout",
    "check_pricing": "client.prices",
    "check_task": "client.tasks.wait",
    "list_variants": "client.prices",
    "start the server again": "make a new client",
}
"""Python's names for those of the tools' names that differ: see `errors.Wording`."""
_OF_ONE: Final[Mapping[str, str]] = {"source_images": "source_image", "upscale": "upscale_factor"}
"""Such names where one picture is finished."""
_KINDS: Final[Mapping[str, tuple[type, ...]]] = {
    "prompt": (str,),
    "model": (str,),
    "variant": (str,),
    "callback_url": (str,),
    "save_to": (str, os.PathLike),
    "overwrite": (bool,),
    "idempotency_key": (str,),
    "source_image": (str, os.PathLike),
    "source_image_url": (str, os.PathLike),
}
"""What the catalogue does not check."""


class Order(Struct, frozen=True, kw_only=True):
    """The arguments of one call, of the right kinds. The catalogue checks their values."""

    args: RequestArgs
    save_to: str | None
    overwrite: bool
    max_cost_usd: Decimal | None
    idempotency_key: str | None


def order(action: Action, given: Mapping[str, Any]) -> Order:
    """Check names and kinds.

    Raises:
        InvalidRequestError: It names every argument that does not exist or is of another kind.
    """
    values = {name: value for name, value in given.items() if value is not None}
    wrong = [*_unknown(action, values), *_of_other_kind(values), *_model(action, values)]
    usd = _usd(values["max_cost_usd"], wrong) if "max_cost_usd" in values else None
    asked = (_to_make if action in MAKING else _to_finish)(action, values, wrong)
    if wrong:
        raise InvalidRequestError(*wrong)
    return Order(
        args=RequestArgs(**asked, callback_url=values.get("callback_url")),
        save_to=os.fsdecode(values["save_to"]) if "save_to" in values else None,
        overwrite=values.get("overwrite", False),
        max_cost_usd=usd,
        idempotency_key=values.get("idempotency_key"),
    )


def model_of(action: Action | None, model: str | None, variant: str | None) -> catalog.Model:
    """Return the model of a name of RunAPI's or of a variant.

    Raises:
        InvalidRequestError: Both are given, or there is no such model, or it belongs to another action.
    """
    known = catalog.all_models().get(model or variant or "")
    wanted = action or (known.action if known is not None else Action.TEXT_TO_IMAGE)
    values = {name: value for name, value in {"model": model, "variant": variant}.items() if value is not None}
    if wrong := [*_of_other_kind(values), *_model(wanted, values)]:
        raise InvalidRequestError(*wrong)
    return known or (catalog.find(variant, wanted) if wanted in MAKING else _default(wanted))


def seconds(timeout: object) -> float:
    """Return a `timeout` in seconds; None is infinity.

    Raises:
        InvalidRequestError: It is no number from 0 up.
    """
    if timeout is None:
        return math.inf
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout >= 0:
        raise InvalidRequestError(Problem("timeout", "must be seconds, 0 or more, or None to wait for the end."))
    return float(timeout)


def not_whole(name: str, value: object, most: int) -> Iterator[Problem]:
    """Yield a problem if a value is no whole number from 1 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        yield Problem(name, f"must be a whole number from 1 to {most:,}.")


def absolute(folder: PathText) -> str:
    """Return a folder's absolute path."""
    return str(Path(folder).absolute())


def _unknown(action: Action, values: Mapping[str, Any]) -> Iterator[Problem]:
    for name in values:
        if name in FIELDS[action]:
            continue
        others = [other for other in FIELDS if name in FIELDS[other]]
        hint = f"client.{others[0]} takes it" if others else f"there are {', '.join(sorted(FIELDS[action]))}, timeout"
        yield Problem(shortened(name), f"{action} takes no such argument; {hint}.")


def _of_other_kind(values: Mapping[str, Any]) -> Iterator[Problem]:
    for name, kinds in _KINDS.items():
        if name in values and not isinstance(values[name], kinds):
            wanted = " or a path".join([kinds[0].__name__, *[""] * (len(kinds) - 1)])
            yield Problem(name, f"got {type(values[name]).__name__}; needs {wanted}.")


def _model(action: Action, values: Mapping[str, Any]) -> Iterator[Problem]:
    if "model" in values and "variant" in values:
        yield Problem("variant", "goes without model= only.")
    for field in ("model", "variant"):
        name = values.get(field)
        known = catalog.all_models().get(name) if isinstance(name, str) else None
        variants = catalog.variants() if action in MAKING else ()
        if known is not None and known.action is not action:
            both = action in MAKING and known.action in MAKING
            right = (catalog.find(known.variant, action) if both else _default(action)).id
            yield Problem(
                field, f"{known.id} is a model of client.{known.action}; client.{action} has {right} in its place."
            )
        elif isinstance(name, str) and known is None and name not in variants:
            models = [each.id for each in catalog.all_models().values() if each.action is action]
            allowed = models if field == "model" else variants or models
            yield Problem(field, f"got {shortened(name)!r}; allowed: {', '.join(allowed)}.")


def _default(action: Action) -> catalog.Model:
    """Return the model of a call that names none. To finish a picture, it is the one that `generate` would take."""
    if action in MAKING:
        return catalog.find(None, action)
    return next(each for each in catalog.finishers().values() if each.action is action and each.argument is not None)


def _to_make(action: Action, values: Mapping[str, Any], wrong: list[Problem]) -> dict[str, Any]:
    """Return the fields of `RequestArgs` of a call that makes an image, and add what is wrong with them."""
    if "prompt" not in values:
        wrong.append(Problem("prompt", "is needed."))
    own = ("prompt", "aspect_ratio", "output_resolution", "enable_safety_checker", *finishing.arguments())
    return {name: values.get(name) for name in own} | {
        "variant": values.get("model", values.get("variant")),
        "source_images": _sources(values, wrong) if action is Action.REMIX_IMAGE else None,
    }


def _to_finish(action: Action, values: Mapping[str, Any], wrong: list[Problem]) -> dict[str, Any]:
    """Return the fields of `RequestArgs` of a call that finishes one picture, and add what is wrong with them."""
    named = [name for name in ("source_image", "source_image_url") if name in values]
    if not named:
        wrong.append(Problem("source_image", f"{action} needs one picture: a path, a URL or task:ID."))
    if len(named) > 1:
        wrong.append(Problem("source_image_url", "goes without source_image= only: they are the same."))
    model = catalog.finishers().get(str(values["model"])) if "model" in values else _default(action)
    if model is None or model.action is not action:
        return {}
    wrong.extend(_factor(action, model, values))
    if wrong:
        return {}
    asked = {} if model.argument is None else {model.argument: model.value or values["upscale_factor"]}
    return asked | {"variant": model.id, "source_images": [os.fsdecode(values[named[0]])]}


def _factor(action: Action, model: catalog.Model, values: Mapping[str, Any]) -> Iterator[Problem]:
    field = "upscale_factor"
    if field not in FIELDS[action]:
        return
    if model.size_field != field:
        if field in values:
            yield Problem(field, f"{model.id} has no such field; leave it out.")
        return
    allowed = finishing.values(model)
    given = values.get(field)
    # True is equal to 1, and 2.0 to 2, but neither is a value of the contract.
    if type(given) is not int or given not in allowed:
        got = f"{model.id} needs it" if given is None else f"got {shortened(repr(given))}"
        yield Problem(field, f"{got}; allowed: {', '.join(map(str, allowed))}.")


def _sources(values: Mapping[str, Any], wrong: list[Problem]) -> list[str]:
    named = [name for name in ("source_images", "source_image_urls") if name in values]
    if not named:
        wrong.append(Problem("source_images", "remix_image needs at least one image; client.text_to_image needs none."))
        return []
    if len(named) > 1:
        wrong.append(Problem("source_image_urls", "goes without source_images= only: they are the same."))
    name, given = named[0], values[named[0]]
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Sequence):
        wrong.append(Problem(name, f"got {type(given).__name__}; needs a list of paths, URLs or task:ID."))
        return []
    items: Sequence[object] = given
    if not items:
        wrong.append(Problem(name, "is empty; name what is to be remixed."))
    for number, item in enumerate(items, start=1):
        if not isinstance(item, str | os.PathLike):
            wrong.append(Problem(name, f"item {number} is {type(item).__name__}; needs a path, a URL or task:ID."))
    return [os.fsdecode(item) for item in items if isinstance(item, str | os.PathLike)]


def _usd(given: object, wrong: list[Problem]) -> Decimal | None:
    """Return an amount. An unreadable one must not count as none."""
    try:
        value = Decimal(str(given)) if isinstance(given, Decimal | str | int | float) else Decimal("NaN")
    except InvalidOperation:
        value = Decimal("NaN")
    if isinstance(given, bool) or not value.is_finite() or not 0 <= value <= MAX_USD:
        wrong.append(Problem("max_cost_usd", f"must be an amount in USD, such as 0.50, up to {MAX_USD:,}."))
        return None
    return value


@contextmanager
def worded(action: Action | None = None) -> Iterator[None]:
    """Give the errors of this context Python's names, and their cost and next step as notes below a traceback.

    Args:
        action: That of the call, some of whose arguments have names of their own.
    """
    names = NAMES if action is None or action in MAKING else {**NAMES, **_OF_ONE}
    try:
        yield
    except Flux2Error as exc:
        exc.message, exc.next_step = reworded(exc.message, names), reworded(exc.next_step, names)
        exc.args = (exc.message,)
        if not getattr(exc, "__notes__", None):
            for note in filter(None, (exc.cost, f"Next: {exc.next_step}")):
                exc.add_note(note)
        raise
