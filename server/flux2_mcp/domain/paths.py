"""Which paths below a folder every system takes. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_PATH_CHARS = 1024
"""Characters and bytes of a path in the workspace: every system takes a whole path of this length."""
MAX_NAME_BYTES = 200
"""Bytes of one part of a path. Systems take 255; the rest is for a number that may be added."""
GIT = ".git"

_FORBIDDEN = re.compile(r'[<>:"|?*\\]')
# Names that Windows keeps for devices, whatever their suffix.
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?$", re.IGNORECASE)


def trouble(text: str, parts: Sequence[str]) -> str | None:
    """Return why a relative path is not one that every system takes, as the end of a sentence; None if it is one.

    Args:
        text: The whole path.
        parts: Its folders and its name.
    """
    if len(text) > MAX_PATH_CHARS or len(text.encode(errors="replace")) > MAX_PATH_CHARS:
        return f"is longer than {MAX_PATH_CHARS} bytes."
    for part in parts:
        if part in {"", ".."}:
            return "must stay below the workspace: no '..', no empty part."
        if not part.isprintable() or _FORBIDDEN.search(part):
            return "holds a character that not every system allows in a name. Put / between folders."
        if part.endswith((".", " ")) or part.startswith(" ") or _RESERVED.match(part):
            return "holds a name that Windows keeps for devices, or one that begins or ends in a blank or a dot."
        if part.casefold() == GIT:
            return "leads into .git, which git keeps for itself."
        if len(part.encode()) > MAX_NAME_BYTES:
            return f"holds a name of more than {MAX_NAME_BYTES} bytes."
    return None
