"""The only place where our errors become tool results or protocol errors, and where arguments are checked.

Tools raise errors; only text that was written for a model reaches a model.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from itertools import chain, repeat
from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, CallToolResult, TextContent
from pydantic import ValidationError

from flux2_mcp.errors import Flux2Error, InvalidRequestError, Problem, meant, shortened

log = logging.getLogger("flux2_mcp.server.boundary")

# pydantic's error types, in our words.
_WANTED = {
    "missing": "is needed",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "list_type": "must be a list of strings",
}
MAX_DATA_CHARS = 2048
"""A text in an error's data is cut only if it is longer: the URL of a login page must stay whole."""
_BOUNDS = {
    "greater_than_equal": ("ge", "must be at least"),
    "greater_than": ("gt", "must be more than"),
    "less_than_equal": ("le", "must be at most"),
    "string_too_short": ("min_length", "must have at least so many characters:"),
    "string_too_long": ("max_length", "must have at most so many characters:"),
    "too_long": ("max_length", "must have at most so many items:"),
}


def said(arguments: Mapping[str, object], schema: Mapping[str, Any]) -> dict[str, object]:
    """Return the arguments without blank ones: strict clients send `null` or "" for arguments that they leave out.

    Unknown arguments stay, so that they are refused by name later. A needed argument that is "" stays, so that it is
    refused together with all else that is wrong.
    """
    known, needed = schema.get("properties", {}), schema.get("required", ())
    return {
        name: value
        for name, value in arguments.items()
        if name not in known or value not in (None, "") or (name in needed and value == "")
    }


def filled(arguments: Mapping[str, object]) -> dict[str, object]:
    """Return a prompt's arguments with "" for `null`: the protocol allows only strings. Blank ones go later."""
    return {name: "" if value is None else value for name, value in arguments.items()}


def unknown_arguments(
    arguments: Mapping[str, object], schema: Mapping[str, Any], unlisted: Collection[str] = ()
) -> InvalidRequestError | None:
    """Return an error if there are unknown arguments: to drop a parameter silently is a bug.

    Also refuses true and false for a number. The library reads them as 1 and 0, so `max_cost_usd` would be a dollar.
    What is `unlisted` is known, but is not named to a model: it works on the caller's own machine alone.
    """
    known = schema.get("properties", {})
    listed = [name for name in known if name not in unlisted]
    # The list of all arguments stands once, however many are unknown.
    lists = chain([f"; this tool has: {', '.join(listed)}"], repeat(""))
    strange = [
        Problem(shortened(name), f"no such argument{meant(name, listed)}{next(lists)}.")
        for name in arguments
        if name not in known
    ]
    strange += [
        Problem(name, f"{_WANTED['float_type']}.")
        for name, value in arguments.items()
        if _is_truth(value) and name in known and _kinds(known[name]) & {"number", "integer"}
    ]
    return InvalidRequestError(*strange) if strange else None


def _is_truth(value: object) -> bool:
    """Whether a value is true or false, or a string with one of them, which the library reads as JSON."""
    return isinstance(value, bool) or (isinstance(value, str) and value.strip() in {"true", "false"})


def _kinds(schema: Mapping[str, Any]) -> set[object]:
    """Return the JSON types that an argument may have."""
    return {each.get("type") for each in (schema, *schema.get("anyOf", ()))}


def from_validation(error: ValidationError) -> InvalidRequestError:
    """Return an error for arguments of the wrong type: a line for each field, without pydantic's text and values."""
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        kind, context = detail["type"], detail.get("ctx", {})
        if kind in _BOUNDS:
            name, phrase = _BOUNDS[kind]
            text = f"{phrase} {context[name]:g}"
        elif kind == "literal_error":
            allowed = re.findall("'([^']*)'", context["expected"])
            near = meant(given, allowed) if isinstance(given := detail["input"], str) else ""
            text = f"must be one of {context['expected']}{near}"
        else:
            text = _WANTED.get(kind, "has the wrong form")
        found.setdefault(".".join(map(str, detail["loc"])), f"{text}.")
    return InvalidRequestError(*(Problem(field, text) for field, text in found.items()))


def to_result(error: BaseException) -> CallToolResult:
    """Return an error as a tool result: what happened, what it cost, what to do next."""
    if not isinstance(error, Flux2Error):
        log.error("unexpected %s", type(error).__name__, exc_info=error)
        error = Flux2Error(
            "The server failed on something it did not expect.",
            cost="Whatever RunAPI took is in the journal.",
            next_step="Call check_task to see what was made; the server's log on stderr has the cause.",
        )
    text = f"{error.message}\n{error.cost}\nNext: {error.next_step}"
    return CallToolResult(content=[TextContent(type="text", text=text)], is_error=True)


def brief(error: MCPError) -> MCPError:
    """Shorten the data of an error of the SDK: it may repeat a URI or a method name of any length."""
    data = error.error.data
    texts = data if isinstance(data, dict) else {"": data}
    if all(not isinstance(text, str) or len(text) <= MAX_DATA_CHARS for text in texts.values()):
        return error
    cut = {name: shortened(text) if isinstance(text, str) else text for name, text in texts.items()}
    return MCPError(error.error.code, error.error.message, cut if isinstance(data, dict) else cut[""])


def to_protocol(error: Flux2Error) -> MCPError:
    """Return an error as a JSON-RPC error, for requests without tool results: resources, prompts, completion, lists.

    The code is -32602 if the caller can correct the request, and otherwise -32603, with the next step.
    """
    if isinstance(error, InvalidRequestError):
        return MCPError(code=INVALID_PARAMS, message=error.message)
    return MCPError(code=INTERNAL_ERROR, message=f"{error.message} {error.next_step}")
