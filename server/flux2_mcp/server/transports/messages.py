"""Parses a host's input as JSON-RPC: into a message, or into an error with the id of the request, if one can be found.

The id of a text that does not parse can still be found if the outermost object can be followed. Half a surrogate pair,
Latin-1 or an extra comma is inside a string or between tokens, so strings and brackets are still recognizable. Pure.

MCP has no batches: only the revision 2025-03-26 had them, and all later ones have single messages only. Each request in
a batch gets its own error.
"""

from __future__ import annotations

import json
import re

import pydantic_core
from mcp_types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    RequestId,
    jsonrpc_message_adapter,
)
from pydantic import ValidationError

MAX_TOKENS = 100_000
"""The maximum number of strings and brackets that are followed to find an id; only a hostile text has more."""

EXACT = 2**53
"""Up to this value, a float represents every integer exactly."""

MAX_PARTS = 10_000
"""The maximum number of strings, commas and opening brackets of a body over HTTP: at least 3,300 values, where a call has some
dozens. A million small values would hold up the calls of all others for seconds, while they are parsed."""

MAX_BATCH = 1_000
"""The maximum number of parts of a batch that are answered, because an answer is longer than the shortest part."""

_NO_JSON = ErrorData(code=PARSE_ERROR, message="Parse error: this is not JSON in UTF-8.")
_CROWDED = ErrorData(code=PARSE_ERROR, message="Parse error: this has too many values.")
_NO_MESSAGE = ErrorData(code=INVALID_REQUEST, message="Invalid request: this is not a JSON-RPC 2.0 message.")
_NO_BATCH = ErrorData(code=INVALID_REQUEST, message="Invalid request: send messages each on its own, not in a batch.")

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
# Strings are matched first, because a bracket inside a string does not count. A string without an end takes the rest.
_TOKEN = re.compile(_STRING + rb'|".*|[{}\[\]]', re.DOTALL)
# One match in C, which ends at the first part too many; possessive, so it is linear.
_TOO_MANY = re.compile(rb"(?:[^\",\[{]*+(?:" + _STRING + rb"|[,\[{])){%d}+[^\",\[{]*+[\",\[{]" % MAX_PARTS, re.DOTALL)
_COLON = re.compile(rb"\s*:\s*")
_ID = re.compile(rb"(-?(?:0|[1-9][0-9]{0,30})(?:\.0{1,30})?|" + _STRING + rb")\s*[,}]", re.DOTALL)


def is_json(text: bytes) -> bool:
    """Whether a text is JSON at all."""
    try:
        pydantic_core.from_json(text)
    except ValueError:
        return False
    return True


def is_crowded(text: bytes) -> bool:
    """Whether a text has more parts than `MAX_PARTS`. Nothing is parsed; what stands inside a string is no part."""
    # Each value follows a comma or an opening bracket. To count them wherever they stand takes less than to find the strings.
    return sum(map(text.count, (b",", b"[", b"{"))) > MAX_PARTS // 3 and _TOO_MANY.match(text) is not None


def message(text: bytes, most: int) -> JSONRPCMessage | None:
    """Return the message in a text; None if the text is no message, or has more than `most` bytes."""
    if len(text) > most:
        return None
    try:
        found = jsonrpc_message_adapter.validate_json(text, by_name=False)
    except ValidationError:
        return None
    # For the SDK, a request with an invalid id is a notification. Then its sender would wait for ever.
    is_notification = isinstance(found, JSONRPCNotification)
    return None if is_notification and b'"id"' in text and "id" in pydantic_core.from_json(text) else found


def refusal(text: bytes, most: int) -> JSONRPCError | list[JSONRPCError] | None:
    """Return the error for a text that is no message. None for a broken response: two peers could send errors for ever.

    For a batch, the result is a list with the errors of its parts.

    Args:
        text: The input. If it is longer than `most` bytes, a part from the middle may be missing.
        most: The maximum size of a message in bytes.
    """
    members: dict[str, object]
    if len(text) > most:
        error = ErrorData(code=PARSE_ERROR, message=f"Parse error: this is longer than {most} bytes.")
        members = _members(text)
    else:
        try:
            found = pydantic_core.from_json(text)
        except ValueError:
            error, members = _NO_JSON, _members(text)
        else:
            if isinstance(found, list) and found:
                return [answer for part in found[:MAX_BATCH] if (answer := _of_batch(part)) is not None]
            error, members = _NO_MESSAGE, found if isinstance(found, dict) else {}
    return _answer(members, error)


def crowded(text: bytes) -> JSONRPCError:
    """Return the error for a text that `is_crowded`, with the id of the request if one can be found without parsing."""
    return JSONRPCError(jsonrpc="2.0", id=_usable(_members(text).get("id")), error=_CROWDED)


def _of_batch(part: object) -> JSONRPCError | None:
    """Return the error for a part of a batch; None for a notification, which needs no answer."""
    members = part if isinstance(part, dict) else {}
    return None if "method" in members and "id" not in members else _answer(members, _NO_BATCH)


def _answer(members: dict[str, object], error: ErrorData) -> JSONRPCError | None:
    """Return the error with the id of a message that has these members; None if the message is a response."""
    if "method" not in members and ("result" in members or "error" in members):
        return None
    return JSONRPCError(jsonrpc="2.0", id=_usable(members.get("id")), error=error)


def _usable(ident: object) -> RequestId | None:
    if isinstance(ident, float) and ident.is_integer() and abs(ident) <= EXACT:  # in JSON, 7.0 is the number 7
        return int(ident)
    return ident if isinstance(ident, int | str) and not isinstance(ident, bool) else None


def _members(text: bytes) -> dict[str, object]:
    """Return the names in the outermost object of a text that does not parse, with the value of `id` only.

    If a name comes twice, its value is None.
    """
    found: dict[str, object] = {}
    depth = 0
    for number, token in enumerate(_TOKEN.finditer(text)):
        if (not number and token[0] != b"{") or number > MAX_TOKENS:
            return {}
        if token[0] in b"{[":
            depth += 1
        elif token[0] in b"}]":
            depth -= 1
            if not depth:
                # An extra bracket may have ended the object too early. Then a later id may be that of the request.
                return found if b'"id"' not in text[token.end() :] else found | {"id": None}
        elif depth == 1 and (colon := _COLON.match(text, token.end())) is not None:
            name = token[0][1:-1].decode("ascii", "replace")
            value = _ID.match(text, colon.end()) if name == "id" else None
            found[name] = _value(value[1]) if value is not None and name not in found else None
    return found


def _value(token: bytes) -> object:
    try:
        value = json.loads(token)
        str(value).encode()
    except ValueError:  # no UTF-8, or half a surrogate pair: an answer can't repeat it
        return None
    return value
