"""What a user runs before anything is there: refuses before it begins, and runs whole or not at all.

From nothing to hosts that connect, and back: `tests/real_hosts/test_packages.py`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import tree_sitter
import tree_sitter_powershell

from packages import facts

SCRIPT = facts.ROOT / "install/install.sh"
TEXT = SCRIPT.read_text("utf-8")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="install.sh is for systems with a sh")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home, and beside it a PATH on which there is neither Python, pip, pipx nor uv."""
    (bin_ := tmp_path / "bin").mkdir()
    for name in ("sh", "cat", "dirname", "grep", "rm"):
        (bin_ / name).symlink_to(shutil.which(name) or name)
    (home := tmp_path / "home").mkdir()
    return home


def run(home: Path, *command: str, script: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", *command], env={"HOME": str(home), "PATH": str(home.parent / "bin")} | env, cwd=home, input=script,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def nothing_was_done(home: Path) -> bool:
    return list(home.iterdir()) == []


def test_shellcheck_has_nothing_to_say() -> None:
    if (shellcheck := shutil.which("shellcheck")) is None:
        pytest.skip("shellcheck is not installed (apt-get install shellcheck)")
    hint = facts.ROOT / "install/plugin/scripts/no-key.sh"
    done = subprocess.run([shellcheck, str(SCRIPT), str(hint)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout


def test_the_script_for_windows_parses() -> None:
    language = tree_sitter.Language(tree_sitter_powershell.language())
    tree = tree_sitter.Parser(language).parse((facts.ROOT / "install/install.ps1").read_bytes())
    assert not tree.root_node.has_error


def test_a_script_that_was_cut_anywhere_does_nothing(home: Path) -> None:
    lines = TEXT.splitlines(keepends=True)
    cuts = ["".join(lines[:number]) for number in range(1, len(lines))]
    cuts += ["".join(lines[:-1]) + lines[-1][:size] for size in range(1, len('{ main "$@"; }'))]
    for cut in cuts:
        done = run(home, "-s", "--", "--help", script=cut)
        assert (done.stdout, "install.sh" in done.stderr) == ("", False), cut[-80:]
    assert nothing_was_done(home)
    assert "--uninstall" in run(home, "-s", "--", "--help", script=TEXT).stdout


def test_through_a_pipe_it_asks_where_the_package_is_as_long_as_no_index_has_it(home: Path) -> None:
    done = run(home, "-s", script=TEXT)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Tell where it is with --from. Nothing was done." in done.stderr
    assert nothing_was_done(home)


@pytest.mark.parametrize("arguments", [["--form", "x"], ["--from"], ["--uninstall", "now"]])
def test_what_it_does_not_know_is_refused_before_anything_is_done(home: Path, arguments: list[str]) -> None:
    done = run(home, str(SCRIPT), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Nothing was done. See --help." in done.stderr
    assert nothing_was_done(home)


def test_without_a_home_it_refuses(home: Path) -> None:
    done = run(home, str(SCRIPT), HOME="")
    assert done.returncode != 0
    assert "HOME" in done.stderr


def test_where_there_is_no_way_to_get_uv_it_says_what_to_install_and_leaves_nothing(home: Path) -> None:
    done = run(home, str(SCRIPT))
    assert done.returncode == 1
    assert "neither uv, nor pip, nor pipx" in done.stderr
    assert "stopped while fetching uv" in done.stderr
    assert nothing_was_done(home)


def test_uninstalling_where_nothing_is_takes_nothing_and_says_so(home: Path) -> None:
    done = run(home, str(SCRIPT), "--uninstall")
    assert (done.returncode, "nothing that this script installed" in done.stdout) == (0, True)
    assert nothing_was_done(home)
