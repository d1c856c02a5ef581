"""The checks of `flux2-mcp doctor` on hosts: each entry of ours, and whether a server that it starts answers."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TextIO, cast

import anyio

from flux2_mcp.cli.doctor_checks import Check, fail, note, ok
from flux2_mcp.cli.output import PROGRAM
from flux2_mcp.domain.variables import VARIABLES
from flux2_mcp.errors import Flux2Error, HostFileError, SettingsError
from flux2_mcp.hosts import entry, files
from flux2_mcp.hosts.editors.jsonc import Object
from flux2_mcp.hosts.files import File
from flux2_mcp.hosts.plan import Machine
from flux2_mcp.hosts.switches import elsewhere
from flux2_mcp.hosts.table import SCOPES, TABLE, Host, Scope
from flux2_mcp.runapi import key_file
from flux2_mcp.runapi.key_file import config_file
from flux2_mcp.settings import BASE_URL, from_env

MAX_START_SECONDS = 5.0
"""The maximum wait for a server to start, unless the user states another, seconds. Hosts wait longer, but a person waits for
this. To end a server that hangs may take 4 seconds more."""
MAX_TOGETHER = 4
"""The maximum number of servers that start at the same time: with more, each of them would look slow."""
LATE_START_SECONDS = 3.0
"""Seconds after which hosts begin their first turn without the server's tools (`hosts.md`, eras and start-up)."""
MAX_SHOWN_CHARS = 200


def rows(machine: Machine) -> list[Host]:
    """Return the hosts to look at: those on the machine, and those that find an entry of ours in the project's folder."""
    found = machine.detected()
    seen = {path for row in found for path in _places(row, machine)}
    for row in TABLE:
        if row.project is not None and machine.workspace is not None:
            (path,) = machine.files(row, "project")
            if path not in seen and _has_ours(row, path):
                # Several hosts may read the same file, and one of them is enough.
                found.append(row)
                seen.add(path)
    return found


def _has_ours(row: Host, path: Path) -> bool:
    """Whether a file has an entry of ours; for a file that can't be read, whether it may."""
    try:
        return bool(_ours(row, files.read(path).text or ""))
    except HostFileError:
        return files.may_mention(path, PROGRAM)


async def look(
    rows: Iterable[Host],
    machine: Machine,
    command: list[str],
    tell: Callable[[Check], Awaitable[None]],
    *,
    wanted: bool,
    late_seconds: float = LATE_START_SECONDS,
    max_seconds: float = MAX_START_SECONDS,
) -> None:
    """Check the entries of hosts, up to `MAX_TOGETHER` side by side.

    Args:
        rows: The rows of the hosts.
        machine: Has the places of the hosts' files.
        command: What an entry should start.
        tell: Called with each check as soon as it is known.
        wanted: Whether the user named these hosts: then a missing entry is a failure.
        late_seconds: A start that takes longer is late.
        max_seconds: A start that takes longer is given up.

    Raises:
        HostFileError: There is no home folder.
    """
    places = [(row, _places(row, machine)) for row in rows]

    places_to_start = anyio.CapacityLimiter(MAX_TOGETHER)

    async def make(check: Callable[[], Awaitable[Check]]) -> None:
        async with places_to_start:
            found = await check()
        await tell(found)

    async with anyio.create_task_group() as group:
        for row, paths in places:
            found = False
            for path, scope in paths.items():
                try:
                    entries = _ours(row, files.read(path).text or "")
                except HostFileError as exc:
                    found = True
                    await tell(fail(row.name, _placed(exc, path).message, _editor(machine.env, exc.line, path)))
                    continue
                for name, standing in entries.items():
                    found = True
                    limits = (command, late_seconds, max_seconds)
                    group.start_soon(make, partial(_entry, row, machine, scope, path, name, standing, *limits))
            if not found:
                say = fail if wanted else note
                await tell(say(row.name, "no entry", f"{PROGRAM} install {row.name}"))


def _places(row: Host, machine: Machine) -> dict[Path, Scope]:
    """Return the files of a host. If the workspace is the home folder, one file may have both scopes: it is "user"."""
    scopes = [scope for scope in SCOPES if scope == "user" or (row.project and machine.workspace)]
    return {path: scope for scope in reversed(scopes) for path in machine.files(row, scope)}


def _ours(row: Host, text: str) -> dict[str, Object]:
    entries = entry.EDITORS[row.format].entries(text, row.servers) or {}
    return {name: one for name, one in entries.items() if isinstance(one, dict) and entry.ours(one)}


async def _entry(
    row: Host,
    machine: Machine,
    scope: Scope,
    path: Path,
    name: str,
    standing: Object,
    command: list[str],
    late_seconds: float,
    max_seconds: float,
) -> Check:
    where, file = f"{name} in {path}", files.read(path)
    if (wrong := _wrong(row, machine, scope, where, file, name, standing, command)) is not None:
        return fail(row.name, *wrong)
    folder = machine.workspace if scope == "project" else None
    given = entry.environment(row, standing, machine.env)
    if scope == "project" and (strange := _strange(given, machine.env)):
        at = entry.EDITORS[row.format].line(file.text or "", row.servers, name)
        return note(
            row.name, f"{where} sets {', '.join(strange)}, so it was not started", _editor(machine.env, at, path)
        )
    env = _inherited(machine.env) | given
    try:
        # The server would start in spite of unusable settings, and name them in its answers. So they are checked here.
        from_env(env, key_file.read(config_file(env)))
        seconds, ready, tools = await handshake(entry.words(standing), env, folder, max_seconds)
    except SettingsError as exc:
        held = path if exc.setting else config_file(env) or path
        line = entry.EDITORS[row.format].line(file.text or "", row.servers, name) if exc.setting else None
        return fail(row.name, f"{where}: {exc.message}", _editor(machine.env, line, held))
    except HostFileError as exc:
        return fail(row.name, f"{where}: {exc.why}", _try(standing))
    detail = f"{where}: answers in {seconds:.2f} s with {tools} tools, works in {ready:.2f} s"
    if seconds > late_seconds:
        package = str(Path(__file__).parents[1])
        return note(
            row.name,
            f"{detail}; late for a first turn",
            shlex.join([sys.executable, "-m", "compileall", "-q", package]),
        )
    return ok(row.name, detail)


