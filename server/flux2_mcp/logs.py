"""Logs go to stderr: stdout belongs to the protocol."""

from __future__ import annotations

import logging
import sys


def to_stderr(level: str) -> None:
    """Log our own lines from `level` (debug, info, warning, error) up, and other libraries' from warning up.

    Libraries log URLs, and a result's URL is signed: whoever reads it can fetch the image.
    """
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("flux2_mcp").setLevel(level.upper())
