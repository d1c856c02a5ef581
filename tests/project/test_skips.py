from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import pytest_runtest_makereport

ROOT = Path(__file__).parents[2]
ONE = "tests/hosts/test_install_scripts.py::test_shellcheck_has_nothing_to_say"


def skipped() -> pytest.TestReport:
    """The report of a test that was skipped, as what gathers reports hands it on."""
    why = ("a.py", 1, "Skipped: shellcheck is not installed")
    return pytest.TestReport("a.py::test_a", ("a.py", 1, "test_a"), {}, "skipped", why, "call")


@pytest.mark.parametrize("forbidden", [False, True])
def test_a_skip_is_a_failure_where_nothing_may_be_skipped(forbidden: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX2_TESTS_NO_SKIP", "1" if forbidden else "")
    hook = pytest_runtest_makereport()
    next(hook)
    with pytest.raises(StopIteration) as ended:
        hook.send(skipped())
    report: pytest.TestReport = ended.value.value
    assert report.outcome == ("failed" if forbidden else "skipped")
    assert "shellcheck is not installed" in str(report.longrepr)


@pytest.mark.deep
def test_what_would_be_skipped_without_its_tool_is_a_failure_where_nothing_may_be() -> None:
    env = os.environ | {"PATH": "", "FLUX2_TESTS_NO_SKIP": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", ONE]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "1 failed" in done.stdout) == (1, True)
    assert "this was to be skipped. Skipped: shellcheck is not installed" in done.stdout
