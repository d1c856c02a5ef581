from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ONE = "tests/hosts/test_install_scripts.py::test_shellcheck_has_nothing_to_say"


def test_what_would_be_skipped_without_its_tool_is_a_failure_where_nothing_may_be() -> None:
    env = os.environ | {"PATH": "", "FLUX2_TESTS_NO_SKIP": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", ONE]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "1 failed" in done.stdout) == (1, True)
    assert "this was to be skipped. Skipped: shellcheck is not installed" in done.stdout
