"""One host's installation, planned from what is there and then carried out: by the host's own command line, or as an edit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flux2_mcp.errors import HostFileError, InvalidRequestError, Problem
from flux2_mcp.hosts import entry, files, places
from flux2_mcp.hosts.editors.jsonc import Object
from flux2_mcp.hosts.files import File, MadeFolders
from flux2_mcp.hosts.table import TABLE, Host, Scope, System

FOLDERS_FILE = "made-folders"
"""In FLUX2_HOME: the folders that were made for hosts' files."""
COMMAND_SECONDS = 60
"""How long a host's own command line may take; they take half a second, and Node some on a cold disk."""
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What every host takes as a server's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where hosts are looked for. `workspace` is the folder that a project's files are below.

    `made` knows the folders that were made for hosts' files; where it is None, they stay when an entry goes.
    """

    system: System
    env: Mapping[str, str]
    workspace: str | None
    made: MadeFolders | None = None

    def files(self, host: Host, scope: Scope) -> tuple[Path, ...]:
        """The files of a scope that are there, best first; where none is, the one to make.

        Raises:
            InvalidRequestError: The host has no such scope, or there is no folder to be a project.
        """
        if scope == "user":
            return files.first(places.user_files(host, self.system, self.env))
        if host.project is None or self.workspace is None:
            why = "keeps no servers in projects" if host.project is None else "needs a folder that is there"
            raise InvalidRequestError(Problem("--scope project", f"{host.title} {why}."))
        return (Path(self.workspace) / host.project,)

    def has(self, host: Host) -> bool:
        """True where the host was ever started or is installed."""
        marks = files.first(places.marks(host, self.system, self.env))
        return any(files.is_there(mark) for mark in marks) or any(self.program(name) for name in host.programs)

    def detected(self) -> list[Host]:
        """The hosts that are there, in the table's order."""
        return [host for host in TABLE if self.has(host)]

    def program(self, name: str) -> str | None:
        """The path of a program that can be started without a shell."""
        found = shutil.which(name, path=self.env.get("PATH", ""))
        # A batch file is run by a shell, which reads arguments anew.
        return None if found is None or found.lower().endswith((".cmd", ".bat", ".ps1")) else found


EDITED = "by an edit"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPlan:
    """What will become of one file. `old` and `new` are the entry; None where there is none.

    `own` is the host's command line that does it; None for an edit. `keep` is what the backup
    holds afterwards, where that is not what stands in the file now.
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
        """By what it is done, in words."""
        return "an edit" if self.own is None else " ".join([Path(self.own[0]).stem, *self.own[1:]])

    @property
    def changes(self) -> bool:
        """False where everything stands as it should."""
        return self.after != self.file.text


def to_install(machine: Machine, host: Host, scope: Scope, name: str, command: Sequence[str]) -> HostPlan:
    """How the entry comes into the host's file. Changes nothing.

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
    # An entry that is there may hold what the user added, which only an edit keeps.
    own = _own(machine, host, scope, name, "add") if old is None else None
    return HostPlan(
        host=host, name=name, file=file, after=file.text if after == file.text else after, old=old, new=new,
        own=own, keep=kept if came else None,
    )  # fmt: skip


def to_remove(machine: Machine, host: Host, scope: Scope, name: str) -> HostPlan:
    """How the entry goes out of the host's file; a file that held nothing else and was not there before goes too.

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
        # What stood there before may be an earlier entry of ours, in a file that we had made.
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
    """Whether a file holds the entry; where it can't be edited, whether it may, so that its trouble is told."""
    try:
        return _holds(files.read(path), host, name)
    except HostFileError:
        return files.may_mention(path, name)


def carry_out(plan: HostPlan, machine: Machine) -> tuple[str, Path | None]:
    """Do it. Gives by what it was done, in words, and the backup where there is one.

    Raises:
        HostFileError: The file could not be written.
    """
    if plan.own is not None and _done_by_host(plan.own, plan, machine):
        return f"by {plan.way}", None
    if plan.file.text is None and machine.made is not None:
        machine.made.for_file(plan.file.path)
    file = files.read(plan.file.path)
    if file.text != plan.file.text:  # the host's own command line left something behind
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
    """Remove what was made for a file that is gone: an empty folder would be taken for its host."""
    if not files.is_there(plan.file.path) and machine.made is not None:
        machine.made.clear(plan.file.path)


def _done_by_host(own: tuple[str, ...], plan: HostPlan, machine: Machine) -> bool:
    """Whether the host's own command line brought the entry to what was planned."""
    given, env = json.dumps(plan.new), dict(machine.env)
    try:
        subprocess.run(  # noqa: S603  # a list of arguments; the program is the host's, found on the user's PATH
            own, input=given, env=env, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=True
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
    """The file that has the entry; where none has, the first."""
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
    """Whether a text that does not parse speaks of an entry, also where it is UTF-16 without its mark."""
    return name in text.replace("\0", "")
