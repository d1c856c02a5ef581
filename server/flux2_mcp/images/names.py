"""Names of image files: those that we make, and those that a user may give. Pure."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime
from pathlib import PurePosixPath

from flux2_mcp.domain import paths
from flux2_mcp.errors import InvalidRequestError, Problem
from flux2_mcp.images.containers import Kind

MAX_WORDS = 6
DIGEST_DIGITS = 12
"""Hex digits of the SHA-256 in a file's name: 48 bits, enough for more images than a disk holds."""
MAX_STEM_CHARS = 48
"""Characters of the prompt in a file's name; the whole stays far below the 143 bytes of encrypted home folders."""

SUFFIXES: dict[str, Kind] = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""The suffixes with which images can be saved, and Pillow's names of those kinds."""
# The words that a name takes from a prompt. The date in front of them prevents reserved and hidden names.
_WORD = re.compile(r"[a-z0-9]+")


def image_name(prompt: str, *, at: datetime, sha256: str, suffix: str) -> str:
    """A file name that a person can read and that fits the content: date, words of the prompt, a short id.

    The short id is the beginning of the content's SHA-256: the same image gets the same name, another image never does.

    Args:
        prompt: Only its first plain words are used.
        at: When the task was made, UTC.
        sha256: Of the file's bytes, in hex.
        suffix: With the dot.
    """
    plain = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    words = "-".join(_WORD.findall(plain)[:MAX_WORDS])[:MAX_STEM_CHARS].strip("-")
    return "-".join(filter(None, [at.strftime("%Y-%m-%d"), words, sha256[:DIGEST_DIGITS]])) + suffix


def targets(save_to: str, count: int, *, field: str = "save_to") -> list[str]:
    """Where each of `count` images goes, relative to the workspace; a folder ends in `/`. Looks at no disk.

    Args:
        save_to: What the caller said.
        count: How many images there are.
        field: What the caller calls `save_to`.

    Raises:
        InvalidRequestError: It is no file name or folder below the workspace, on any system.
    """
    # A part "." changes nothing, except that at the end it says that the target is a folder.
    text = "/".join(part for part in save_to.split("/") if part != ".") + ("/" if save_to.endswith("/.") else "")
    parts = text.rstrip("/").split("/")
    if save_to.startswith(("/", "~")) or not text.strip("/ "):
        raise _refused(
            field, "must be a file name or folder relative to the workspace, such as public/hero.png or assets/."
        )
    if (wrong := paths.trouble(text, parts)) is not None:
        raise _refused(field, wrong)
    folder, name = parts[:-1], parts[-1]
    stem, suffix = PurePosixPath(name).stem, PurePosixPath(name).suffix
    if text.endswith("/") or not suffix:
        return ["/".join(parts) + "/"] * count
    if suffix.lower() not in SUFFIXES:
        allowed = ", ".join(SUFFIXES)
        raise _refused(field, f"ends in {suffix}; images are saved as {allowed}. A folder ends in /.")
    numbered = [name] if count == 1 else [f"{stem}-{number}{suffix}" for number in range(1, count + 1)]
    return ["/".join([*folder, one]) for one in numbered]


def _refused(field: str, text: str) -> InvalidRequestError:
    return InvalidRequestError(Problem(field, text))
