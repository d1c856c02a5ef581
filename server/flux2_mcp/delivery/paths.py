"""Names of image files. Pure."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime

WORDS = 6
LONGEST = 48
"""Characters of the prompt in a file's name; the whole stays far below the 143 bytes of encrypted home folders."""

# Windows refuses these as a file's first part; the date in front keeps us clear of them, and of hidden files.
_WORD = re.compile(r"[a-z0-9]+")


def image_name(prompt: str, *, at: datetime, ident: str, index: int, suffix: str) -> str:
    """A file name that a person can read: date, words of the prompt, a short id, a number from the second image on.

    Args:
        prompt: Only its first plain words are used.
        at: When the task was made, UTC.
        ident: The task's id or key; its last eight letters and digits stand in the name. Ids that begin with the time
            or with a prefix differ at their end.
        index: Which image of the task, from 0.
        suffix: With the dot.
    """
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = "-".join(_WORD.findall(plain)[:WORDS])[:LONGEST].strip("-")
    short = "".join(_WORD.findall(ident.lower()))[-8:]
    parts = [at.strftime("%Y-%m-%d"), words, short, str(index + 1) if index else ""]
    return "-".join(part for part in parts if part) + suffix
