"""`flux2-mcp tasks`, `open` and `prune`: real processes over a real journal."""

from __future__ import annotations

import json
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.process.terminal import flux2_mcp


def made(env: dict[str, str], *args: str) -> dict[str, Any]:
    done = flux2_mcp(env, "generate", *args, "--json")
    assert done.returncode == 0, done.stderr
    task: dict[str, Any] = json.loads(done.stdout)["tasks"][0]
    return task


def aged(env: dict[str, str], task: dict[str, Any], days: int) -> None:
    """Let a task have been made so many days ago."""
    with sqlite3.connect(Path(env["FLUX2_HOME"]) / "journal.sqlite3") as database:
        sql = "UPDATE task SET created_at = created_at - ? WHERE task_id = ?"
        assert database.execute(sql, (days * 86_400, task["task_id"])).rowcount == 1
    database.close()


def test_tasks_lists_what_was_made_with_its_files_and_filters_it(clean_env: dict[str, str], tmp_path: Path) -> None:
    nothing = flux2_mcp(clean_env, "tasks")
    assert (nothing.returncode, nothing.stdout) == (
        0,
        "Nothing was made yet, or nothing that matches. flux2-mcp generate makes the first.\n",
    )
    fox = made(clean_env, "a red fox in snow, and so many words that no line of a list could ever hold them")
    failed = flux2_mcp(clean_env, "generate", "a wolf [sandbox:moderation]")
    assert failed.returncode == 7
    listed = flux2_mcp(clean_env, "tasks")
    head, wolf, wolf_id, first, fox_id, file = listed.stdout.splitlines()
    assert head.split() == ["MADE", "STATUS", "MODEL", "CHARGED", "PROMPT"]
    assert "failed" in wolf
    assert wolf.endswith("a wolf [sandbox:moderation]")
    assert "a red fox in snow, and so many words that no li…" in first
    assert "$0.05" in first
    assert (fox_id.strip(), file.strip()) == (fox["task_id"], fox["images"][0]["path"])
    assert wolf_id.strip() != fox["task_id"]
    part = flux2_mcp(clean_env, "tasks", "--limit", "1").stdout.splitlines()
    assert part[-1] == "The newest 1 of 2; all 2 were charged $0.05."
    only = json.loads(flux2_mcp(clean_env, "tasks", "--status", "completed", "--json").stdout)
    assert [task["task_id"] for task in only["tasks"]] == [fox["task_id"]]
    assert json.loads(flux2_mcp(clean_env, "tasks", "--since", "2030-01-01", "--json").stdout)["tasks"] == []
    assert json.loads(flux2_mcp(clean_env, "tasks", "--workspace", str(tmp_path), "--json").stdout)["tasks"] == []
    bad = flux2_mcp(clean_env, "tasks", "--since", "soon")
    assert bad.returncode == 4
    assert "'soon' is neither an age" in bad.stderr


def test_open_shows_the_image_that_a_task_left(clean_env: dict[str, str], tmp_path: Path) -> None:
    fox = made(clean_env, "a red fox in snow")
    seen = tmp_path / "seen"
    viewer = tmp_path / "bin" / "xdg-open"
    viewer.parent.mkdir()
    viewer.write_text(f'#!/bin/sh\nprintf %s "$1" > "{seen}"\n')
    viewer.chmod(viewer.stat().st_mode | stat.S_IXUSR)
    env = clean_env | {"PATH": f"{viewer.parent}:{clean_env['PATH']}"}
    done = flux2_mcp(env, "open", fox["task_id"])
    assert (done.returncode, done.stdout) == (0, f"{fox['images'][0]['path']}\n")
    Path(fox["images"][0]["path"]).unlink()
    gone = flux2_mcp(env, "open", fox["task_id"])
    assert gone.returncode == 4
    assert "no file of it is there" in gone.stderr
    unknown = flux2_mcp(env, "open", "nobody")
    assert (unknown.returncode, "The journal knows no such task." in unknown.stderr) == (4, True)


def test_prune_counts_asks_and_removes_old_images_alone(clean_env: dict[str, str], tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    run = {"cwd": str(project)}
    kept = json.loads(
        flux2_mcp(clean_env, "generate", "a red fox in snow", "--save-to", "fox.png", "--json", **run).stdout
    )["tasks"][0]
    old, young = made(clean_env, "an old owl"), made(clean_env, "a young owl")
    for task in (kept, old):
        aged(clean_env, task, 40)
    size = sum(task["images"][0]["size_bytes"] for task in (kept, old)) / 1_000_000
    asked = flux2_mcp(clean_env, "prune", "--older-than", "30d", stdin=None, input="n\n")
    assert asked.returncode == 130
    assert asked.stdout.startswith(f"2 images of 2 tasks, {size:.1f} MB, made before ")
    assert all(Path(task["images"][0]["path"]).exists() for task in (kept, old, young))
    done = flux2_mcp(clean_env, "prune", "--older-than", "30d", "--yes")
    assert (done.returncode, done.stdout.splitlines()[1]) == (0, f"{size:.1f} MB freed.")
    assert [Path(task["images"][0]["path"]).exists() for task in (kept, old, young)] == [False, False, True]
    assert (project / "fox.png").exists()
    listed = json.loads(flux2_mcp(clean_env, "tasks", "--json").stdout)["tasks"]
    assert [[image["path"] for image in task["images"]] for task in listed] == [
        [young["images"][0]["path"]],
        [None],
        [str(project / "fox.png")],
    ]
    again = flux2_mcp(clean_env, "prune", "--older-than", "30d", "--yes")
    assert again.stdout.startswith("No image is older than ")


@pytest.mark.parametrize("age", ["1h", "0d", "2999-01-01"])
def test_what_is_younger_than_a_day_is_never_pruned(clean_env: dict[str, str], age: str) -> None:
    done = flux2_mcp(clean_env, "prune", "--older-than", age, "--yes")
    assert (done.returncode, "what is younger than a day is not removed" in done.stderr) == (4, True)
