"""Names of processes, and whether they have died."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flux2_mcp.journal import owners

SAY_NAME = "from flux2_mcp.journal import owners; print(owners.name(), flush=True); input()"


def test_no_two_names_are_equal() -> None:
    assert len({owners.name() for _ in range(100)}) == 100


def test_a_living_process_is_not_dead_and_a_killed_one_is() -> None:
    process = subprocess.Popen([sys.executable, "-c", SAY_NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        name = process.stdout.readline().decode().strip()
        assert not owners.is_dead(name)
        process.kill()
        process.wait(10)
        assert owners.is_dead(name)


def test_this_process_is_not_dead() -> None:
    assert not owners.is_dead(owners.name())


@pytest.mark.parametrize("name", ["", "a", "/", "a/b", "elsewhere/1/abc", "elsewhere/999999999/abc"])
def test_what_runs_elsewhere_or_is_no_name_of_ours_is_not_known_to_be_dead(name: str) -> None:
    assert not owners.is_dead(name)


def test_a_number_that_no_process_can_have_is_nobody() -> None:
    place = owners.name().rpartition("/")[0].rpartition("/")[0]
    assert not owners.is_dead(f"{place}/not-a-number/abc")
    assert not owners.is_dead(f"{place}/-1/abc")
