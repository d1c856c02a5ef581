"""Names of processes, and whether they have died."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from flux2_mcp.journal import owners
from tests.support.rows import rows

SAY_NAME = "from flux2_mcp.journal import owners; print(owners.name(), flush=True); input()"
HERE = owners.name().rpartition("/")[0].rpartition("/")[0]
NOBODY = 65534


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


@rows("name", ["", "a", "/", "a/b", "elsewhere/1/abc", "elsewhere/999999999/abc"])
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


def test_every_process_has_a_name_of_its_own_even_after_its_id_was_used_before() -> None:
    names = {owners.name() for _ in range(3)}
    assert len(names) == 3
    assert all(f"/{os.getpid()}/" in name for name in names)


@pytest.mark.skipif(sys.platform == "win32", reason="there, nobody can be asked without being ended")
def test_a_process_is_dead_only_where_that_is_certain() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        its = owners.name().replace(f"/{os.getpid()}/", f"/{child.pid}/")
        assert not owners.is_dead(its)
        child.communicate()
    assert owners.is_dead(its)
    assert not owners.is_dead(owners.name())
    beyond = [owners.name().replace(f"/{os.getpid()}/", f"/{number}/") for number in (10**30, 2**31, "9" * 5000)]
    for elsewhere in (f"elsewhere{its}", "one", "", "/", "a/b/c", f"{its}/x", *beyond):
        assert not owners.is_dead(elsewhere)
