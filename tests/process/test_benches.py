"""The measurements that start servers measure what they say. What they find is for `make bench` to tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import ends, idle, news, startup

ROOT = Path(__file__).parents[2]


@pytest.mark.deep
def test_a_start_is_measured_from_its_first_answer_to_its_end(tmp_path: Path) -> None:
    found = startup.run(startup.CONTESTANTS[0], str(tmp_path))
    assert 0 < found.initialize <= (found.tools_list or 0) <= (found.first_call or 0)
    assert found.work > (found.call_work or 0) > 0
    assert found.memory > 1
    assert found.exit > 0


@pytest.mark.deep
def test_the_bench_of_the_start_measures_all_that_it_compares(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.startup", "--rounds", "1", "--json", str(tmp_path / "startup.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    told = json.loads((tmp_path / "startup.json").read_text("utf-8"))
    held = [
        each["measured"] >= each["bound"] if each["least"] else each["measured"] <= each["bound"]
        for each in told["reaches"]
    ]
    assert done.returncode == (0 if all(held) else 1), done.stderr
    assert list(told["raw"]) == ["ours", "ours, nothing early", "minimal MCPServer", "bare interpreter"]
    assert all(each["memory"] > 1 and each["exit"] > 0 for rounds in told["raw"].values() for each in rounds)
    assert {each["what"].partition(",")[0].replace(" ", "_") for each in told["reaches"]} == set(told["raw"]["ours"][0])


@pytest.mark.deep
def test_a_call_that_follows_at_once_is_measured(tmp_path: Path) -> None:
    tools_list, call = idle.first_call(idle.OURS, str(tmp_path))
    assert 0 < tools_list < call


@pytest.mark.deep
def test_whoever_sleeps_is_measured_beside_one_that_is_awake() -> None:
    told = idle.measure(rounds=1, calls=1, seed=1, seconds=1, vendor=[])
    assert len(told.rows) == 16 + 7
    assert {len(row) for row in told.rows} == {len(told.head)}
    memory = {row[0]: float(row[1]) for row in told.rows}
    assert memory["ours, used, Codex 0.169.0"] < memory["ours, awake, used, Codex 0.169.0"]


@pytest.mark.deep
@pytest.mark.parametrize("name", ends.CONTESTANTS)
def test_every_end_is_measured(name: str) -> None:
    assert ends.CONTESTANTS[name]() > 0


@pytest.mark.deep
def test_whoever_waits_for_news_is_measured() -> None:
    found = news.measure(rounds=1, seed=1)
    assert [len(times) for times in found.values()] == [1, 1, 1, 1]
    assert all(times[0] > 0 for times in found.values())
