"""A host whose files or folders are of an odd kind is told by its name, and stands in no other host's way."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from flux2_mcp.cli import main
from flux2_mcp.hosts.files import BACKUP_SUFFIX, MAX_FILE_BYTES
from flux2_mcp.hosts.plan import FOLDERS_FILE, Machine
from flux2_mcp.hosts.table import SCOPES, TABLE, Scope

Run = Callable[..., tuple[int, str, str]]
ELSEWHERE = "/proc/nowhere"
"""Where nobody can make a folder, whoever runs the tests."""
no_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc")


@pytest.fixture
def home(clean_env: dict[str, str]) -> Path:
    (home := Path(clean_env["HOME"])).mkdir()
    return home


@pytest.fixture
def run(clean_env: dict[str, str], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    assert home.is_dir()
    (tmp_path / "project").mkdir()

    def run(*argv: str, **env: str) -> tuple[int, str, str]:
        code = main.run(argv, clean_env | {"PATH": ""} | env, None, str(tmp_path / "project"))
        return code, *capsys.readouterr()

    return run


# --- folders ----------------------------------------------------------------------------------------------------------


@no_proc
def test_a_folder_that_can_not_be_made_is_told_and_the_next_host_is_installed(run: Run, home: Path) -> None:
    (home / ".cursor").symlink_to(ELSEWHERE)
    code, out, err = run("install", "cursor", "gemini")
    assert code == 4
    assert f"Cursor: {ELSEWHERE}/mcp.json: the system refused: {os.strerror(errno.ENOENT)}." in err
    assert f"Gemini CLI: flux-2 added to {home}/.gemini/settings.json" in out


@no_proc
def test_folders_that_were_not_made_are_not_written_down(run: Run, home: Path, tmp_path: Path) -> None:
    (home / ".cursor").symlink_to(ELSEWHERE)
    run("install", "cursor")
    assert not (tmp_path / "home" / FOLDERS_FILE).exists()


def test_a_folder_whose_name_no_system_takes_is_told_and_the_next_host_is_looked_at(run: Run, home: Path) -> None:
    (home / ".cursor").mkdir()
    too_long = f"/{'a' * 300}"
    code, out, err = run("install", "codex", "cursor", CODEX_HOME=too_long)
    assert (code, "Codex: " in err, "Cursor: flux-2 added to " in out) == (4, True, True)
    code, out, err = run("install", "--detect", CODEX_HOME=too_long)
    assert (code, err, "Cursor: stands in " in out) == (0, "", True)
    entry = home / ".cursor/mcp.json"
    entry.write_text(entry.read_text().replace('"args": []', '"args": ["--old"]'))  # so that doctor starts nothing
    code, out, err = run("doctor", "--timeout", "120", "codex", "cursor", CODEX_HOME=too_long)
    assert (code, err, f"codex {too_long}" in " ".join(out.split()), "flux-2 in " in out) == (1, "", True, True)


def test_a_note_of_made_folders_that_is_no_file_stands_in_no_ones_way(run: Run, home: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    os.mkfifo(tmp_path / "home" / FOLDERS_FILE)
    assert run("install", "cursor")[0] == 0
    assert run("install", "cursor", "--uninstall")[0] == 0
    assert not (home / ".cursor/mcp.json").exists()


# --- files ------------------------------------------------------------------------------------------------------------


def _bound(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # a socket's path has at most 107 characters
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _sized(path: Path) -> None:
    path.touch()
    os.truncate(path, MAX_FILE_BYTES + 1)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder": (Path.mkdir, "this is not a plain file."),
    "a pipe": (os.mkfifo, "this is not a plain file."),
    "a socket": (_bound, "this is not a plain file."),
    "a device": (lambda path: path.symlink_to(os.devnull), "this is not a plain file."),
    "a link to itself": (lambda path: path.symlink_to(path.name), f"the system refused: {os.strerror(errno.ELOOP)}."),
    "too large": (_sized, f"the file has {MAX_FILE_BYTES + 1:,} bytes, and more than {MAX_FILE_BYTES:,} are not read."),
    "UTF-16": (lambda path: path.write_bytes("{}".encode("utf-16")), "this is not UTF-8."),
    "zeros": (lambda path: path.write_bytes(bytes(100)), ""),
    "not to be read": (
        lambda path: path.symlink_to("/proc/self/mem"),
        f"the system refused: {os.strerror(errno.EIO)}.",
    ),
    "a number too long": (lambda path: path.write_text("[mcp_servers.flux-2]\ncommand = " + "9" * 5_000), ""),
}
HEALTHY = "cursor"
"""The host whose file is as it should be; it comes last."""


def others(scope: Scope) -> list[str]:
    return [row.name for row in TABLE if row.name != HEALTHY and (scope == "user" or row.project)]


@no_proc
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_an_odd_kind_is_told_for_each_host_and_the_last_one_is_served(
    run: Run, clean_env: dict[str, str], tmp_path: Path, kind: str, scope: Scope
) -> None:
    make, why = KINDS[kind]
    machine = Machine(system="Linux", env=clean_env, workspace=str(tmp_path / "project"))
    rows = [row for row in TABLE if row.name in others(scope)]
    for path in {machine.files(row, scope)[0] for row in rows}:
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)
    names = [*others(scope), HEALTHY]
    code, out, _ = run("doctor", "--timeout", "120", *names)
    words = " ".join(out.split())
    assert (code, f"fail {HEALTHY} no entry" in words) == (1, True)
    for row in rows:
        assert f"fail {row.name} {machine.files(row, scope)[0]}" in words
    code, out, err = run("install", *names, "--scope", scope)
    assert (code, "Cursor: flux-2 added to " in out) == (4, True)
    told = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert [line.split(": ")[1] for line in told] == [row.title for row in rows]
    assert all(line.endswith(why) for line in told)
    code, out, err = run("install", *names, "--scope", scope, "--uninstall")
    assert "Cursor: flux-2 removed from " in out
    assert len(out.splitlines()) + err.count("Error: ") >= len(names)


def test_a_link_that_leads_nowhere_yet_is_followed(run: Run, home: Path) -> None:
    (home / ".cursor").mkdir()
    (home / ".cursor/mcp.json").symlink_to(home / "dotfiles/mcp.json")
    assert run("install", "cursor")[0] == 0
    assert (home / ".cursor/mcp.json").is_symlink()
    assert (home / "dotfiles/mcp.json").is_file()
    assert run("install", "cursor", "--uninstall")[0] == 0
    assert not (home / "dotfiles").exists()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("none")])
def test_a_backup_of_an_odd_kind_is_told_before_anything_is_changed(
    run: Run, home: Path, make: Callable[[Path], object]
) -> None:
    (home / ".cursor").mkdir()
    (path := home / ".cursor/mcp.json").write_text("{}")
    make(path.with_name(path.name + BACKUP_SUFFIX))
    code, out, err = run("install", "cursor", "codex")
    assert (code, "Codex: flux-2 added to " in out) == (4, True)
    assert f"Cursor: {path}{BACKUP_SUFFIX}: its backup is no plain file." in err
    assert path.read_text() == "{}"


def test_a_date_in_an_entry_of_ours_is_no_error_and_stays(run: Run, home: Path) -> None:
    (home / ".codex").mkdir()
    (path := home / ".codex/config.toml").write_text(
        '[mcp_servers.flux-2]\ncommand = "flux2-mcp"\nsince = 2026-11-28\n'
    )
    code, out, err = run("install", "codex", "cursor")
    assert (code, err, 'since = "(not shown)"' in out, "Cursor: flux-2 added to " in out) == (0, "", True, True)
    assert "since = 2026-11-28\n" in path.read_text()


def test_an_editor_that_is_named_with_half_a_pair_of_quotes_stops_nothing(run: Run, home: Path) -> None:
    (home / ".cursor").mkdir()
    (path := home / ".cursor/mcp.json").write_text("{")
    code, out, _ = run("doctor", "--timeout", "120", "cursor", "codex", EDITOR="vi 'x")
    assert (code, f"vi +1 {path}" in out, "fail  codex" in out) == (1, True, True)
