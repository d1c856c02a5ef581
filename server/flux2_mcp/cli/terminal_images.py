"""Pictures inline, on terminals that are known to show them.

What a terminal can do is told by its environment alone: asking it would mean to wait for answers that most never give.
Protocols: kitty's graphics protocol (sw.kovidgoyal.net/kitty/graphics-protocol), which takes PNG; iTerm2's inline images
(iterm2.com/documentation-images.html), which take whatever the system reads.
"""

from __future__ import annotations

import struct
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from flux2_mcp.errors import DeliveryError
from flux2_mcp.images.preview import scaled

Protocol: TypeAlias = Literal["kitty", "iterm2"]
Draw: TypeAlias = Callable[[Path, int, int], str | None]
"""The picture of a file so many pixels wide and high, as what to print; None where it can't be drawn."""

# What a terminal calls itself, in TERM or TERM_PROGRAM.
TERMINALS: dict[str, Protocol] = {
    "xterm-kitty": "kitty",
    "xterm-ghostty": "kitty",
    "ghostty": "kitty",
    "iTerm.app": "iterm2",
    "WezTerm": "iterm2",
    "mintty": "iterm2",
}
# What it leaves in the environment of all that it starts; LC_TERMINAL, which iTerm2 sets, survives SSH.
MARKS: dict[str, Protocol] = {"KITTY_WINDOW_ID": "kitty", "WEZTERM_PANE": "iterm2", "LC_TERMINAL": "iterm2"}
MULTIPLEXED = ("TMUX", "STY", "ZELLIJ")
"""What stands between, and would swallow or misplace the picture."""

COLUMNS, ROWS = 48, 18
"""The most that a picture takes of a screen."""
CELL_PX = (9, 19)
"""Pixels of a cell, wide and high, where the terminal does not tell."""
CHUNK_BYTES = 4096
"""Characters of one of kitty's messages."""


def protocol(env: Mapping[str, str]) -> Protocol | None:
    """What pictures the terminal takes; None: none, or nobody knows."""
    if any(env.get(name) for name in MULTIPLEXED):
        return None
    for name in ("TERM", "TERM_PROGRAM"):
        if (known := TERMINALS.get(env.get(name, ""))) is not None:
            return known
    if env.get("TERM_PROGRAM") or env.get("TERM") == "dumb":
        return None  # marks are inherited: another terminal may have been started from one of those
    return next((known for name, known in MARKS.items() if env.get(name)), None)


def drawer(env: Mapping[str, str]) -> Draw | None:
    """How to draw on the terminal of this environment; None where pictures can't be shown."""
    found = protocol(env)
    if found is None:
        return None

    def draw(path: Path, width: int, height: int) -> str | None:
        try:
            if found == "iterm2":
                return iterm2(scaled(path))
            return kitty(scaled(path, longest(width, height, _cell()), most_bytes=None, kind="PNG"))
        except DeliveryError:
            return None  # the file has gone: its path is told all the same

    return draw


def longest(width: int, height: int, cell: tuple[int, int]) -> int:
    """Pixels of the longer side of a picture that must fit `COLUMNS` and `ROWS` of cells of so many pixels."""
    scale = min(COLUMNS * cell[0] / width, ROWS * cell[1] / height, 1)
    return max(1, int(max(width, height) * scale))


def kitty(png: bytes) -> str:
    """A PNG for kitty, shown where the cursor is, pixel by pixel, in as many messages as it needs.

    a=T: send and show; f=100: PNG; q=2: say nothing back; m=1: more follows.
    """
    data = b64encode(png).decode()
    chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    heads = ["a=T,f=100,q=2,"] + [""] * (len(chunks) - 1)
    more = [1] * (len(chunks) - 1) + [0]
    return "".join(f"\033_G{head}m={rest};{chunk}\033\\" for head, rest, chunk in zip(heads, more, chunks, strict=True))


def iterm2(image: bytes) -> str:
    """An image for iTerm2, shown where the cursor is, as large as fits `COLUMNS` and `ROWS`."""
    arguments = f"inline=1;size={len(image)};width={COLUMNS};height={ROWS};preserveAspectRatio=1"
    return f"\033]1337;File={arguments}:{b64encode(image).decode()}\a"


def _cell() -> tuple[int, int]:
    """Pixels of the terminal's cells, where the system passes them on."""
    try:
        import fcntl
        import termios

        size = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(8))
    except (ImportError, OSError, ValueError):
        return CELL_PX
    rows, columns, width, height = struct.unpack("HHHH", size)
    return (width // columns or 1, height // rows or 1) if rows and columns and width and height else CELL_PX
