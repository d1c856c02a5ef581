"""What an installation made goes with it: entries in projects, and folders that would be taken for a host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flux2_mcp.cli import main
from flux2_mcp.hosts.plan import FOLDERS_FILE
from flux2_mcp.hosts.table import TABLE
from packages import facts

Run = Callable[..., tuple[int, str]]
NAMES = [row.name for row in TABLE]
IN_PROJECTS = [row.name for row in TABLE if row.project]


@pytest.fixture
def home(clean_env: dict[str, str]) -> Path:
    (home := Path(clean_env["HOME"])).mkdir()
    return home


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (project := tmp_path / "project").mkdir()
    return project


@pytest.fixture
def run(clean_env: dict[str, str], home: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    assert home.is_dir()

    def run(*argv: str, **env: str) -> tuple[int, str]:
        code = main.run(argv, clean_env | {"PATH": ""} | env, None, str(project))
        return code, "".join(capsys.readouterr())

    return run


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_folders_that_were_made_for_entries_go_with_them_and_no_host_is_left_to_be_found(
    run: Run, home: Path, project: Path, tmp_path: Path
) -> None:
    assert run("install", *NAMES)[0] == 0
    assert run("install", *IN_PROJECTS, "--scope", "project")[0] == 0
    assert len(tree(home)) > len(NAMES)
    assert run("install", *NAMES, "--uninstall")[0] == 0
    assert run("install", *IN_PROJECTS, "--scope", "project", "--uninstall")[0] == 0
    assert (tree(home), tree(project)) == (set(), set())
    assert "No agent host found" in run("install", "--detect")[1]
    assert not (tmp_path / "home").exists()  # FLUX2_HOME, where they were written down


def test_a_folder_that_was_there_before_stays_and_one_that_its_host_uses_since_too(
    run: Run, home: Path, tmp_path: Path
) -> None:
    (home / ".cursor").mkdir()
    (home / ".config").mkdir()
    run("install", "cursor", "codex", "opencode")
    (home / ".codex/history.jsonl").write_text("{}")
    run("install", "cursor", "codex", "opencode", "--uninstall")
    assert tree(home) == {".cursor", ".config", ".codex", ".codex/history.jsonl"}
    (home / ".codex/history.jsonl").unlink()
    run("install", "codex", "--uninstall")  # what was made by us is known for as long as it is there
    assert tree(home) == {".cursor", ".config"}
    assert not (tmp_path / "home").exists()


def test_hosts_that_share_a_folder_leave_it_to_the_last(run: Run, home: Path) -> None:
    run("install", "gemini", "antigravity")
    run("install", "gemini", "--uninstall")
    assert ".gemini/config/mcp_config.json" in tree(home)
    run("install", "antigravity", "--uninstall")
    assert tree(home) == set()


def test_a_file_that_its_user_took_away_leaves_no_folder_behind_and_dry_run_leaves_all(run: Run, home: Path) -> None:
    run("install", "cursor")
    (home / ".cursor/mcp.json").unlink()
    run("install", "cursor", "--uninstall", "--dry-run")
    assert tree(home) == {".cursor"}
    run("install", "cursor", "--uninstall")
    assert tree(home) == set()


def test_what_is_in_flux2_home_stays_and_what_can_not_be_written_down_stands_in_no_ones_way(
    run: Run, home: Path, tmp_path: Path
) -> None:
    (ours := tmp_path / "home").mkdir()
    (ours / "images").mkdir()
    run("install", "cursor")
    assert tree(ours) == {"images", FOLDERS_FILE}
    run("install", "cursor", "--uninstall")
    assert (tree(ours), tree(home)) == ({"images"}, set())
    shutil.rmtree(ours)
    ours.write_text("no folder")
    assert run("install", "cursor")[0] == 0
    assert run("install", "cursor", "--uninstall")[0] == 0
    assert tree(home) == {".cursor"}
    assert run("install", "cursor", FLUX2_HOME="", HOME="", USERPROFILE="", XDG_DATA_HOME="")[0] == 4


def test_an_entry_is_found_and_taken_out_though_its_host_is_gone(run: Run, home: Path, project: Path) -> None:
    run("install", "cursor", "claude-code", "--scope", "project")
    run("install", "codex")
    assert {path.name for path in home.iterdir()} == {".codex"}
    code, out = run("install", "--detect", "--uninstall", "--scope", "project")
    assert (code, out.count("flux-2 removed from")) == (0, 2)
    assert tree(project) == set()


BROKEN = [
    '{"mcpServers": {"flux-2": {"command": "flux2-mcp"}},}',
    '\ufeff{"mcpServers": {"flux-2": {"command": "flux2-mcp"}}}'.encode("utf-16"),
    '{"mcpServers": {"flux-2": {"command": "flux2-mcp"}}}'.encode("utf-16-le"),
]


@pytest.mark.parametrize("content", BROKEN, ids=["a comma too many", "UTF-16", "UTF-16 without its mark"])
def test_a_file_that_can_not_be_edited_and_speaks_of_the_entry_is_told_though_its_host_is_gone(
    run: Run, project: Path, content: str | bytes
) -> None:
    path = project / ".mcp.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out = run("install", "--detect", "--uninstall", "--scope", "project")
    assert (code, f"Claude Code: {path}, line 1: " in out) == (4, True)
    assert "No agent host found" in run("install", "--detect", "--uninstall")[1]


def test_of_several_files_the_one_that_speaks_of_the_entry_is_told(run: Run, home: Path) -> None:
    (folder := home / ".config/opencode").mkdir(parents=True)
    (folder / "opencode.json").write_text("{}")
    (folder / "opencode.jsonc").write_text('{"mcp": {"flux-2": {"command": ["flux2-mcp"]}}')
    for what in ([], ["--uninstall"]):
        code, out = run("install", "--detect", *what)
        assert (code, f"opencode: {folder}/opencode.jsonc, line 1: " in out) == (4, True)


def test_a_broken_file_that_does_not_speak_of_the_entry_has_nothing_to_take_out(run: Run, home: Path) -> None:
    path = home / ".cursor/mcp.json"
    path.parent.mkdir()
    path.write_text('{"mcpServers": {"x": {}}')
    code, out = run("install", "cursor", "--uninstall")
    assert (code, f"nothing to take out of {path}" in out) == (0, True)
    assert run("install", "cursor")[0] == 4
    assert path.read_text() == '{"mcpServers": {"x": {}}'


needs_sh = pytest.mark.skipif(os.name == "nt", reason="install.sh is for systems with a sh")


class Script:
    """install.sh with a uv that only says that the tool is installed: what it would fetch is the business of `tests/hosts`."""

    program = Path(sys.executable).with_name("flux2-mcp")

    def __init__(self, env: dict[str, str], project: Path, tmp_path: Path) -> None:
        (bin_ := tmp_path / "bin").mkdir()
        for name in ("sh", "cat", "dirname", "grep", "rm"):
            (bin_ / name).symlink_to(shutil.which(name) or name)
        self._gone = tmp_path / "gone"
        uv = bin_ / "uv"
        uv.write_text(
            f'#!/bin/sh\ncase "$*" in\n"tool list") echo "flux2-mcp v0" ;;\n'
            f'"tool dir --bin") echo "{self.program.parent}" ;;\n"tool uninstall "*) echo gone > "{self._gone}" ;;\nesac\n'
        )
        uv.chmod(0o755)
        self._env = env | {"PATH": str(bin_)}
        self._project = project

    def install(self, host: str, scope: str) -> None:
        command = [str(self.program), "install", host, "--scope", scope]
        subprocess.run(command, env=self._env, cwd=self._project, check=True, capture_output=True, timeout=60)

    def uninstall(self) -> tuple[int, str, bool]:
        """Its exit code, what it said, and whether the tool is gone."""
        done = subprocess.run(
            ["sh", str(facts.ROOT / "install/install.sh"), "--uninstall"],
            env=self._env, cwd=self._project, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr, self._gone.exists()


@pytest.fixture
def script(clean_env: dict[str, str], project: Path, tmp_path: Path) -> Script:
    return Script(clean_env, project, tmp_path)


@needs_sh
def test_install_sh_takes_the_entries_of_the_folder_it_runs_in_too(script: Script, home: Path, project: Path) -> None:
    for scope, host in (("user", "cursor"), ("project", "vscode"), ("project", "claude-code")):
        script.install(host, scope)
    (project / "mine.txt").write_text("mine")
    assert {".vscode/mcp.json", ".mcp.json"} <= tree(project)
    code, said, gone = script.uninstall()
    assert (code, gone) == (0, True), said
    assert (tree(project), tree(home)) == ({"mine.txt"}, set())


@needs_sh
def test_install_sh_keeps_the_tool_while_an_entry_in_the_folder_it_runs_in_can_not_be_taken_out(
    script: Script, home: Path, project: Path
) -> None:
    script.install("cursor", "user")
    script.install("claude-code", "project")
    path = project / ".mcp.json"
    whole = path.read_text()
    path.write_text(whole + "}")
    code, said, gone = script.uninstall()
    assert (code, gone) == (1, False), said
    assert f"Claude Code: {path}, line " in said
    assert "a host still starts flux2-mcp, so it stays." in said
    path.write_text(whole)
    code, said, gone = script.uninstall()
    assert (code, gone) == (0, True), said
    assert (tree(project), tree(home)) == (set(), set())
