"""What `flux2-mcp doctor` looks at apart from hosts: this installation, the key, RunAPI, the journal, the disk."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Literal

import anyio
from pydantic import BaseModel

from flux2_mcp import __version__
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.engine.backend import Backend, account_name
from flux2_mcp.errors import AuthenticationError, Flux2Error, SettingsError, TransportError
from flux2_mcp.journal.records import Health, Inspection
from flux2_mcp.runapi.causes import CERTIFICATES
from flux2_mcp.runapi.key_file import config_file
from flux2_mcp.settings import Settings

LOGIN = "flux2-mcp login"
SALVAGE = "flux2-mcp doctor --salvage"
ELSEWHERE = "export FLUX2_HOME=/a/folder/with/room"
PATIENCE_SECONDS = 15.0
"""Seconds that RunAPI has for each answer."""
MAX_SKEW_SECONDS = 120.0
"""Seconds that a clock may be wrong: beyond, signed upload URLs and certificates begin to fail, and caps count another day."""
MEGABYTE_BYTES = 1_000_000
MIN_FREE_BYTES, LOW_FREE_BYTES = 100 * MEGABYTE_BYTES, 1_000 * MEGABYTE_BYTES
"""Bytes. An image takes 1 to 8 MB, and none is delivered to a full disk."""
MAX_LISTED = 8
"""Ids of tasks that are named."""
SHOWN_KEY_CHARS, LONG_KEY_CHARS = 4, 12
"""Characters of a key that are shown, and how long it must be for that."""
SET_CLOCK = {
    "Linux": "sudo timedatectl set-ntp true",
    "Darwin": "sudo sntp -sS time.apple.com",
    "Windows": "w32tm /resync",
}


class Check(BaseModel):
    """One line: `mend` is the command that mends a failure, or carries a note further."""

    check: str
    status: Literal["ok", "note", "fail"]
    detail: str
    mend: str | None = None


class DoctorReport(BaseModel):
    """All that was looked at; `ok` is False where something fails."""

    ok: bool
    checks: list[Check]


def ok(check: str, detail: str) -> Check:
    """All is well."""
    return Check(check=check, status="ok", detail=detail)


def note(check: str, detail: str, mend: str | None = None) -> Check:
    """Nothing is broken, but somebody may want it otherwise."""
    return Check(check=check, status="note", detail=detail, mend=mend)


def fail(check: str, detail: str, mend: str) -> Check:
    """Broken, and how to mend it."""
    return Check(check=check, status="fail", detail=detail, mend=mend)


def installation(invocation: Invocation) -> Iterator[Check]:
    """Python, version, and whether the settings can be read."""
    yield ok("python", f"{platform.python_version()} ({sys.executable})")
    yield ok("version", f"{__version__} ({Path(__file__).parents[1]})")
    if isinstance(invocation.read, SettingsError):
        yield fail("settings", _advice(invocation.read), _unset(invocation.read) or LOGIN)


async def service(invocation: Invocation, settings: Settings) -> AsyncIterator[Check]:
    """The key, RunAPI, its clock and its prices. Calls past the limiter: four, and they must tell when the journal can't."""
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
            ahead = await (await backend.api()).clock_ahead()
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
    """The journal and the disk under FLUX2_HOME."""
    from flux2_mcp.journal import health

    home = settings.home
    # `Path.exists` raises where a folder may not be looked into.
    there = next(folder for folder in (home, *home.parents) if os.path.exists(folder))  # noqa: PTH110  # see above
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        yield fail("journal", f"{there} is not to be written", shlex.join(["chmod", "u+rwx", str(there)]))
    elif there != home:
        yield ok("journal", f"none yet; the first task makes one in {home}")
    else:
        yield from _journal(health(home, account_name(settings)))
    free = shutil.disk_usage(there).free
    detail = f"{free / MEGABYTE_BYTES:,.0f} MB free at {there}"
    if free < MIN_FREE_BYTES:
        yield fail("disk", detail, ELSEWHERE)
    elif free < LOW_FREE_BYTES:
        yield note("disk", detail, ELSEWHERE)
    else:
        yield ok("disk", detail)


def _journal(found: Health) -> Iterator[Check]:
    """The journal: whether it is sound, and what is in it that no process can go on with."""
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


def _records(found: Inspection) -> Iterator[Check]:
    """Records of the journal that no process can go on with."""
    if found.lost:
        detail = f"{_named(found.lost)}: lost, and not all of it could be read, so the day's cap is closed"
        yield note("lost", detail, "flux2-mcp spend --lost USD")
    if found.unread:
        detail = f"this version can't read {_named(found.unread)}; left as they are, for a newer flux2-mcp"
        yield note("records", detail, "flux2-mcp tasks")
    if found.foreign:
        of = "made with another key" + (", of another RunAPI account as far as is known" if found.known else "")
        mend = f"RUNAPI_API_KEY=KEY_THAT_MADE_THEM flux2-mcp wait {shlex.join(found.foreign[:MAX_LISTED])}"
        detail = f"under way, {of}, and nobody collects them: {_named(found.foreign)}"
        # Where it was never asked whose this key is, the next command that looks for tasks asks.
        yield note("other keys", detail, mend if found.known else "flux2-mcp tasks")
    for service, ids in found.elsewhere.items():
        place = f"{'http' if service.partition(':')[0] == 'localhost' else 'https'}://{service}"
        way = f"RUNAPI_BASE_URL={shlex.quote(place)} RUNAPI_API_KEY=KEY_THAT_MADE_THEM"
        detail = f"under way at {service}, and nobody collects them: {_named(ids)}"
        yield note("other services", detail, f"{way} flux2-mcp wait {shlex.join(ids[:MAX_LISTED])}")


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:MAX_LISTED]) + (f" and {len(ids) - MAX_LISTED} more" if len(ids) > MAX_LISTED else "")


def _advice(exc: Flux2Error | TimeoutError) -> str:
    """What happened, and what to do where a command alone does not say it."""
    return f"{exc.message} {exc.next_step}" if isinstance(exc, SettingsError | TransportError) else _words(exc)


def _unset(exc: Flux2Error | TimeoutError) -> str | None:
    """The command that mends what a variable does; None where none does."""
    setting = exc.setting if isinstance(exc, SettingsError | TransportError) else None
    if setting == CERTIFICATES and isinstance(exc, TransportError):
        return f"export {CERTIFICATES}=/path/to/certificate.pem"
    return None if setting is None else f"unset {setting}"


def _words(exc: Flux2Error | TimeoutError) -> str:
    return exc.message if isinstance(exc, Flux2Error) else f"no answer in {PATIENCE_SECONDS:.0f} s."
