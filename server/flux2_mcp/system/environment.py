"""Reads variables of the environment, and removes what hosts and shells leave around their values. Pure.

Hosts pass on what their user wrote: a placeholder that was never replaced, quotes that no shell removed, `Bearer`
before a key, `~` before a path. This module is loaded before the first answer, so it imports almost nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

# `${NAME}`, `${env:NAME}`, `${input:id}`, `${user_config.name}`; `{env:NAME}`; `{{NAME}}`; `%NAME%`; `$NAME`,
# `$env:NAME`.
# An amount, such as `$5`, is no placeholder.
_UNFILLED = re.compile(r"\$\{.*\}|\{\w+:.*\}|\{\{.*\}\}|%[^%]+%|\$(?:env:)?[A-Za-z_]\w*", re.DOTALL)
_BEARER = re.compile(r"bearer(?:\s+|$)", re.IGNORECASE)
_QUOTES = "\"'"


def said(text: str | None) -> str | None:
    """A value without blanks and quotes around it; None if it is blank or a placeholder that was never replaced."""
    found = (text or "").strip()
    while len(found) > 1 and found[0] == found[-1] and found[0] in _QUOTES:
        found = found[1:-1].strip()
    return None if not found or _UNFILLED.fullmatch(found) else found


def said_key(text: str | None) -> str | None:
    """The same for a key, without the `Bearer` that comes before it in a header."""
    return said(_BEARER.sub("", said(text) or "", count=1))


def said_path(text: str | None, env: Mapping[str, str]) -> str | None:
    """The same for a path. `~` is replaced by the user's home, if this environment names it."""
    found = said(text)
    if found is None or (found != "~" and not found.startswith(("~/", f"~{os.sep}"))):
        return found
    home = home_of(env)
    return found if home is None else home + found[1:]


def home_of(env: Mapping[str, str]) -> str | None:
    """The user's home, if this environment names it."""
    return said(env.get("HOME")) or said(env.get("USERPROFILE"))


def cleaned(env: Mapping[str, str]) -> dict[str, str]:
    """All variables that have a value by `said`, with that value."""
    return {name: text for name, value in env.items() if (text := said(value)) is not None}
