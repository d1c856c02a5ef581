"""Logs go to stderr: stdout belongs to the protocol, or to a command's result."""

from __future__ import annotations

import logging
import sys

PLAIN = "%(levelname)s %(name)s %(message)s"


def to_stderr(level: str, *, people: bool = False) -> None:
    """Log our own lines from `level` (debug, info, warning, error) up, and other libraries' from warning up.

    Libraries log URLs, and a result's URL is signed: whoever reads it can fetch the image.

    Args:
        level: The least that is logged.
        people: Somebody reads along: stack traces come at debug only, and on a terminal a line takes the place of the
            progress line.
    """
    handler = logging.StreamHandler(sys.stderr)
    if people:
        start = "\r\033[K" if sys.stderr is not None and sys.stderr.isatty() else ""
        handler.setFormatter(_ForPeople(f"{start}{PLAIN}", traces=level == "debug"))
    else:
        handler.setFormatter(logging.Formatter(PLAIN))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("flux2_mcp").setLevel(level.upper())


class _ForPeople(logging.Formatter):
    def __init__(self, form: str, *, traces: bool) -> None:
        super().__init__(form)
        self._traces = traces

    def format(self, record: logging.LogRecord) -> str:
        if not self._traces:
            record.exc_info = record.exc_text = None
        return super().format(record)
