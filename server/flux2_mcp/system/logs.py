"""Logs go to stderr: stdout belongs to the protocol, or to a command's result.

A server writes each record as one line of `key=value` pairs. A value with spaces is quoted as JSON:

    time=2026-11-25T10:00:04.120Z level=info logger=flux2_mcp.tasks event=task task=27c0... from=submitted to=processing
    after=0.7

`event` says what happened; its values follow. A line never holds a prompt. An exception's own text, which may hold one,
is logged at debug only. A key in use is never logged: `hide` replaces it by dots, in traces too.
"""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import PurePath
from types import TracebackType
from urllib.parse import quote

from flux2_mcp.system.terminal import plain

KEY_DOTS = "••••"
MIN_SHOWABLE_CHARS = 12
"""Characters. The last four of a key are shown only if it is at least this long: then they reveal nothing."""

PLAIN = "%(levelname)s %(name)s %(message)s"
_BARE = re.compile(r'[^\s"=]+')
MIN_KEY_CHARS = 8
"""Characters. A shorter text is no real key, and hiding it would remove parts of ordinary words."""
_hidden: set[str] = set()

log = logging.getLogger("flux2_mcp.crash")


def hide(key: str | None) -> None:
    """Hide this key in all lines from now on, those of other libraries included."""
    if key and len(key) >= MIN_KEY_CHARS:
        _hidden.add(key)


def fields(**values: object) -> dict[str, dict[str, object]]:
    """An event's values, for `extra` of a log call. None is left out. Never pass a prompt, a key or a user's path."""
    return {"fields": {name.rstrip("_"): value for name, value in values.items() if value is not None}}


class Outage:
    """Something that is tried again and again. One line says that it fails, and one that it works again, after how long.

    Args:
        logger: Whose lines they are.
        lost: What the first line says.
        back: What the second line says.
        monotonic: The clock, in seconds.
    """

    def __init__(
        self, logger: logging.Logger, lost: str, back: str, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._lost, self._back = lost, back
        self._monotonic = monotonic
        self._since: float | None = None

    def fails(self, reason: str) -> None:
        """Say it, if it worked before."""
        if self._since is None:
            self._since = self._monotonic()
            self._logger.warning(self._lost, extra=fields(reason=reason))

    def works(self) -> None:
        """Say it, if it failed before."""
        if self._since is not None:
            after, self._since = self._monotonic() - self._since, None
            self._logger.warning(self._back, extra=fields(after=after))


def to_stderr(level: str, *, people: bool = False) -> None:
    """Log our own records from `level` (debug, info, warning, error) up, and those of other libraries from warning up.

    Libraries log URLs, and a result's signed URL gives access to its image. A later call replaces an earlier one. A
    crash is logged as a line too: the interpreter itself would print the exception's own text.

    Args:
        level: The lowest level that is logged.
        people: Write plain lines for people. On a terminal, a line replaces the progress line.
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
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        pairs: dict[str, object] = {"time": at, "level": record.levelname.lower(), "logger": record.name}
        pairs |= {"event": record.getMessage()} | _found(record)
        if record.exc_info and (error := record.exc_info[1]) is not None:
            pairs |= {"error": type(error).__name__, "at": _place(error.__traceback__)}
            if self._traces:
                pairs["trace"] = self.formatException(record.exc_info)
        return _joined(pairs)


class _ForPeople(logging.Formatter):
    def __init__(self, *, traces: bool) -> None:
        super().__init__(PLAIN)
        self._start = "\r\033[K" if sys.stderr is not None and sys.stderr.isatty() else ""
        self._traces = traces

    def format(self, record: logging.LogRecord) -> str:
        if not self._traces:
            record = copy.copy(record)  # other handlers get the original
            record.exc_info = record.exc_text = None
        text, more = plain(redact(super().format(record), *_hidden)), _joined(_found(record))
        return f"{self._start}{text}{f' {more}' if more else ''}"


def _found(record: logging.LogRecord) -> dict[str, object]:
    found: dict[str, object] = getattr(record, "fields", {})
    return found


def _joined(pairs: dict[str, object]) -> str:
    return " ".join(f"{name}={_value(value)}" for name, value in pairs.items())


def _value(value: object) -> str:
    text = redact(f"{value:.3f}" if isinstance(value, float) else str(value), *_hidden)
    return text if _BARE.fullmatch(text) else json.dumps(text)


def _place(trace: TracebackType | None) -> str:
    """The innermost line of this package in a trace; if there is none, the innermost of any."""
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
    """A key in the form that may be shown: its last four characters, if it is long enough."""
    return f"****{key[-4:] if len(key) >= MIN_SHOWABLE_CHARS else ''}"
