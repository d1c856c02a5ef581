"""docs/images-as-code.md: its example is right, and the CI files that it shows do what they say. `make example` writes the rest."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flux2_mcp.engine.project import Project
from packages import project

PAGE = project.PAGE.read_text("utf-8")
WORKFLOW, HOOKS = (yaml.load(block, yaml.BaseLoader) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))  # noqa: S506  # the loader that makes strings alone
CHECK = "flux2-mcp plan --check"


def test_the_example_is_the_one_that_the_command_runs_with_eight_pictures(tmp_path: Path) -> None:
    assert f"```toml\n{project.MANIFEST}```" in PAGE
    (tmp_path / "flux2.toml").write_text(project.MANIFEST, "utf-8")
    plan = Project(tmp_path).plan()
    assert [image.standing for image in plan.images] == ["new"] * 8
    assert [image.path for image in plan.images if image.waits_for] == ["public/fox-night.png"]
    assert [len(image.derive) for image in plan.images if image.derive] == [6, 14]
    for told in ("8 new: $0.40.", "6 changed, 2 current", "1 missing, 7", "1 edited, 7", "1 moved, 7", "1 unnamed, 7"):
        assert told in PAGE
    assert str(Path.home()) not in PAGE


def commands(value: Any) -> list[str]:  # noqa: ANN401  # any YAML
    """Every command that a CI file runs."""
    if isinstance(value, dict):
        own = [value[name] for name in ("run", "entry") if name in value]
        return own + [each for item in value.values() for each in commands(item)]
    return [each for item in value for each in commands(item)] if isinstance(value, list) else []


@pytest.mark.parametrize("file", [WORKFLOW, HOOKS], ids=["GitHub Action", "pre-commit"])
def test_what_ci_runs_passes_where_all_is_there_and_fails_where_it_is_not(
    file: object, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    *before, command = commands(file)
    assert command == CHECK
    assert all(line.startswith("pip install git+URL") for line in before)

    def run() -> int:
        argv = [sys.executable, "-m", "flux2_mcp", *shlex.split(command)[1:]]
        return subprocess.run(argv, cwd=tmp_path, env=clean_env, capture_output=True, check=False).returncode

    (tmp_path / "flux2.toml").write_text('[style]\nprompt = "flat"\n', "utf-8")
    assert run() == 0
    (tmp_path / "flux2.toml").write_text('[images."a.png"]\nprompt = "a fox"\n', "utf-8")
    assert run() == 8


def test_the_hook_looks_at_what_it_is_about() -> None:
    [hook] = HOOKS["repos"][0]["hooks"]
    pattern = re.compile(hook["files"])
    assert all(pattern.search(path) for path in ("flux2.toml", "flux2.lock", "public/hero.png"))
    assert not pattern.search("src/flux2.toml.py")


@pytest.mark.deep
def test_the_page_has_what_the_commands_say_now(tmp_path: Path) -> None:
    assert project.page(tmp_path) == PAGE
