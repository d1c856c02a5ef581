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
    return next(filter(None, map(_trouble, parts)), None)


def _trouble(part: str) -> str | None:
    """Return the same of a folder's or a file's name."""
    wrong = (
        (part in {"", ".."}, "must stay below the workspace: no '..', no empty part."),
        (
            not part.isprintable() or _FORBIDDEN.search(part),
            "holds a character that not every system allows in a name. Put / between folders.",
        ),
        (
            part.endswith((".", " ")) or part.startswith(" ") or _RESERVED.match(part),
            "holds a name that Windows keeps for devices, or one that begins or ends in a blank or a dot.",
        ),
        (part.casefold() == GIT, "leads into .git, which git keeps for itself."),
        (len(part.encode(errors="replace")) > MAX_NAME_BYTES, f"holds a name of more than {MAX_NAME_BYTES} bytes."),
    )
    return next((words for is_wrong, words in wrong if is_wrong), None)
