"""The variants and their constraints, over `catalog.json` (the vendor's published contract, `api/flux-2.json`). Pure.

To add a variant, add its two models to `catalog.json` and its name to `variants` there: CONTRIBUTING.md, "Add a variant".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

from flux2_mcp.domain.models import Action, ImageRequest, RequestArgs
from flux2_mcp.errors import InvalidRequestError, Problem, Wording, meant, shortened, together

DEFAULT_VARIANT = "pro"
DEFAULT_ASPECT_RATIO = "1:1"
DEFAULT_RESOLUTION = "1k"
AUTO = "auto"
"""The value for the aspect ratio of the first source image."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field's bounds, as published. `low` and `high` bound a string's length or the number of a list's items."""

    name: str
    kind: str
    required: bool = False
    low: int | None = None
    high: int | None = None
    enum: tuple[str | int, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class Model:
    """One model id: a variant for one action. `published_cents` is by resolution; empty if no price is published."""

    id: str
    variant: str
    action: Action
    fields: Mapping[str, Field]
    forbidden: frozenset[str]
    published_cents: Mapping[str, Decimal]
    choose: str

    @property
    def resolutions(self) -> tuple[str, ...]:
        """The output resolutions of the model, smallest first."""
        return tuple(str(value) for value in self.fields["output_resolution"].enum)

    def needs(self, field: str) -> bool:
        """Whether a request must have this field."""
        return field in self.fields and self.fields[field].required


def _field(name: str, spec: Mapping[str, Any]) -> Field:
    return Field(
        name=name,
        kind=spec["type"],
        required=spec.get("required", False),
        low=spec.get("min", spec.get("min_items")),
        high=spec.get("max", spec.get("max_items")),
        enum=tuple(spec.get("enum", ())),
        description=spec.get("description", ""),
    )


@cache
def document() -> dict[str, Any]:
    """The data file, parsed once."""
    loaded: dict[str, Any] = json.loads(files("flux2_mcp.domain").joinpath("catalog.json").read_text("utf-8"))
    return loaded


@cache
def models() -> Mapping[str, Model]:
    """All models by id, in the variants' order, text to image before remix."""
    data = document()
    found: dict[str, Model] = {}
    for variant, notes in data["variants"].items():
        for action in Action:
            spec = data["actions"][action]
            model_id = f"flux-2-{variant}-{action.replace('_', '-')}"
            rules = [rule for rule in spec["rules"] if rule["when"] == {"model": model_id}]
            found[model_id] = Model(
                id=model_id,
                variant=variant,
                action=action,
                fields={name: _field(name, field) for name, field in spec["fields_by_model"][model_id].items()},
                forbidden=frozenset(name for rule in rules for name in rule["forbidden"]),
                published_cents={k: Decimal(v) for k, v in (data["prices_cents"][model_id] or {}).items()},
                choose=Wording(notes["choose"]),
            )
    return found


@cache
def variants() -> tuple[str, ...]:
    """The variants' names, the cheapest first."""
    return tuple(document()["variants"])


def variant_notes(variant: str) -> Mapping[str, Any]:
    """The data file's notes on a variant: `choose`, `best_for`, and values for the sandbox."""
    notes: Mapping[str, Any] = document()["variants"][variant]
    return notes


def variant_names(*, needs: bool = False) -> str:
    """The variants' names for a help text, the default marked; with `needs`, also those that need an aspect ratio."""
    marks = {DEFAULT_VARIANT: " (default)"}
    if needs:
        required = {model.variant for model in models().values() if model.needs("aspect_ratio")}
        marks |= dict.fromkeys(required, " (needs aspect_ratio)")
    return ", ".join(name + marks.get(name, "") for name in variants())


def allowed_values(field: str) -> list[Any]:
    """Every value of a field that some model allows; the values of the model that allows most come first."""
    known = [model.fields[field].enum for model in models().values() if field in model.fields]
    return list(dict.fromkeys(value for enum in sorted(known, key=len, reverse=True) for value in enum))


def find(variant: str | None, action: Action) -> Model:
    """The model for a variant's name or a full model id.

    Raises:
        InvalidRequestError: The name is unknown, or the id belongs to the other action (the error names the right one).
    """
    name = variant or DEFAULT_VARIANT
    if (model := models().get(name)) is not None:
        if model.action is action:
            return model
        right = _sibling(model.variant, action)
        if action is Action.REMIX_IMAGE:
            reason = "{model} makes images from text alone, and {name:source_images} were given."
        else:
            reason = "{model} remixes source images, and no {name:source_images} were given."
        advice = f"Use {right.id}, or variant {right.variant}."
        raise InvalidRequestError(Problem("variant", together([Wording(reason, model=name), advice])))
    if name in variants():
        return _sibling(name, action)
    known = (*variants(), *models())
    text = f"got {_shown(name)}{meant(name, known)}; allowed: {', '.join(known)}."
    raise InvalidRequestError(Problem("variant", text))


def _sibling(variant: str, action: Action) -> Model:
    return next(m for m in models().values() if m.variant == variant and m.action is action)


def request_of(args: RequestArgs, *, also: Sequence[Problem] = ()) -> ImageRequest:
    """The request made from a caller's arguments. It calls `request`, which uses RunAPI's name for the sources."""
    values = {each.name: getattr(args, each.name) for each in fields(args)}
    return request(source_image_urls=values.pop("source_images"), also=also, **values)


def request(*, variant: str | None = None, also: Sequence[Problem] = (), **values: Any) -> ImageRequest:  # noqa: ANN401  # checked here
    """Validate all fields and make the request; nothing is guessed and nothing is dropped.

    Args:
        variant: A variant's name or a full model id.
        also: Problems found elsewhere, so that one error names them all.
        values: RunAPI's own fields by their names. A field that no model has is a problem like any other.

    Raises:
        InvalidRequestError: It names every wrong field, the allowed values, and the variants that would allow its
            value.
    """
    sources = values.get("source_image_urls")
    sources = None if sources in (None, [], ()) else sources
    action = Action.TEXT_TO_IMAGE if sources is None else Action.REMIX_IMAGE
    given = values | {"source_image_urls": sources}
    try:
        model = find(variant, action)
    except InvalidRequestError as exc:
        others = [each for each in problems(_any_model(action), given) if _wrong_for_all(action, each.field, given)]
        raise InvalidRequestError(*exc.problems, *others, *also) from None
    if found := [*problems(model, given), *also]:
        raise InvalidRequestError(*found)
    proven = given | {"source_image_urls": tuple(sources or ())}  # problems() has checked that it is a list
    return ImageRequest(action=action, variant=model.variant, model=model.id, **proven)


def _any_model(action: Action) -> Model:
    return _sibling(DEFAULT_VARIANT, action)


def _wrong_for_all(action: Action, field: str, given: Mapping[str, object]) -> bool:
    """Whether no model of the action allows a field as it is given; `field` is its public name."""
    name = "source_image_urls" if field == "source_images" else field
    return all(_wrong(model, name, given.get(name)) for model in models().values() if model.action is action)


def shaped(wanted: ImageRequest) -> ImageRequest:
    """The request; a remix without a ratio gets `AUTO` if its model has that, since RunAPI's default is square."""
    able = AUTO in models()[wanted.model].fields["aspect_ratio"].enum
    return replace(wanted, aspect_ratio=AUTO) if able and wanted.aspect_ratio is None else wanted


def problems(model: Model, given: Mapping[str, object]) -> list[Problem]:
    """Each violation of the model's published constraints in `given` (by RunAPI's field names; None: not given)."""
    found = []
    for name in {**model.fields, **given}:
        text = _wrong(model, name, given.get(name))
        if text is not None and name != "model":
            others = _allowing(model, name, given.get(name))
            hint = f" Allowed by: {', '.join(others)}." if others else ""
            found.append(Problem(_public(name), f"{text}{hint}"))
    return found


def _allowing(model: Model, name: str, value: object) -> list[str]:
    """The variants that allow this value for the same action, else the models that allow it for the other action."""
    taking = [m for m in models().values() if value is not None and _wrong(m, name, value) is None]
    return [m.variant for m in taking if m.action is model.action] or [m.id for m in taking]


def _public(name: str) -> str:
    return "source_images" if name == "source_image_urls" else name


def _wrong(model: Model, name: str, value: object) -> str | None:
    field = model.fields.get(name)
    if value is None:
        return f"{model.variant} needs it{_allowed(field)}." if field is not None and field.required else None
    if field is None or name in model.forbidden:
        return f"{model.variant} has no such field; leave it out."
    if (kind := _kind(value)) != field.kind:
        return f"got {kind} {_shown(value)}; needs {_article(field.kind)}{_allowed(field)}."
    if field.enum and value not in field.enum:
        near = meant(value, map(str, field.enum)) if isinstance(value, str) else ""
        return f"got {_shown(value)}{near}{_allowed(field)}."
    return _out_of_bounds(model, field, value)


def _out_of_bounds(model: Model, field: Field, value: object) -> str | None:
    if isinstance(value, str):
        if not _encodes(value):
            return "is not valid Unicode text."
        # Blank text counts as empty: the vendor's clients drop it before sending.
        size, unit = (len(value) if value.strip() else 0), "characters"
    elif isinstance(value, list | tuple):
        if strange := [item for item in value if not isinstance(item, str)]:
            return f"holds {_kind(strange[0])} {_shown(strange[0])}; needs strings."
        size, unit = len(value), "items"
    else:
        return None
    low, high = field.low or 0, field.high
    if size >= low and (high is None or size <= high):
        return None
    span = f"exactly {low}" if low == high else f"{low} to {high}" if high is not None else f"at least {low}"
    return f"got {size} {unit}; {model.variant} allows {span}."


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _allowed(field: Field | None) -> str:
    return f"; allowed: {', '.join(str(value) for value in field.enum)}" if field is not None and field.enum else ""


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "boolean"),
    (str, "string"),
    (int, "integer"),
    (float, "number"),
    ((list, tuple), "array"),
    (dict, "object"),
)


def _kind(value: object) -> str:
    """The JSON name of a value's kind."""
    return next((name for types, name in _KINDS if isinstance(value, types)), type(value).__name__)


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _shown(value: object) -> str:
    return shortened(json.dumps(value, ensure_ascii=True, default=str))


def resolution(request: ImageRequest) -> str:
    """The output resolution that the request will be made in."""
    return request.output_resolution or DEFAULT_RESOLUTION
