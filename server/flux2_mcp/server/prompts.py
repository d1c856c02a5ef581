"""Prompts that a person picks in a host: make an image, remix one, compare variants, build FLUX.2 into an application.

Each is checked against the catalogue first, so no prompt asks for a call that would be refused for its fields. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeAlias

from mcp_types import (
    ContentBlock,
    EmbeddedResource,
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    TextContent,
    TextResourceContents,
)

from flux2_mcp.domain import catalog, pricing
from flux2_mcp.domain.budget import dollars
from flux2_mcp.domain.models import MAKING, Action, ImageRequest
from flux2_mcp.domain.pricing import PriceBook
from flux2_mcp.errors import InvalidRequestError, Problem, shortened
from flux2_mcp.server.docs import examples, index, uris

Given: TypeAlias = Mapping[str, str]
"""The arguments without blank ones: hosts also send arguments that the user has not filled in."""

Say: TypeAlias = Callable[[str], str]
"""Says a text of ours as it holds where the callers are: see `team.texts`. What a user has written does not pass it."""

LAST_STEP: Final = (
    "When it returns, give the user the file's path and what was charged. If the status is processing, call check_task with"
    " the ids given and never generate again: the task runs on and is paid once."
)

COMPARE: Final = (
    "Then open each file, or say that you have not seen it, and compare: what follows the prompt, what reads better, what it"
    " cost. Recommend one."
)

MAX_ARGUMENT_CHARS: Final = 20_000
"""The maximum length of an argument: eight source URLs, the longest possible value, fit in."""

_LIST = re.compile(r",\s+|,$|\n")
"""The separator of a list. A comma without a space may be part of a URL."""


def items(value: str) -> list[str]:
    """Return the items of a list argument, which a host can send only as one text."""
    return [item.strip() for item in _LIST.split(value) if item.strip()]


def _generate(given: Given, say: Say) -> list[ContentBlock]:
    return [_call("Make an image with FLUX.2", given, None, say)]


def _remix(given: Given, say: Say) -> list[ContentBlock]:
    if not (sources := items(given["source_images"])):
        raise InvalidRequestError(Problem("source_images", "is needed."))
    return [_call("Remix images with FLUX.2", given, sources, say)]


def _call(what: str, given: Given, sources: list[str] | None, say: Say) -> TextContent:
    request = _request(given, given.get("variant"), sources)
    arguments = dict(given) | ({} if sources is None else {"source_images": sources})
    return _text(
        f"{what}: call the tool generate of the server flux-2 with exactly these arguments.\n\n"
        f"{_json(arguments)}\n\n{_cost([request])} {say(LAST_STEP)}"
    )


def _compare(given: Given, say: Say) -> list[ContentBlock]:
    variants = list(dict.fromkeys(items(given.get("variants", "")))) or list(catalog.variants())
    shared = {"aspect_ratio": catalog.DEFAULT_ASPECT_RATIO} | {k: v for k, v in given.items() if k != "variants"}
    requests: list[ImageRequest] = []
    wrong: list[Problem] = []
    for variant in variants:
        try:
            requests.append(_request(shared, variant, None))
        except InvalidRequestError as exc:
            wrong += exc.problems
    if wrong:
        raise InvalidRequestError(*dict.fromkeys(wrong))
    calls = "\n".join(_json(shared | {"variant": variant}) for variant in variants)
    return [
        _text(
            "Compare variants of FLUX.2 on one prompt: call the tool generate of the server flux-2 once for each of these,"
            f" with exactly these arguments.\n\n{calls}\n\n{_cost(requests)} {say(LAST_STEP)}\n\n{say(COMPARE)}"
        )
    ]


def _add_to_app(given: Given, _: Say) -> list[ContentBlock]:
    language, action = given["language"].lower(), given.get("action", Action.TEXT_TO_IMAGE.value)
    wrong = [
        Problem(name, f"got {json.dumps(shortened(value))}; allowed: {', '.join(allowed)}.")
        for name, value, allowed in (("language", language, examples.LANGUAGES), ("action", action, MAKING))
        if value not in allowed
    ]
    if wrong:
        raise InvalidRequestError(*wrong)
    model = catalog.find(given.get("variant"), Action(action))
    cost = _published(pricing.price(PriceBook(), model, catalog.DEFAULT_RESOLUTION).usd)
    feature = given.get("feature", "where the user wants them")
    return [
        _text(
            f"Build FLUX.2 images into this application: {feature}. Language: {examples.LANGUAGES[language].title}; model:"
            f" {model.id}; {cost} an image at {catalog.DEFAULT_RESOLUTION}.\n\nRead what is attached before you write a"
            " line: the quickstart runs as it is, and the schema is exact, so a field that it lacks does not exist. Keep what"
            " the quickstart keeps: one idempotency key for each image, stored before the first call; Retry-After; an image"
            " saved before its URL dies; the key (RUNAPI_API_KEY) on the server only, the base URL from RUNAPI_BASE_URL. Limit"
            " what users may spend.\n\nTest against the sandbox (flux2-mcp sandbox), whose markers in a prompt play each"
            f" fault: {uris.SANDBOX}. More: {uris.API}, {uris.WEBHOOK}, {uris.POLLING}, {uris.PRICES}."
        ),
        *map(
            _embedded,
            (uris.quickstart(language, model.id), uris.request_schema(model.id), uris.TASK_SCHEMA, uris.ERRORS),
        ),
    ]


def _request(given: Given, variant: str | None, sources: list[str] | None) -> ImageRequest:
    return catalog.request(
        prompt=given["prompt"],
        variant=variant,
        source_image_urls=sources,
        aspect_ratio=given.get("aspect_ratio"),
        output_resolution=given.get("output_resolution"),
    )


def _cost(requests: Iterable[ImageRequest]) -> str:
    """Say what the requests cost by the published prices, and what to do if there are no such prices."""
    prices = [(request.variant, pricing.price_of(PriceBook(), request).usd) for request in requests]
    unknown = [variant for variant, usd in prices if usd is None]
    known = sum((usd for _, usd in prices if usd is not None), Decimal(0))
    costs = [f"That costs {dollars(known)} as published {catalog.document()['prices_as_of']}."] if known else []
    if unknown:
        costs.append(
            f"The price of {', '.join(unknown)} is known only live: call check_pricing first and tell the user."
        )
    return " ".join(costs)


def _published(usd: Decimal | None) -> str:
    return "a price known only live" if usd is None else dollars(usd)


def _text(text: str) -> TextContent:
    return TextContent(type="text", text=text)


def _json(arguments: Mapping[str, Any]) -> str:
    text = json.dumps(arguments, indent=2, ensure_ascii=False).replace("`", r"\u0060")  # a backtick could end the block
    return f"```json\n{text}\n```"


def _embedded(uri: str) -> EmbeddedResource:
    document = index.documents()[uri]
    contents = TextResourceContents(uri=uri, mime_type=document.mime_type, text=document.text())
    return EmbeddedResource(type="resource", resource=contents)


_needed = partial(PromptArgument, required=True)
_optional = partial(PromptArgument, required=False)
_PROMPT = _needed(name="prompt", description="What the image shows, 3 to 5000 characters")
_VARIANT = _optional(name="variant", description=catalog.variant_names(needs=True))
_RATIO = _optional(name="aspect_ratio", description="Default 1:1")
_RESOLUTION = _optional(name="output_resolution", description="Default 1k")

PROMPTS: Final[Mapping[str, tuple[Prompt, Callable[[Given, Say], list[ContentBlock]]]]] = {
    prompt.name: (prompt, write)
    for prompt, write in (
        (
            Prompt(
                name="generate",
                title="Make an image",
                description="Make an image with FLUX.2 from a prompt. Costs money.",
                arguments=[_PROMPT, _VARIANT, _RATIO, _RESOLUTION],
            ),
            _generate,
        ),
        (
            Prompt(
                name="remix",
                title="Remix images",
                description="Change images by an instruction. Costs money.",
                arguments=[
                    _needed(name="prompt", description="What to change, 3 to 5000 characters"),
                    _needed(
                        name="source_images",
                        description="Paths, https URLs or task:ID of earlier results, with a comma and a space between; 1 to 8, max: 1",
                    ),
                    _VARIANT,
                    _optional(name="aspect_ratio", description="Default auto, as the source; max needs one"),
                    _RESOLUTION,
                ],
            ),
            _remix,
        ),
        (
            Prompt(
                name="compare_variants",
                title="Compare variants",
                description="The same prompt with several variants, side by side. Costs money for each.",
                arguments=[
                    _PROMPT,
                    _optional(
                        name="variants", description=f"Such as: {', '.join(catalog.variants()[:2])}. Default: all"
                    ),
                    _RATIO,
                    _RESOLUTION,
                ],
            ),
            _compare,
        ),
        (
            Prompt(
                name="add_to_app",
                title="Build FLUX.2 into an application",
                description="The quickstart, the request's schema and the rules for your language. Costs nothing.",
                arguments=[
                    _needed(name="language", description=", ".join(examples.LANGUAGES)),
                    _optional(name="action", description="text_to_image (default) or remix_image"),
                    _optional(name="variant", description=catalog.variant_names()),
                    _optional(name="feature", description="What the application shall do with images"),
                ],
            ),
            _add_to_app,
        ),
    )
}


def as_written(text: str) -> str:
    """A `Say` for callers on this machine."""
    return text


def get(name: str, arguments: Mapping[str, str], say: Say = as_written) -> GetPromptResult:
    """Return a prompt with its arguments filled in.

    Raises:
        InvalidRequestError: There is no such prompt or argument, one is missing, or the catalogue does not allow it.
    """
    prompt, write = find(name)
    known = prompt.arguments or []
    given = {key: value for key, value in arguments.items() if value.strip()}
    names = ", ".join(argument.name for argument in known)
    wrong = [
        Problem(shortened(key), f"no such argument; this prompt has: {names}.")
        for key in arguments
        if key not in {argument.name for argument in known}
    ]
    wrong += [Problem(one.name, "is needed.") for one in known if one.required and one.name not in given]
    wrong += [
        Problem(one.name, f"has more than {MAX_ARGUMENT_CHARS} characters.")
        for one in known
        if len(given.get(one.name, "")) > MAX_ARGUMENT_CHARS
    ]
    if wrong:
        raise InvalidRequestError(*wrong)
    messages = [PromptMessage(role="user", content=block) for block in write(given, say)]
    return GetPromptResult(description=prompt.description, messages=messages)


def find(name: str) -> tuple[Prompt, Callable[[Given, Say], list[ContentBlock]]]:
    """Return a prompt and the function that writes it.

    Raises:
        InvalidRequestError: There is none of that name.
    """
    if name not in PROMPTS:
        raise InvalidRequestError(
            Problem("prompt", f"there is none called {shortened(name)}; there are {', '.join(PROMPTS)}.")
        )
    return PROMPTS[name]