def _wrong(
    row: Host, machine: Machine, scope: Scope, where: str, file: File, name: str, standing: Object, command: list[str]
) -> tuple[str, str] | None:
    """Return what is wrong with the text of an entry, and the command that repairs it; None if it is right."""
    install = f"{PROGRAM} install {row.name}"
    install += "" if scope == "user" else f" --scope {scope}"
    install += "" if name == "flux-2" else f" --name {name}"
    if scope == "project" and (literal := _literals(row, standing)):
        return f"{where} holds {', '.join(literal)} in clear", f"{install} --uninstall && {install}"
    if off := entry.off(row, file.text or "", name, standing):
        return f"{where} is switched off by {', '.join(off)}", install
    if changes := entry.changes(row, command, standing):
        return f"{where} differs in {', '.join(changes)}", install
    if switches := elsewhere(machine, row, scope, file, name, standing):
        what = ", ".join(f"{switch} in {held}" for switch, held in switches)
        return f"{where} is switched off by {what}", _editor(machine.env, None, switches[0][1])
    return None


def _strange(given: Mapping[str, str], env: Mapping[str, str]) -> list[str]:
    """Return the names of what a project's entry sets and a host would ask the user about.

    A cloned repository may hold the entry: variables that are not the server's can make Python run code from there, and
    another address would get the user's key.
    """
    own = {variable.name for variable in VARIABLES}
    places = {"", BASE_URL, env.get("RUNAPI_BASE_URL")}
    return [
        name for name, value in given.items() if name not in own or (name == "RUNAPI_BASE_URL" and value not in places)
    ]


def _literals(row: Host, standing: Object) -> list[str]:
    """Return the names of the variables whose keys an entry holds in clear text."""
    env = standing.get(row.env)
    variables = env if isinstance(env, dict) else {}
    return [
        name
        for name, value in variables.items()
        if name in {"RUNAPI_API_KEY", "RUNAPI_KEY"} and not entry.refers(str(value))
    ]


def _inherited(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a host passes on to a server if the host was not started from a shell."""
    from mcp.client.stdio import DEFAULT_INHERITED_ENV_VARS

    return {name: env[name] for name in DEFAULT_INHERITED_ENV_VARS if name in env} | {"PATH": os.defpath}


async def handshake(
    words: list[str], env: Mapping[str, str], folder: str | None, max_seconds: float = MAX_START_SECONDS
) -> tuple[float, float, int]:
    """Start a server as a host without a shell does, and call a free tool.

    The first answers may come from a snapshot, before the server has read its settings. Only a call proves that the
    whole server works.

    Returns:
        The seconds to the first answer, the seconds to the result of the call, and the number of tools.

    Raises:
        HostFileError: The server did not start or did not answer; with the first line of its output, if there is one.
    """
    from mcp.client.client import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    parameters = StdioServerParameters(command=words[0], args=words[1:], env=dict(env), cwd=folder)
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # the error below reports a broken server in one line
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr:
        began = anyio.current_time()
        try:
            with anyio.fail_after(max_seconds):
                async with Client(stdio_client(parameters, cast("TextIO", stderr)), mode="legacy") as client:
                    first = anyio.current_time() - began
                    tools = len((await client.list_tools()).tools)
                    await client.call_tool("list_variants", {})
                    return first, anyio.current_time() - began, tools
        except TimeoutError as exc:
            raise HostFileError(f"no answer in {max_seconds:.0f} s") from exc
        except Exception as exc:  # a foreign process may end in any way, and the SDK wraps most of them in groups
            stderr.seek(0)
            first_line = stderr.readline().strip()[:MAX_SHOWN_CHARS]
            raise HostFileError(f"it does not start: {first_line or _kind(exc)}") from exc


def _kind(exc: Exception) -> str:
    while isinstance(exc, ExceptionGroup):
        exc = exc.exceptions[0]
    return str(exc.strerror) if isinstance(exc, OSError) and exc.strerror else "it ended without an answer"


def _placed(exc: HostFileError, path: Path) -> Flux2Error:
    return exc if str(path) in exc.message else exc.at(str(path))


def _editor(env: Mapping[str, str], line: int | None, path: Path) -> str:
    try:
        words = shlex.split(env.get("EDITOR", "")) or ["vi"]
    except ValueError:  # a quote that does not end
        words = ["vi"]
    return shlex.join([*words, *([f"+{line}"] if line else []), str(path)])


def _try(standing: Object) -> str:
    """Return the command that starts the entry's server by hand."""
    return shlex.join(entry.words(standing))
