"""One host's installation: planned from its present files, then done by the host's command line or as an edit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from flux2_mcp.errors import HostFileError, InvalidRequestError, Problem
from flux2_mcp.hosts import entry, files, places
from flux2_mcp.hosts.editors.jsonc import Object
from flux2_mcp.hosts.files import File, MadeFolders
from flux2_mcp.hosts.table import TABLE, Host, Scope, System

FOLDERS_FILE = "made-folders"
"""The file in FLUX2_HOME that records the folders made for hosts' files."""
COMMAND_SECONDS = 60
"""How long a host's own command line may take. It takes half a second; Node may need some seconds on a cold disk."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The names of servers that every host accepts."""


class Machine(Struct, frozen=True, kw_only=True):
    """The machine whose hosts are configured. `workspace` is the folder of the project, which holds its files.

    `made` records the folders that were made for hosts' files; if it is None, these stay when an entry is removed.
    """

    system: System
    env: Mapping[str, str]
    workspace: str | None
    made: MadeFolders | None = None

    def files(self, host: Host, scope: Scope) -> tuple[Path, ...]:
        """The existing files of a scope, best first; if there is none, the file to make.

        Raises:
            InvalidRequestError: The host has no such scope, or there is no project folder.
        """
        if scope == "user":
            return files.first(places.user_files(host, self.system, self.env))
        if host.project is None or self.workspace is None:
            why = "keeps no servers in projects" if host.project is None else "needs a folder that is there"
            raise InvalidRequestError(Problem("--scope project", f"{host.title} {why}."))
        return (Path(self.workspace) / host.project,)

    def has(self, host: Host) -> bool:
        """True if the host was ever started or is installed."""
        marks = files.first(places.marks(host, self.system, self.env))
        return any(files.is_there(mark) for mark in marks) or any(self.program(name) for name in host.programs)

    def detected(self) -> list[Host]:
        """The hosts found on the machine, in the table's order."""
        return [host for host in TABLE if self.has(host)]

    def program(self, name: str) -> str | None:
        """The path of a program that can be started without a shell, or None."""
        found = shutil.which(name, path=self.env.get("PATH", ""))
        # A batch file is excluded: a shell runs it and parses the arguments again.
        return None if found is None or found.lower().endswith((".cmd", ".bat", ".ps1")) else found


EDITED = "by an edit"


class HostPlan(Struct, frozen=True, kw_only=True):
    """The planned change of one file. `old` and `new` are the entry before and after; None: no entry.

    `after` is the file's new text; None: no file. `own` is the host's command line that makes the change; None: an
    edit. `keep` is the text for the backup; None: the file's present text.
    """

    host: Host
    name: str
    file: File
    after: str | None
    old: Object | None
    new: Object | None
    own: tuple[str, ...] | None = None
    keep: str | None = None

    @property
    def way(self) -> str:
        """In words, what makes the change: an edit, or the host's command line."""
        return "an edit" if self.own is None else " ".join([Path(self.own[0]).stem, *self.own[1:]])

    @property
    def changes(self) -> bool:
        """Whether the file has to change at all."""
        return self.after != self.file.text


def to_install(machine: Machine, host: Host, scope: Scope, name: str, command: Sequence[str]) -> HostPlan:
    """Plan how the entry gets into the host's file. This changes nothing.

    Raises:
        HostFileError: The file can't be edited.
        InvalidRequestError: The host has no such scope.
    """
    file = _read(machine.files(host, scope), host, name)
    with_path = file.path
    try:
        text = file.text or ""
        old = entry.standing(host, text, name)
        after = entry.installed(host, text, name, command)
        new = entry.standing(host, after, name) or {}
    except HostFileError as exc:
        raise exc.at(str(with_path)) from exc
    kept = files.before(file)
    came = kept is not None and entry.came_from(host, after, name, kept)
    # An entry that exists may have members that the user added; only an edit keeps them.
    own = _own(machine, host, scope, name, "add") if old is None else None
    return HostPlan(
        host=host, name=name, file=file, after=file.text if after == file.text else after, old=old, new=new,
        own=own, keep=kept if came else None,
    )  # fmt: skip


