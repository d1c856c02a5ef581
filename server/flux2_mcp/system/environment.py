"""What a variable of the environment says, without what hosts and shells leave around it. Pure.

Hosts hand on what their user wrote: a placeholder that was never filled in, quotes that no shell took off, `Bearer` before a
key, `~` before a path. Imported before the first answer, so it imports next to nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

# `${NAME}`, `${env:NAME}`, `${input:id}`, `${user_config.name}`; `{env:NAME}`; `{{NAME}}`; `%NAME%`; `$NAME`, `$env:NAME`.
# An amount, such as `$5`, is none of them.
_UNFILLED = re.compile(r"\$\{.*\}|\{\w+:.*\}|\{\{.*\}\}|%[^%]+%|\$(?:env:)?[A-Za-z_]\w*", re.DOTALL)
_BEARER = re.compile(r"bearer(?:\s+|$)", re.IGNORECASE)
_QUOTES = "\"'"


def said(text: str | None) -> str | None:
    """What a value says, without blanks and quotes around it; None where it is blank or a placeholder that nobody filled in."""
    found = (text or "").strip()
    while len(found) > 1 and found[0] == found[-1] and found[0] in _QUOTES:
        found = found[1:-1].strip()
    return None if not found or _UNFILLED.fullmatch(found) else found


def said_key(text: str | None) -> str | None:
    """The same of a key, without the `Bearer` that stands before it in a header."""
    return said(_BEARER.sub("", said(text) or "", count=1))


def said_path(text: str | None, env: Mapping[str, str]) -> str | None:
    """The same of a path, with `~` for the user's home as this environment names it, where it does."""
    found = said(text)
    if found is None or (found != "~" and not found.startswith(("~/", f"~{os.sep}"))):
        return found
    home = said(env.get("HOME")) or said(env.get("USERPROFILE"))
    return found if home is None else home + found[1:]


def cleaned(env: Mapping[str, str]) -> dict[str, str]:
    """Every variable that says something, and what it says."""
    return {name: text for name, value in env.items() if (text := said(value)) is not None}
