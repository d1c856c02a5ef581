"""What a host sends, as JSON-RPC: a message, or the refusal of what is none, under the id of whoever waits for an answer.

A text that does not parse still shows its id where its outermost object can be followed: half a surrogate pair, Latin-1 and a
comma too many are inside of strings or between tokens, and leave strings and brackets where they were. Pure.

A batch is none of what MCP knows: 2025-03-26 had them, each revision since has single messages alone. What waits for an answer to
a part of one is told so, part by part.
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
"""Strings and brackets that are followed to find an id; more have only texts that are made to be followed."""

EXACT = 2**53
"""Up to here, a float is the number that was written."""

MAX_BATCH = 1_000
"""Parts of a batch that are answered: an answer is longer than the shortest of them."""

_NO_JSON = ErrorData(code=PARSE_ERROR, message="Parse error: this is not JSON in UTF-8.")
_NO_MESSAGE = ErrorData(code=INVALID_REQUEST, message="Invalid request: this is not a JSON-RPC 2.0 message.")
_NO_BATCH = ErrorData(code=INVALID_REQUEST, message="Invalid request: send messages each on its own, not in a batch.")

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
# Strings first: what stands in them is no bracket. One that never ends takes all that follows it.
_TOKEN = re.compile(_STRING + rb'|".*|[{}\[\]]', re.DOTALL)
_COLON = re.compile(rb"\s*:\s*")
_ID = re.compile(rb"(-?(?:0|[1-9][0-9]{0,30})(?:\.0{1,30})?|" + _STRING + rb")\s*[,}]", re.DOTALL)


def message(text: bytes, most: int) -> JSONRPCMessage | None:
    """The message in a text; None where there is none, or more than `most` bytes."""
    if len(text) > most:
        return None
    try:
        found = jsonrpc_message_adapter.validate_json(text, by_name=False)
    except ValidationError:
        return None
    # To the SDK, a request with an id that can be none is a notification, and whoever sent it waits for ever.
    is_notification = isinstance(found, JSONRPCNotification)
    return None if is_notification and b'"id"' in text and "id" in pydantic_core.from_json(text) else found


def refusal(text: bytes, most: int) -> JSONRPCError | list[JSONRPCError] | None:
    """What to say to a text that is no message; None to a broken answer, or two peers could complain for ever.

    To a batch it is a list: what to say to each of its parts.

    Args:
        text: As it came; of one that is longer than `most` bytes, a part from the middle may be missing.
        most: Bytes that are read.
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
                return [told for part in found[:MAX_BATCH] if (told := _of_batch(part)) is not None]
            error, members = _NO_MESSAGE, found if isinstance(found, dict) else {}
    return _answer(members, error)


def _of_batch(part: object) -> JSONRPCError | None:
    """What to say to a part of a batch; None to a notification, which nobody waits for."""
    members = part if isinstance(part, dict) else {}
    return None if "method" in members and "id" not in members else _answer(members, _NO_BATCH)


def _answer(members: dict[str, object], error: ErrorData) -> JSONRPCError | None:
    """The error under the id of a message with these members; None to an answer."""
    if "method" not in members and ("result" in members or "error" in members):
        return None
    return JSONRPCError(jsonrpc="2.0", id=_usable(members.get("id")), error=error)


def _usable(ident: object) -> RequestId | None:
    if isinstance(ident, float) and ident.is_integer() and abs(ident) <= EXACT:  # in JSON, 7.0 is the number 7
        return int(ident)
    return ident if isinstance(ident, int | str) and not isinstance(ident, bool) else None


def _members(text: bytes) -> dict[str, object]:
    """The names in the outermost object of a text that does not parse, `id` with its value; none that comes twice."""
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
                # A bracket too many may have ended the object, and then the next id is the caller's.
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
    except ValueError:  # no UTF-8, or half a surrogate pair: what could not be read can't be said
        return None
    return value
