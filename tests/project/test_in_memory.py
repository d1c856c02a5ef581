"""What `tests/support/in_memory.py` promises: files in memory that are gone after success, and kept and named after a failure."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import in_memory

CODE = "import os, pathlib, sys; folder = os.environ.get('TMPDIR'); folder and pathlib.Path(folder, 'left').touch(); print(folder); sys.exit({})"
PROGRAM = [sys.executable, "-m", "tests.support.in_memory", sys.executable, "-c"]


@pytest.mark.parametrize("code", [0, 3])
def test_what_was_written_is_gone_after_success_and_named_after_a_failure(code: int, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    done = subprocess.run(
        [*PROGRAM, CODE.format(code)], env=env | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip(), (tmp_path / "left").exists()) == (code, str(tmp_path), True)
    done = subprocess.run([*PROGRAM, CODE.format(code)], env=env, capture_output=True, text=True, check=False)
    folder = Path(done.stdout.strip())
    if not in_memory.room({}):
        assert (done.returncode, str(folder), done.stderr) == (code, "None", "")
        return
    assert (done.returncode, folder.exists(), str(folder) in done.stderr) == (code, code != 0, code != 0)
    shutil.rmtree(folder, ignore_errors=True)