def to_remove(machine: Machine, host: Host, scope: Scope, name: str) -> HostPlan:
    """Plan how the entry is removed from the host's file. A file that we made and that holds nothing else is deleted.

    Raises:
        HostFileError: The file can't be edited, and may hold the entry.
        InvalidRequestError: The host has no such scope.
    """
    file = _read(machine.files(host, scope), host, name)
    if file.text is None:
        return HostPlan(host=host, name=name, file=file, after=None, old=None, new=None)
    kept = files.before(file)
    try:
        old = entry.standing(host, file.text, name)
        after: str | None = entry.removed(host, file.text, name, kept)
        # The backup too may hold only an earlier entry of ours, in a file that we made.
        if all(entry.came_from(host, text, name, "") for text in (file.text, kept) if text is not None):
            after = None
    except HostFileError as exc:
        if _mentions(file.text, name):
            raise exc.at(str(file.path)) from exc
        old, after = None, file.text
    own = None if old is None else _own(machine, host, scope, name, "remove")
    return HostPlan(
        host=host, name=name, file=file, after=after, old=old, new=None, own=own, keep=kept if after == kept else None
    )


def may_hold(path: Path, host: Host, name: str) -> bool:
    """Whether a file holds the entry; for a file that can't be edited, whether it may, so that its error is shown."""
    try:
        return _holds(files.read(path), host, name)
    except HostFileError:
        return files.may_mention(path, name)


def carry_out(plan: HostPlan, machine: Machine) -> tuple[str, Path | None]:
    """Carry out a plan. Returns in words what made the change, and the backup, if there is one.

    Raises:
        HostFileError: The file could not be written.
    """
    if plan.own is not None and _done_by_host(plan.own, plan, machine):
        return f"by {plan.way}", None
    if plan.file.text is None and machine.made is not None:
        machine.made.for_file(plan.file.path)
    file = files.read(plan.file.path)
    if file.text != plan.file.text:  # the host's command line failed, but changed the file
        text = file.text or ""
        if plan.new is None:
            return EDITED, files.replace(file, entry.removed(plan.host, text, plan.name, None))
        words = entry.words(plan.new)
        return EDITED, files.replace(file, entry.installed(plan.host, text, plan.name, words))
    try:
        backup = files.replace(plan.file, plan.after, keep=plan.keep)
    finally:
        tidy(plan, machine)
    return EDITED, backup


def tidy(plan: HostPlan, machine: Machine) -> None:
    """Remove the folders made for a deleted file: an empty folder would look as if its host were installed."""
    if not files.is_there(plan.file.path) and machine.made is not None:
        machine.made.clear(plan.file.path)


def _done_by_host(own: tuple[str, ...], plan: HostPlan, machine: Machine) -> bool:
    """Run the host's command line. Returns whether the entry is now as planned."""
    wanted, env = json.dumps(plan.new), dict(machine.env)
    try:
        subprocess.run(  # noqa: S603  # a list of arguments; the program is the host's, found on the user's PATH
            own, input=wanted, env=env, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
        )
        return entry.standing(plan.host, files.read(plan.file.path).text or "", plan.name) == plan.new
    except (OSError, subprocess.SubprocessError, HostFileError):
        return False


def _own(
    machine: Machine, host: Host, scope: Scope, name: str, what: Literal["add", "remove"]
) -> tuple[str, ...] | None:
    if host.own is None or scope != "user" or (program := machine.program(host.own.program)) is None:
        return None
    words = host.own.add if what == "add" else host.own.remove
    return (program, *(word.format(name=name) for word in words))


def _read(paths: tuple[Path, ...], host: Host, name: str) -> File:
    """The first file that has the entry; if none has it, the first file."""
    found = [files.read(path) for path in paths]
    holding = (file for file in found if _holds(file, host, name))
    return next(holding, found[0])


def _holds(file: File, host: Host, name: str) -> bool:
    text = file.text or ""
    try:
        return entry.standing(host, text, name) is not None
    except HostFileError:
        return _mentions(text, name)


def _mentions(text: str, name: str) -> bool:
    """Whether a text that does not parse holds an entry's name. UTF-16 without a byte order mark is searched too."""
    return name in text.replace("\0", "")
