"""Reads RunAPI's texts: JSON with exact numbers, and errors as one line, never a whole page, never the key. Pure."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from itertools import islice

from flux2_mcp.errors import TeamCapError, shortened
from flux2_mcp.system.logs import redact

MAX_ERROR_CHARS = 300
"""Characters of RunAPI's text that an error may hold."""

_KEYS = ("error_description", "error", "message", "detail", "errorMessage", "msg", "code")
"""Where an error's text stands, the best place first. The first one is OAuth's, which a team's server speaks: its `error` is a word."""
_DEEPEST = 4
_HEADINGS = 4
# The expressions are bounded, so that no page can make the search slow. Upload stores answer in XML, with a <Message>.
_HEADING = re.compile(r"<(?:title|h1|message)\b[^>]{0,200}>(?=(.{0,1000}))", re.IGNORECASE | re.DOTALL)
_HEADING_END = re.compile(r"</(?:title|h1|message)\b", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]{0,1000}>")


def loads(text: str) -> object:
    """JSON as Python objects. Decimal numbers are exact, as `Decimal`; NaN and Infinity become None.

    Raises:
        ValueError: The text is not JSON, is nested too deep, or has too long an exponent.
    """
    try:
        loaded: object = json.loads(text, parse_float=Decimal, parse_constant=lambda _: None)
    except (RecursionError, ArithmeticError) as exc:
        raise ValueError("deeper, or with a longer exponent, than anything that is meant") from exc
    return loaded


def said(value: object, depth: int = _DEEPEST) -> str:
    """The text in an error that has one of the known shapes."""
    if isinstance(value, str):
        return value
    if depth and isinstance(value, list):
        return "; ".join(filter(None, (said(item, depth - 1) for item in value)))
    if not depth or not isinstance(value, dict):
        return ""
    words = next((found for name in _KEYS if (found := said(value.get(name), depth - 1).strip())), "")
    named = value.get("errors")
    if isinstance(named, dict):
        fields = "; ".join(f"{name}: {said(texts, depth - 1).replace('; ', ', ')}" for name, texts in named.items())
    else:
        fields = said(named, depth - 1)
    return ": ".join(filter(None, (words, fields)))


def is_page(text: str, content_type: str) -> bool:
    """True for HTML or XML. RunAPI's own answers are JSON."""
    return "html" in content_type.lower() or text.lstrip().startswith("<")


def error_message(text: str, content_type: str, key: str | None = None) -> str:
    """The text of an error's body in one line of at most 300 characters, or "". It never shows the key."""
    if is_page(text, content_type):
        import html

        heads = (_HEADING_END.split(found[1], maxsplit=1)[0] for found in islice(_HEADING.finditer(text), _HEADINGS))
        # Tags are removed twice: an entity may become a tag.
        plain = (_TAG.sub(" ", html.unescape(_TAG.sub(" ", head))) for head in heads)
        return clean(next((words for words in plain if words.strip()), ""), key)
    try:
        loaded = loads(text)
    except ValueError:
        loaded = text
    return clean(said(loaded), key)


def field_errors(text: str, key: str | None = None) -> dict[str, list[str]]:
    """RunAPI's words for each field, from an error's body that has `errors` by name; else nothing. None shows the key."""
    try:
        loaded = loads(text)
    except ValueError:
        return {}
    named = loaded.get("errors") if isinstance(loaded, dict) else None
    if not isinstance(named, dict):
        return {}
    found = {
        clean(name, key): [clean(said(each), key) for each in (texts if isinstance(texts, list) else [texts])]
        for name, texts in named.items()
    }
    return {name: [each for each in texts if each] for name, texts in found.items()}


def cap_refusal(text: str, key: str | None = None) -> tuple[str, str] | None:
    """What a cap of a team's server says, and what to do next (which may be ""); None: the error is none of a cap."""
    try:
        loaded = loads(text)
    except ValueError:
        return None
    error = loaded.get("error") if isinstance(loaded, dict) else None
    if not isinstance(error, dict) or error.get("code") != TeamCapError.code:
        return None
    message, after = said(error.get("message")), said(error.get("next_step"))
    return clean(message.removesuffix(after), key), clean(after, key)


def clean(text: str, key: str | None = None) -> str:
    """The text as one line of at most 300 printable characters, without the key."""
    words = ("".join(char for char in word if char.isprintable()) for word in text.split())
    # The key is removed before the line is cut: otherwise a part of it could stay.
    line = redact(" ".join(word for word in words if word), key or "")
    return shortened(line, MAX_ERROR_CHARS)
