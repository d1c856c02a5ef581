"""Every program of docs/python.md runs against the sandbox as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support import python_programs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/python.md").read_text("utf-8")
BUILDING = (ROOT / "docs/building.md").read_text("utf-8")
PROGRAM = re.compile(r"^## (.+?)$|```python\n(.*?)```", re.DOTALL | re.MULTILINE)


def programs() -> dict[str, str]:
    """The programs by the heading that they stand under."""
    found, heading = {}, "Start"
    for title, program in PROGRAM.findall(PAGE):
        heading = title or heading
        if program:
            found[heading] = program
    return found


@pytest.mark.parametrize("heading", programs())
def test_a_program_of_the_page_does_what_it_says(heading: str, clean_env: dict[str, str], tmp_path: Path) -> None:
    done = python_programs.run(programs()[heading], clean_env, tmp_path, "-W", "error::ResourceWarning:flux2_mcp")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_program_of_the_page_for_builders_runs(clean_env: dict[str, str], tmp_path: Path) -> None:
    [program] = re.findall(r"```python\n(.*?)```", BUILDING, re.DOTALL)
    done = python_programs.run(program, clean_env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "hero.png").exists()
