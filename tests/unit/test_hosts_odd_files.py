"""A host whose files or folders are of an odd kind is told by its name, and stands in no other host's way."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flux2_mcp.commands import cli
from flux2_mcp.hosts.installing import RECORD

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
        code = cli.run(argv, clean_env | {"PATH": ""} | env, None, str(tmp_path / "project"))
        return code, *capsys.readouterr()

    return run


# --- folders ----------------------------------------------------------------------------------------------------------


@no_proc
def test_a_folder_that_can_not_be_made_is_told_and_the_next_host_is_installed(run: Run, home: Path) -> None:
    (home / ".cursor").symlink_to(ELSEWHERE)
    code, out, err = run("install", "cursor", "gemini")
    assert code == 4
    assert f"Cursor: {ELSEWHERE}/mcp.json: the system refused: {os.strerror(2)}." in err
    assert f"Gemini CLI: flux-2 added to {home}/.gemini/settings.json" in out


@no_proc
def test_folders_that_were_not_made_are_not_written_down(run: Run, home: Path, tmp_path: Path) -> None:
    (home / ".cursor").symlink_to(ELSEWHERE)
    run("install", "cursor")
    assert not (tmp_path / "home" / RECORD).exists()


def test_a_folder_whose_name_no_system_takes_is_told_and_the_next_host_is_looked_at(run: Run, home: Path) -> None:
    (home / ".cursor").mkdir()
    too_long = f"/{'a' * 300}"
    code, out, err = run("install", "codex", "cursor", CODEX_HOME=too_long)
    assert (code, "Codex: " in err, "Cursor: flux-2 added to " in out) == (4, True, True)
    code, out, err = run("install", "--detect", CODEX_HOME=too_long)
    assert (code, err, "Cursor: stands in " in out) == (0, "", True)
    code, out, err = run("doctor", "codex", "cursor", CODEX_HOME=too_long)
    assert (code, err, f"codex     {too_long}" in out, "flux-2 in " in out) == (1, "", True, True)
