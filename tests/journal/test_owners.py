"""Names of processes, and whether they have died."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from flux2_mcp.journal import owners

SAY_NAME = "from flux2_mcp.journal import owners; print(owners.name(), flush=True); input()"
HERE = owners.name().rpartition("/")[0].rpartition("/")[0]
NOBODY = 65534


def test_no_two_names_are_equal() -> None:
    assert len({owners.name() for _ in range(100)}) == 100


def test_a_living_process_is_not_dead_and_a_killed_one_is() -> None:
    process = subprocess.Popen([sys.executable, "-c", SAY_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        name = process.stdout.readline().decode().strip()
        assert not owners.is_dead(name)
        process.kill()
        process.wait(60)
        assert owners.is_dead(name)


def test_this_process_is_not_dead() -> None:
    assert not owners.is_dead(owners.name())


@pytest.mark.parametrize("name", ["", "a", "/", "a/b", "elsewhere/1/abc", "elsewhere/999999999/abc"])
def test_what_runs_elsewhere_or_is_no_name_of_ours_is_not_known_to_be_dead(name: str) -> None:
    assert not owners.is_dead(name)


def test_a_number_that_no_process_can_have_is_nobody() -> None:
    assert not owners.is_dead(f"{HERE}/not-a-number/abc")
    assert not owners.is_dead(f"{HERE}/-1/abc")


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Root may signal every process. Without its rights, those of other users are there and can't be reached."""
    if os.name != "posix":
        pytest.skip("no users there")
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    yield
    os.setresuid(0, 0, 0)


def test_a_living_process_of_another_user_is_not_dead(as_nobody: None) -> None:
    del as_nobody
    with pytest.raises(PermissionError):
        os.kill(1, 0)
    assert not owners.is_dead(f"{HERE}/1/abc")
