"""What an installation made goes with it: entries in projects, and folders that would be taken for a host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flux2_mcp.commands import cli
from flux2_mcp.hosts.installing import RECORD
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
        code = cli.run(argv, clean_env | {"PATH": ""} | env, None, str(project))
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
    assert "no agent host was found" in run("install", "--detect")[1]
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
    assert tree(ours) == {"images", RECORD}
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


@pytest.mark.skipif(os.name == "nt", reason="install.sh is for systems with a sh")
def test_install_sh_takes_the_entries_of_the_folder_it_runs_in_too(
    clean_env: dict[str, str], home: Path, project: Path, tmp_path: Path
) -> None:
    """With a uv that only says that the tool is installed: what it would fetch is the business of `tests/hosts`."""
    (bin_ := tmp_path / "bin").mkdir()
    for name in ("sh", "cat", "dirname", "grep", "rm"):
        (bin_ / name).symlink_to(shutil.which(name) or name)
    program = Path(sys.executable).with_name("flux2-mcp")
    uv = bin_ / "uv"
    uv.write_text(
        f'#!/bin/sh\ncase "$*" in\n"tool list") echo "flux2-mcp v0" ;;\n"tool dir --bin") echo "{program.parent}" ;;\n'
        f'"tool uninstall "*) echo gone > "{tmp_path}/gone" ;;\nesac\n'
    )
    uv.chmod(0o755)
    env = clean_env | {"PATH": str(bin_)}
    for scope, host in (("user", "cursor"), ("project", "vscode"), ("project", "claude-code")):
        command = [str(program), "install", host, "--scope", scope]
        subprocess.run(command, env=env, cwd=project, check=True, capture_output=True, timeout=60)
    (project / "mine.txt").write_text("mine")
    assert {".vscode/mcp.json", ".mcp.json"} <= tree(project)
    done = subprocess.run(
        ["sh", str(facts.ROOT / "install/install.sh"), "--uninstall"],
        env=env, cwd=project, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tree(project), tree(home)) == ({"mine.txt"}, set())
    assert (tmp_path / "gone").exists()
