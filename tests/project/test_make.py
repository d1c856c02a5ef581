"""What `make` would do in a new checkout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = "--group dev"


def steps(target: str, folder: Path) -> list[str]:
    """The commands of a target, where nothing is set up yet."""
    command = ["make", "-n", target, f"VENV={folder / 'venv'}"]
    # A make that runs these tests hands on its own flags.
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_demo_installs_no_development_tool_and_the_tests_do(tmp_path: Path) -> None:
    assert TOOLS not in "\n".join(steps("demo", tmp_path))
    assert TOOLS in "\n".join(steps("suite", tmp_path))


@pytest.mark.parametrize("target", ["demo", "suite"])
def test_what_takes_its_time_is_said_before_it_begins(target: str, tmp_path: Path) -> None:
    lines = steps(target, tmp_path)
    said = [line for line in lines if line.startswith("echo ")]
    assert lines[0].startswith(f'echo "Setting up {tmp_path}/venv')
    assert "network" not in lines[0]
    assert len(said) == 2
    if target == "demo":
        # Only the run does without a network: the set-up asks the package index.
        assert "no network" in said[-1]
        assert "generate" in lines[lines.index(said[-1]) + 1]
