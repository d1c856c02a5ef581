"""The checks of `flux2-mcp doctor` except those of hosts: this installation, the key, RunAPI, the journal, the disk."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import anyio
from pydantic import BaseModel

from flux2_mcp import __version__
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.engine.backend import Backend, account_name
from flux2_mcp.errors import LOGIN, AuthenticationError, Flux2Error, SettingsError, StorageError, TransportError
from flux2_mcp.journal.records import Health, Inspection
from flux2_mcp.runapi.causes import CERTIFICATES
from flux2_mcp.runapi.key_file import config_file
from flux2_mcp.settings import Settings

SALVAGE = "flux2-mcp doctor --salvage"
DATABASE = "psql \"$FLUX2_JOURNAL_URL\" -c 'SELECT version()'"
STORE_KEYS = "env | grep -E '^(AWS|GOOGLE|AZURE)_' | cut -d= -f1"
ELSEWHERE = "export FLUX2_HOME=/a/folder/with/room"
PATIENCE_SECONDS = 8.0
"""The maximum wait for each answer of RunAPI, seconds."""
MAX_SKEW_SECONDS = 120.0
"""The maximum error of the clock, seconds. With a larger one, signed upload URLs and certificates begin to fail, and
caps count the wrong day."""
MEGABYTE_BYTES = 1_000_000
MIN_FREE_BYTES, LOW_FREE_BYTES = 100 * MEGABYTE_BYTES, 1_000 * MEGABYTE_BYTES
"""Bytes. An image takes 1 to 8 MB, and a full disk takes no image."""
MAX_LISTED = 8
"""The maximum number of task ids in one line."""
SHOWN_KEY_CHARS, LONG_KEY_CHARS = 4, 12
"""The number of characters of a key that are shown, and the minimum length of such a key."""
SET_CLOCK = {
    "Linux": "sudo timedatectl set-ntp true",
    "Darwin": "sudo sntp -sS time.apple.com",
    "Windows": "w32tm /resync",
}


class Check(BaseModel):
    """One line of the report. `mend` is the command that repairs a failure, or that follows from a note."""

    check: str
    status: Literal["ok", "note", "fail"]
    detail: str
    mend: str | None = None


class DoctorReport(BaseModel):
    """All checks; `ok` is False if one of them failed."""

    ok: bool
    checks: list[Check]


def ok(check: str, detail: str) -> Check:
    """Make a check that passed."""
    return Check(check=check, status="ok", detail=detail)


def note(check: str, detail: str, mend: str | None = None) -> Check:
    """Make a check that found nothing broken, but something that the user may want to change."""
    return Check(check=check, status="note", detail=detail, mend=mend)


def fail(check: str, detail: str, mend: str) -> Check:
    """Make a check that failed, with the command that repairs it."""
    return Check(check=check, status="fail", detail=detail, mend=mend)


def installation(invocation: Invocation) -> Iterator[Check]:
    """Check Python, the version, and whether the settings are usable."""
    yield ok("python", f"{platform.python_version()} ({sys.executable})")
    yield ok("version", f"{__version__} ({Path(__file__).parents[1]})")
    if isinstance(invocation.read, SettingsError):
        yield fail("settings", _advice(invocation.read), _unset(invocation.read) or LOGIN)


async def service(invocation: Invocation, settings: Settings) -> AsyncIterator[Check]:
    """Check the key, RunAPI, its clock and its prices.

    The four calls bypass the limiter: it needs the journal, and the checks must work without the journal.
    """
    backend = Backend(settings, gate=anyio.lowlevel.checkpoint, on_limited=lambda _: anyio.lowlevel.checkpoint())
    try:
        reached = [check async for check in _runapi(backend, settings)]
        for check in _key_file(invocation):
            yield check
        yield await _key(backend, settings, answers=reached[0].status == "ok")
        for check in reached:
            yield check
    finally:
        await backend.close()


def _key_file(invocation: Invocation) -> Iterator[Check]:
    path = config_file(invocation.env)
    if path is not None and path.is_file() and os.name == "posix":
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            detail = f"{path} can be read by others (mode {mode:o})"
            yield fail("key file", detail, shlex.join(["chmod", "600", str(path)]))


async def _key(backend: Backend, settings: Settings, *, answers: bool) -> Check:
    key = settings.api_key
    if key is None:
        drawn = "none: the sandbox draws the images, and no money moves"
        return note("key", drawn, LOGIN) if backend.sandbox else fail("key", "none, and FLUX2_MODE is live", LOGIN)
    shown = f"from {settings.key_source}" + (
        f", ends in {key[-SHOWN_KEY_CHARS:]}" if len(key) >= LONG_KEY_CHARS else ""
    )
    if backend.sandbox:
        return note("key", f"{shown}; not used: FLUX2_MODE is sandbox", "unset FLUX2_MODE")
    if not answers:
        return note("key", f"{shown}; nobody was there to try it with")
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            await (await backend.api()).balance()
    except (Flux2Error, TimeoutError) as exc:
        detail = f"{shown}; {_words(exc)}"
        return fail("key", detail, LOGIN) if isinstance(exc, AuthenticationError) else note("key", detail)
    return ok("key", f"{shown}; RunAPI takes it")


async def _runapi(backend: Backend, settings: Settings) -> AsyncIterator[Check]:
    where = "the embedded sandbox" if backend.sandbox else settings.base_url
    began = anyio.current_time()
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            ahead = await _clock_ahead(backend)
    except (Flux2Error, TimeoutError) as exc:
        mend = (
            ELSEWHERE if backend.sandbox else _unset(exc) or f"curl -sS -o /dev/null {shlex.quote(settings.base_url)}"
        )
        yield fail("base URL", f"{where}: {_advice(exc)}", mend)
        return
    yield ok("base URL", f"{where} answers in {anyio.current_time() - began:.2f} s")
    if ahead is None:
        yield note("clock", "RunAPI told no time to compare with")
    elif abs(ahead) > MAX_SKEW_SECONDS:
        way = "ahead of" if ahead > 0 else "behind"
        detail = f"{abs(ahead):.0f} s {way} RunAPI's"
        yield fail("clock", detail, SET_CLOCK.get(platform.system(), SET_CLOCK["Linux"]))
    else:
        yield ok("clock", f"within {max(1, round(abs(ahead)))} s of RunAPI's")
    yield await _prices(backend)


async def _clock_ahead(backend: Backend) -> float | None:
    try:
        return await (await backend.api()).clock_ahead()
    except AuthenticationError as exc:
        # A team's server answers nobody without a token. Whether ours is one, `_key` finds out.
        if exc.status == HTTPStatus.UNAUTHORIZED and backend.has_key:
            return None
        raise


async def _prices(backend: Backend) -> Check:
    try:
        with anyio.fail_after(PATIENCE_SECONDS):
            schedules = await (await backend.api()).price_schedules()
    except (Flux2Error, TimeoutError) as exc:
        return fail("prices", f"{_words(exc)} The published ones serve, but max has none.", "flux2-mcp pricing")
    if not schedules:
        return fail("prices", "RunAPI lists none; the published ones serve, but max has none", "flux2-mcp pricing")
    return ok("prices", f"live for {len({schedule.model for schedule in schedules})} models")


def storage(settings: Settings) -> Iterator[Check]:
    """Check the journal and the disk under FLUX2_HOME."""
    from flux2_mcp.journal import health

    home = settings.home
    # `Path.exists` raises an error for a folder without read permission.
    there = next(folder for folder in (home, *home.parents) if os.path.exists(folder))  # noqa: PTH110  # see above
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        yield fail("journal", f"{there} is not to be written", shlex.join(["chmod", "u+rwx", str(there)]))
    elif there != home and settings.journal_url is None:
        yield ok("journal", f"none yet; the first task makes one in {home}")
    elif settings.journal_url is None:
        yield from _journal(health(home, account_name(settings)))
    if settings.journal_url is not None:
        yield from _server(health(home, account_name(settings), settings.journal_url))
    if settings.images_url is not None:
        yield _store(settings)
    free = shutil.disk_usage(there).free
    detail = f"{free / MEGABYTE_BYTES:,.0f} MB free at {there}"
    if free < MIN_FREE_BYTES:
        yield fail("disk", detail, ELSEWHERE)
    elif free < LOW_FREE_BYTES:
        yield note("disk", detail, ELSEWHERE)
    else:
        yield ok("disk", detail)


def _journal(found: Health) -> Iterator[Check]:
    """Check whether the journal is sound, and whether it has records that no process can continue."""
    path = found.path
    if found.soundness == "sound":
        detail = f"{found.tasks} tasks, {found.size_bytes / MEGABYTE_BYTES:.1f} MB ({path})"
        yield ok("journal", f"sound, {detail}")
        if found.inspection is not None:
            yield from _records(found.inspection)
    elif found.soundness == "none":
        yield ok("journal", f"none yet; the first task makes {path}")
    elif found.soundness == "vanished":
        detail = (
            f"{path} has vanished; what was spent in the last 24 hours is not known until flux2-mcp spend --lost USD"
        )
        yield fail("journal", detail, SALVAGE)
    elif found.soundness == "no_file":
        yield fail("journal", f"{path} is no file", shlex.join(["mv", str(path), f"{path}.moved"]))
    elif found.soundness == "unreadable":
        yield fail("journal", f"{path} can't be read: {found.reason}", SALVAGE)
    else:
        yield fail("journal", f"{path} is broken, or lacks what was written into it", SALVAGE)


def _server(found: Health) -> Iterator[Check]:
    """Check whether the journal's database can be reached. Its address may hold a password, and is not shown."""
    if found.soundness == "sound":
        detail = f"{found.server}: {found.tasks} tasks, {found.size_bytes / MEGABYTE_BYTES:.1f} MB"
        yield ok("journal", detail)
        if found.inspection is not None:
            yield from _records(found.inspection)
    elif found.soundness == "none":
        yield ok("journal", f"{found.server}: no tables yet; the first task makes them")
    else:
        yield fail("journal", f"{found.server} can't be used: {found.reason}", DATABASE)


