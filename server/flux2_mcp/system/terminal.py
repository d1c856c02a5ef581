"""Text on a terminal: what others wrote must not steer it."""

from __future__ import annotations

import re
from typing import Final

STEERING: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Control characters but for tab and line feed, and those that change the direction of text. U+200D, which joins emoji, is none."""


def plain(text: str) -> str:
    """Replace each character that moves the cursor, colours, hides or turns text round, or starts such a sequence."""
    return STEERING.sub("\N{REPLACEMENT CHARACTER}", text)
