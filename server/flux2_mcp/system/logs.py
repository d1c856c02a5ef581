"""Logs go to stderr: stdout belongs to the protocol, or to a command's result.

A server writes one line of `key=value` pairs a record, quoted as JSON where a value has spaces in it:

    time=2026-11-25T10:00:04.120Z level=info logger=flux2_mcp.tasks event=task task=27c0... from=submitted to=processing after=0.7

`event` says what happened; what belongs to it follows. No prompt stands in a line, and no exception's own text below debug,
which may hold one. A key in use stands in none at all: `hide` replaces it by dots, in traces too.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
import threading
from datetime import UTC, datetime
from pathlib import PurePath
from types import TracebackType
from urllib.parse import quote

KEY_DOTS = "••••"
MIN_SHOWABLE_CHARS = 12
"""Characters of a key, at least, for its last four to give nothing away."""

PLAIN = "%(levelname)s %(name)s %(message)s"
_BARE = re.compile(r'[^\s"=]+')
MIN_KEY_CHARS = 8
"""Characters of a key. What is shorter opens nothing, and hiding it would tear holes in words."""
_hidden: set[str] = set()

log = logging.getLogger("flux2_mcp.crash")


def hide(key: str | None) -> None:
    """From now on no line shows this key, whoever writes it."""
    if key and len(key) >= MIN_KEY_CHARS:
        _hidden.add(key)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """What belongs to an event, for the `extra` of a log call; None is left out. Never a prompt, a key or a user's path."""
    return {"fields": {name.rstrip("_"): value for name, value in values.items() if value is not None}}


def to_stderr(level: str, *, people: bool = False) -> None:
    """Log our own lines from `level` (debug, info, warning, error) up, and other libraries' from warning up.

    Libraries log URLs, and a result's URL is signed: whoever reads it can fetch the image. A later call replaces an earlier.
    A crash is a line too: what the interpreter itself would print has the exception's own text.

    Args:
        level: The least that is logged.
        people: Somebody reads along: a plain line, which on a terminal takes the place of the progress line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_ForPeople(traces=level == "debug") if people else _Pairs(traces=level == "debug"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("flux2_mcp").setLevel(level.upper())
    sys.excepthook = _crashed
    threading.excepthook = lambda told: _crashed(told.exc_type, told.exc_value, told.exc_traceback)


def _crashed(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and issubclass(kind, Exception):
        log.critical("nobody caught this", exc_info=(kind, error, trace))


class _Pairs(logging.Formatter):
    def __init__(self, *, traces: bool) -> None:
        super().__init__()
        self._traces = traces

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        pairs: dict[str, object] = {"time": time, "level": record.levelname.lower(), "logger": record.name}
        pairs |= {"event": record.getMessage()} | _found(record)
        if record.exc_info and (error := record.exc_info[1]) is not None:
            pairs |= {"error": type(error).__name__, "at": _place(error.__traceback__)}
            if self._traces:
                pairs["trace"] = self.formatException(record.exc_info)
        return _joined(pairs)


class _ForPeople(logging.Formatter):
    def __init__(self, *, traces: bool) -> None:
        start = "\r\033[K" if sys.stderr is not None and sys.stderr.isatty() else ""
        super().__init__(f"{start}{PLAIN}")
        self._traces = traces

    def format(self, record: logging.LogRecord) -> str:
        if not self._traces:
            record = copy.copy(record)  # other handlers have their own use for it
            record.exc_info = record.exc_text = None
        text, more = redact(super().format(record), *_hidden), _joined(_found(record))
        return f"{text} {more}" if more else text


def _found(record: logging.LogRecord) -> dict[str, object]:
    found: dict[str, object] = getattr(record, "fields", {})
    return found


def _joined(pairs: dict[str, object]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in pairs.items())


def _value(value: object) -> str:
    text = redact(f"{value:.3f}" if isinstance(value, float) else str(value), *_hidden)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def _place(trace: TracebackType | None) -> str:
    """The innermost line of ours in a trace, or of anybody's where none is ours."""
    ours = anybody = ""
    while trace is not None:
        file = PurePath(trace.tb_frame.f_code.co_filename)
        anybody = f"{file.name}:{trace.tb_lineno}"
        ours = anybody if "flux2_mcp" in file.parts else ours
        trace = trace.tb_next
    return ours or anybody or "unknown"


def redact(text: str, *keys: str) -> str:
    """The text with every echo of a key, plain or percent-encoded, replaced by dots."""
    for form in {form for key in keys if key for form in (key, quote(key, safe=""))}:
        text = text.replace(form, KEY_DOTS)
    return text


def masked(key: str) -> str:
    """A key as it may be shown: its last four characters."""
    return f"****{key[-4:] if len(key) >= MIN_SHOWABLE_CHARS else ''}"
