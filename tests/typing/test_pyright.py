"""pyright, strict, agrees with mypy about the public API: `api.py`, which `make check` shows to mypy. `make types` runs this."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import npm, programs

PYRIGHT = "1.1.414"
HERE = Path(__file__).parent
DEADLINE_SECONDS = 300


@pytest.mark.deep
def test_pyright_finds_no_fault_with_the_public_api() -> None:
    modules = npm.fetched({"pyright": PYRIGHT})
    if isinstance(modules, str):
        pytest.skip(modules)
    node = programs.command("typescript")
    command = [*node, str(modules / "pyright/index.js"), "--project", str(HERE), "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "0 errors, 0 warnings, 0 informations")
