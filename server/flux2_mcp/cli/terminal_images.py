"""Shows pictures inline, on terminals that are known to support them.

Only the environment decides what a terminal supports: a query to the terminal would need a wait for an answer, and most
terminals give none. Protocols: kitty's graphics protocol (sw.kovidgoyal.net/kitty/graphics-protocol), which takes PNG;
iTerm2's inline images (iterm2.com/documentation-images.html), which take every format that the system reads.
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
"""Makes the text to print for an image file, from its path, width and height in pixels; None if it can't be drawn."""

# The names of terminals, in TERM or TERM_PROGRAM.
TERMINALS: dict[str, Protocol] = {
    "xterm-kitty": "kitty",
    "xterm-ghostty": "kitty",
    "ghostty": "kitty",
    "iTerm.app": "iterm2",
    "WezTerm": "iterm2",
    "mintty": "iterm2",
}
# Variables that a terminal sets for the processes that it starts. LC_TERMINAL, which iTerm2 sets, is kept over SSH.
MARKS: dict[str, Protocol] = {"KITTY_WINDOW_ID": "kitty", "WEZTERM_PANE": "iterm2", "LC_TERMINAL": "iterm2"}
MULTIPLEXED = ("TMUX", "STY", "ZELLIJ")
"""Variables of terminal multiplexers, which would lose or misplace the picture."""

COLUMNS, ROWS = 48, 18
"""The maximum size of a picture, in cells."""
CELL_PX = (9, 19)
"""The width and height of a cell in pixels, if the terminal does not report them."""
CHUNK_BYTES = 4096
"""The maximum size of one kitty message; the data is ASCII, so bytes are characters."""


def protocol(env: Mapping[str, str]) -> Protocol | None:
    """Return the picture protocol of the terminal; None if it has none or is unknown."""
    if any(env.get(name) for name in MULTIPLEXED):
        return None
    for name in ("TERM", "TERM_PROGRAM"):
        if (known := TERMINALS.get(env.get(name, ""))) is not None:
            return known
    if env.get("TERM_PROGRAM") or env.get("TERM") == "dumb":
        return None  # marks are inherited: this terminal may have been started from one of those
    return next((known for name, known in MARKS.items() if env.get(name)), None)


def drawer(env: Mapping[str, str]) -> Draw | None:
    """Return the function that draws on the terminal of this environment; None if it can't show pictures."""
    found = protocol(env)
    if found is None:
        return None

    def draw(path: Path, width: int, height: int) -> str | None:
        try:
            if found == "iterm2":
                return iterm2(scaled(path))
            return kitty(scaled(path, longest(width, height, _cell()), most_bytes=None, kind="PNG"))
        except DeliveryError:
            return None  # the file is gone; its path is printed anyway

    return draw


def longest(width: int, height: int, cell: tuple[int, int]) -> int:
    """Return the longer side, in pixels, of a picture that fits `COLUMNS` x `ROWS` cells; `cell` is a cell's size."""
    scale = min(COLUMNS * cell[0] / width, ROWS * cell[1] / height, 1)
    return max(1, int(max(width, height) * scale))


def kitty(png: bytes) -> str:
    """Return the messages that show a PNG in kitty at the cursor, pixel by pixel.

    a=T: send and show; f=100: PNG; q=2: no reply; m=1: more messages follow.
    """
    data = b64encode(png).decode()
    chunks = [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]
    heads = ["a=T,f=100,q=2,"] + [""] * (len(chunks) - 1)
    more = [1] * (len(chunks) - 1) + [0]
    return "".join(f"\033_G{head}m={rest};{chunk}\033\\" for head, rest, chunk in zip(heads, more, chunks, strict=True))


def iterm2(image: bytes) -> str:
    """Return the message that shows an image in iTerm2 at the cursor, as large as `COLUMNS` and `ROWS` allow."""
    arguments = f"inline=1;size={len(image)};width={COLUMNS};height={ROWS};preserveAspectRatio=1"
    return f"\033]1337;File={arguments}:{b64encode(image).decode()}\a"


def _cell() -> tuple[int, int]:
    """Return the width and height of the terminal's cells in pixels, or `CELL_PX` if the system does not have them."""
    try:
        import fcntl
        import termios

        size = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, bytes(8))
    except (ImportError, OSError, ValueError):
        return CELL_PX
    rows, columns, width, height = struct.unpack("HHHH", size)
    return (width // columns or 1, height // rows or 1) if rows and columns and width and height else CELL_PX
