"""The model lines and their constraints, over `catalog.json` (the vendor's published contracts, `api/*.json`). Pure.

The first line, FLUX.2, makes images from a prompt; the others finish pictures (`finishing`).
To add a variant, add its two models to `catalog.json` and its name to `variants` there: CONTRIBUTING.md, "Add a variant".
To add a line that finishes pictures, add an entry to `lines` there: CONTRIBUTING.md, "Add a line".
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from flux2_mcp.domain.models import MAKING, SERVICE, Action, ImageRequest, RequestArgs
from flux2_mcp.errors import InvalidRequestError, Problem, Wording, meant, shortened, together

DEFAULT_VARIANT = "pro"
DEFAULT_ASPECT_RATIO = "1:1"
DEFAULT_RESOLUTION = "1k"
AUTO = "auto"
"""The value for the aspect ratio of the first source image."""
ANY_SIZE = "any"
"""Stands for the resolution of a model whose price and duration depend on none."""
SIZE_FIELDS = ("output_resolution", "upscale_factor")
"""The fields on which a price may depend; a model has one of them at most."""


FINISHING = frozenset({"background", "upscale"})
"""The arguments of a caller that ask for more than the image of the prompt: see `finishing`."""


FINISHES = "{model} finishes a picture as it is: give that in {name:source_images}, and no {name:prompt}."


class Field(Struct, frozen=True):
    """One field's bounds, as published. `low` and `high` bound a string's length or the number of a list's items."""

    name: str
    kind: str
    required: bool = False
    low: int | None = None
    high: int | None = None
    enum: tuple[str | int, ...] = ()
    description: str = ""


class Model(Struct, frozen=True):
    """One model id: a variant for one action. `published_cents` is by resolution; empty if no price is published.

    `service` is RunAPI's word for the model's line in the price calls. A model that finishes pictures has its id as its
    variant. `argument` is the argument of `generate` that asks for it, `value` the argument's only value; None: every
    value of the model's size field above 1.
    """

    id: str
    service: str
    variant: str
    action: Action
    fields: Mapping[str, Field]
    forbidden: frozenset[str]
    published_cents: Mapping[str, Decimal]
    choose: str
    argument: str | None = None
    value: str | None = None
    sandbox: Mapping[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """The line's part of the model's endpoint."""
        return line_of(self.service)

    @property
    def size_field(self) -> str | None:
        """The field on which the price may depend; None: there is none."""
        return next((name for name in SIZE_FIELDS if name in self.fields), None)

    @property
    def resolutions(self) -> tuple[str, ...]:
        """The output resolutions of the model, smallest first; of a model that enlarges, its factors."""
        field = self.size_field
        return (ANY_SIZE,) if field is None else tuple(str(value) for value in self.fields[field].enum if value != 1)

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
    """The models that make images from a prompt, by id, in the variants' order, text to image before remix."""
    data = document()
    found: dict[str, Model] = {}
    for variant, notes in data["variants"].items():
        for action in MAKING:
            spec = data["actions"][action]
            model_id = f"flux-2-{variant}-{action.replace('_', '-')}"
            rules = [rule for rule in spec["rules"] if rule["when"] == {"model": model_id}]
            found[model_id] = Model(
                id=model_id,
                service=SERVICE,
                variant=variant,
                action=action,
                fields={name: _field(name, field) for name, field in spec["fields_by_model"][model_id].items()},
                forbidden=frozenset(name for rule in rules for name in rule["forbidden"]),
                published_cents={k: Decimal(v) for k, v in (data["prices_cents"][model_id] or {}).items()},
                choose=Wording(notes["choose"]),
                sandbox=notes.get("sandbox", {}),
            )
    return found


@cache
def finishers() -> Mapping[str, Model]:
    """The models that finish a picture, by id, in the order in which a call that wants several of them does them."""
    return models_of(document()["lines"])


def models_of(lines: Sequence[Mapping[str, Any]]) -> Mapping[str, Model]:
    """The models of lines that finish pictures, as the data file has them, by id."""
    return {
        model_id: Model(
            id=model_id,
            service=line["service"],
            variant=model_id,
            action=Action(action),
            fields={name: _field(name, each) for name, each in spec["fields_by_model"][model_id].items()},
            forbidden=frozenset(),
            published_cents={},
            choose=Wording(notes["choose"]),
            argument=notes.get("argument"),
            value=notes.get("value"),
            sandbox=notes.get("sandbox", {}),
        )
        for line in lines
        for model_id, notes in line["models"].items()
        for action, spec in line["actions"].items()
        if model_id in spec["fields_by_model"]
    }


@cache
def all_models() -> Mapping[str, Model]:
    """The models of all lines by id."""
    return {**models(), **finishers()}


def services() -> tuple[str, ...]:
    """RunAPI's words for the lines, FLUX.2 first."""
    return tuple(dict.fromkeys(model.service for model in all_models().values()))


def line_of(service: str) -> str:
    """The part of an endpoint, `/api/v1/<line>/<action>`, that names the line."""
    return service.replace("-", "_")


def line(request: ImageRequest) -> str:
    """The line of a request's endpoint; FLUX.2's for a request of a task that was made elsewhere."""
    known = all_models().get(request.model)
    return line_of(SERVICE) if known is None else known.line


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
    if name in finishers():
        raise InvalidRequestError(Problem("variant", Wording(FINISHES, model=name)))
    text = f"got {_shown(name)}{meant(name, known)}; allowed: {', '.join(known)}."
    raise InvalidRequestError(Problem("variant", text))


def _sibling(variant: str, action: Action) -> Model:
    return next(m for m in models().values() if m.variant == variant and m.action is action)


def request_of(args: RequestArgs, *, also: Sequence[Problem] = ()) -> ImageRequest:
    """The request made from a caller's prompt. It calls `request`, which uses RunAPI's name for the sources."""
    values = {name: value for name, value in asdict(args).items() if name not in FINISHING}
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
    if _kind(value) != field.kind:
        return f"got {_described(value)}; needs {_article(field.kind)}{_allowed(field)}."
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
            return f"holds {_described(strange[0])}; needs strings."
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


def _described(value: object) -> str:
    return "null" if value is None else f"{_kind(value)} {_shown(value)}"


def _article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def _shown(value: object) -> str:
    return shortened(json.dumps(value, ensure_ascii=True, default=str))


def resolution(request: ImageRequest) -> str:
    """What the price and the duration of the request depend on: its output resolution, or its factor."""
    if request.action in MAKING:
        return request.output_resolution or DEFAULT_RESOLUTION
    return ANY_SIZE if request.upscale_factor is None else str(request.upscale_factor)
