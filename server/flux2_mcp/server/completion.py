"""Completion: the possible values for an argument of a prompt or a resource template, given the other arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from mcp_types import Completion, PromptReference, ResourceTemplateReference

from flux2_mcp.domain import catalog
from flux2_mcp.domain.catalog import Model
from flux2_mcp.domain.lifecycle import STATUSES
from flux2_mcp.domain.models import MAKING, Action
from flux2_mcp.domain.sources import TASK
from flux2_mcp.errors import InvalidRequestError, Problem, shortened
from flux2_mcp.journal.records import TaskRecord
from flux2_mcp.server import prompts, resources
from flux2_mcp.server.docs import examples
from flux2_mcp.server.prompts import Given
from flux2_mcp.server.session import ServerSession

MAX_VALUE_CHARS: Final = 2000
"""The maximum length of a typed value: with a list, each suggested value repeats all of it."""
MAX_CHOICES: Final = 100
"""The maximum number of values in one answer, a limit of the protocol."""

_VARIABLE = re.compile(r"[{,?](\w+)")
_TYPED = re.compile(r"(.*(?:,\s+|,$|\n))?(.*)", re.DOTALL)
"""Splits a list into its finished items and the item that the user is typing."""

_IMPLIED: Final[Mapping[str, Given]] = {
    "remix": {"action": Action.REMIX_IMAGE},
    "compare_variants": {"variants": ", ".join(catalog.variants())},
}
"""The arguments that a prompt implies if the user has chosen none. Without a row: text to image, default variant."""


def _models(given: Given) -> list[Model]:
    """Return the models for the chosen action and variants. An unknown name counts as no choice."""
    action = Action(given["action"]) if given.get("action") in MAKING else Action.TEXT_TO_IMAGE
    names = {*prompts.items(given.get("variants", "")), given.get("variant")}
    models = [model for model in catalog.models().values() if model.action is action]
    return [model for model in models if names & {model.variant, model.id}] or [catalog.find(None, action)]


def _allowed(field: str) -> Callable[[Given], list[str]]:
    """Return a function that gives the values of a field that every chosen model accepts."""

    def values(given: Given) -> list[str]:
        first, *others = (model.fields[field].enum for model in _models(given))
        return [str(value) for value in first if all(value in other for other in others)]

    return values


_VALUES: Final[Mapping[str, Callable[[Given], Iterable[str]]]] = {
    "variant": lambda _: catalog.variants(),
    "variants": lambda _: catalog.variants(),
    "aspect_ratio": _allowed("aspect_ratio"),
    "output_resolution": _allowed("output_resolution"),
    "language": lambda _: examples.LANGUAGES,
    "action": lambda _: MAKING,
    "model": lambda _: catalog.models(),
}
_TASKS: Final[Mapping[str, Callable[[TaskRecord], str | None]]] = {
    "id": lambda record: record.task_id or record.key,
    "source_images": lambda record: (
        f"{TASK}{record.task_id}" if record.task_id and STATUSES[record.state] == "completed" else None
    ),
}
"""Arguments that name a task: how each writes a recent task; None if this task is not suitable."""


async def complete(
    session: ServerSession, ref: PromptReference | ResourceTemplateReference, name: str, value: str, given: Given
) -> Completion:
    """Return the possible values of an argument that begin with `value`.

    Args:
        session: Has the recent tasks.
        ref: A prompt or a resource template of ours.
        name: The name of the argument.
        value: The text that the user has typed.
        given: The other arguments that the user has filled in.

    Raises:
        InvalidRequestError: There is no such prompt, template or argument.
        JournalError: The recent tasks can't be read.
        SettingsError: There is no service to read the recent tasks.
    """
    known, implied = _arguments(ref)
    if name not in known:
        raise InvalidRequestError(
            Problem("argument", f"there is none called {shortened(name)}; there are {', '.join(known)}.")
        )
    more = False
    if len(value) > MAX_VALUE_CHARS:
        values = []
    elif name in _TASKS:
        records = await session.service.page(limit=MAX_CHOICES, before=None)
        values = [text for record in records if (text := _TASKS[name](record)) is not None]
        more = len(records) == MAX_CHOICES
    elif name in _VALUES:
        values = list(_VALUES[name](implied | {key: text for key, text in given.items() if text.strip()}))
    else:
        values = []
    head, typed = _split(value) if name in {"variants", "source_images"} else ("", value)
    chosen = prompts.items(head)
    found = [head + text for text in values if text not in chosen and text.lower().startswith(typed.lower())]
    return Completion(values=found[:MAX_CHOICES], total=None if more else len(found), has_more=more)


def _arguments(ref: PromptReference | ResourceTemplateReference) -> tuple[Sequence[str], dict[str, str]]:
    """Return the names of the arguments, and the arguments that are implied if the user has chosen no others."""
    if isinstance(ref, PromptReference):
        prompt, _ = prompts.find(ref.name)
        return [argument.name for argument in prompt.arguments or []], dict(_IMPLIED.get(ref.name, {}))
    if ref.uri not in {template.uri_template for template in resources.TEMPLATES}:
        raise InvalidRequestError(Problem("uri", "is no template of ours; resources/templates/list has them."))
    return _VARIABLE.findall(ref.uri), {}


def _split(value: str) -> tuple[str, str]:
    match = _TYPED.fullmatch(value)
    head, typed = match.groups() if match else ("", value)
    return (f"{head} " if head and head.endswith(",") else head or ""), typed