def _store(settings: Settings) -> Check:
    """Check whether the store of images answers."""
    from flux2_mcp.images import store

    opened = store.opened(settings.images_url, http=settings.images_over_http)
    try:
        if opened is not None:
            opened.check()
    except StorageError as exc:
        # The variables by name: their values are keys.
        return fail("images", exc.message, STORE_KEYS)
    return ok("images", f"{settings.images_url} answers")


def _records(found: Inspection) -> Iterator[Check]:
    """Note the records of the journal that no process can continue."""
    if found.lost:
        detail = f"{_named(found.lost)}: lost, and not all of it could be read, so the day's cap is closed"
        yield note("lost", detail, "flux2-mcp spend --lost USD")
    if found.unread:
        detail = f"this version can't read {_named(found.unread)}; left as they are, for a newer flux2-mcp"
        yield note("records", detail, "flux2-mcp tasks")
    if found.foreign:
        of = "made with another key" + (", of another RunAPI account as far as is known" if found.known else "")
        mend = f"RUNAPI_API_KEY=KEY_THAT_MADE_THEM flux2-mcp wait {shlex.join(found.foreign[:MAX_LISTED])}"
        detail = f"under way, {of}, and no process looks after them: {_named(found.foreign)}"
        # If the account of this key is not known yet, the next command that searches tasks asks RunAPI for it.
        yield note("other keys", detail, mend if found.known else "flux2-mcp tasks")
    for service, ids in found.elsewhere.items():
        place = f"{'http' if service.partition(':')[0] == 'localhost' else 'https'}://{service}"
        way = f"RUNAPI_BASE_URL={shlex.quote(place)} RUNAPI_API_KEY=KEY_THAT_MADE_THEM"
        detail = f"under way at {service}, and no process looks after them: {_named(ids)}"
        yield note("other services", detail, f"{way} flux2-mcp wait {shlex.join(ids[:MAX_LISTED])}")


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:MAX_LISTED]) + (f" and {len(ids) - MAX_LISTED} more" if len(ids) > MAX_LISTED else "")


def _advice(exc: Flux2Error | TimeoutError) -> str:
    """Return what happened, and for some errors what to do, if the command alone does not explain it."""
    return f"{exc.message} {exc.next_step}" if isinstance(exc, SettingsError | TransportError) else _words(exc)


def _unset(exc: Flux2Error | TimeoutError) -> str | None:
    """Return the command that corrects the variable behind an error; None if no variable is the cause."""
    setting = exc.setting if isinstance(exc, SettingsError | TransportError) else None
    if setting == CERTIFICATES and isinstance(exc, TransportError):
        return f"export {CERTIFICATES}=/path/to/certificate.pem"
    return None if setting is None else f"unset {setting}"


def _words(exc: Flux2Error | TimeoutError) -> str:
    return exc.message if isinstance(exc, Flux2Error) else f"no answer in {PATIENCE_SECONDS:.0f} s."
