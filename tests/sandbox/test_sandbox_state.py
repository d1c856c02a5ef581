"""The sandbox's folder: what it keeps, for whom, and how fast the key may call."""

from __future__ import annotations

import os
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flux2_mcp.errors import SandboxError
from flux2_mcp.sandbox import tasks
from flux2_mcp.sandbox.state import KEEP_DAYS, stamp, whole
from tests.support.sandbox_folder import NOON, Clock, make, opened


def test_two_states_on_one_folder_share_the_key_and_the_tasks(tmp_path: Path) -> None:
    with opened(tmp_path) as one, opened(tmp_path) as other:
        task = make(one)
        assert other.api_key == one.api_key
        assert other.secret == one.secret
        assert tasks.every(other) == [task]


def test_the_key_and_the_tasks_survive_a_restart(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        key, task = state.api_key, make(state)
    with opened(tmp_path) as state:
        assert (state.api_key, tasks.every(state)) == (key, [task])


def test_twenty_openings_of_a_fresh_folder_at_once_agree_on_one_key(tmp_path: Path) -> None:
    def key(_: int) -> str:
        with opened(tmp_path) as state:
            return state.api_key

    with ThreadPoolExecutor(20) as pool:
        assert len(set(pool.map(key, range(20)))) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="rights are POSIX's")
def test_everything_on_disk_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        with opened(tmp_path) as state:
            make(state)
            state.write_file(state.results / "a.png", b"bytes")
            found = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "sandbox").rglob("*")}
            assert {path.name for path in found} == {
                *("state.db", "state.db-wal", "state.db-shm", "results", "uploads", "a.png"),
            }
            assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in found.items())
            assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
    finally:
        os.umask(old)


def test_a_broken_state_file_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "sandbox").mkdir()
    (tmp_path / "sandbox" / "state.db").write_bytes(b"this is no database, it is a letter" * 100)
    with pytest.raises(SandboxError, match="can't be opened"), opened(tmp_path):
        pass


def test_a_folder_that_is_a_file_is_a_sandbox_error(tmp_path: Path) -> None:
    (tmp_path / "sandbox").write_text("")
    with pytest.raises(SandboxError), opened(tmp_path):
        pass


def test_tidying_deletes_what_is_old_and_nothing_else(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        old, new = state.results / "old.png", state.uploads / "new"
        for path in (old, new):
            state.write_file(path, b"bytes")
        os.utime(old, (NOON - KEEP_DAYS * 86_400 - 1,) * 2)
        os.utime(new, (NOON - KEEP_DAYS * 86_400 + 60,) * 2)
        state.tidy()
        assert (old.exists(), new.exists()) == (False, True)


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with opened(tmp_path) as state:
        state.write_file(state.results / "a", b"first")
        state.write_file(state.results / "a", b"second")
        assert [path.name for path in state.results.iterdir()] == ["a"]
        assert (state.results / "a").read_bytes() == b"second"


def test_the_bucket_gives_a_burst_then_the_rate_and_is_shared(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock, rate=2.0, burst=3) as one, opened(tmp_path, clock, rate=2.0, burst=3) as other:
        assert [one.admit(), other.admit(), one.admit()] == [None, None, None]
        assert other.admit() == pytest.approx(0.5)
        clock.now += 0.25
        assert one.admit() == pytest.approx(0.25)
        clock.now += 0.25
        assert [other.admit(), one.admit()] == [None, pytest.approx(0.5)]


def test_a_clock_that_is_set_back_takes_no_tokens_away(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, clock, rate=2.0, burst=2) as state:
        assert state.admit() is None
        clock.now -= 3_600
        assert state.admit() is None


def test_without_a_rate_everything_is_let_in(tmp_path: Path) -> None:
    with opened(tmp_path, rate=None, burst=1) as state:
        assert {state.admit() for _ in range(50)} == {None}


def test_stamps_are_utc_and_waits_whole_seconds_rounded_up() -> None:
    assert stamp(0.25) == "1970-01-01T00:00:00.250Z"
    assert (whole(0.01), whole(1.0), whole(1.2)) == ("1", "1", "2")
