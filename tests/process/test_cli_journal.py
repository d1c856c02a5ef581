"""`flux2-mcp tasks`, `open` and `prune`, over a real journal."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flux2_mcp.cli.tasks import NO_VIEWER
from flux2_mcp.images import thumbnails
from tests.process.conftest import Here
from tests.support.terminal import DEADLINE, flux2_mcp


def made(here: Here, *args: str) -> dict[str, Any]:
    code, out, err = here("generate", *args, "--json")
    assert code == 0, err
    task: dict[str, Any] = json.loads(out)["tasks"][0]
    return task


def aged(env: dict[str, str], task: dict[str, Any], days: int) -> None:
    """Let a task have been made so many days ago."""
    with closing(sqlite3.connect(Path(env["FLUX2_HOME"]) / "journal.sqlite3")) as database, database:
        sql = "UPDATE task SET created_at = created_at - ? WHERE task_id = ?"
        assert database.execute(sql, (days * 86_400, task["task_id"])).rowcount == 1
    database.close()


def test_tasks_lists_what_was_made_with_its_files_and_filters_it(here: Here, tmp_path: Path) -> None:
    assert here("tasks") == (0, "There are no tasks yet. flux2-mcp generate makes the first.\n", "")
    fox = made(here, "a red fox in snow, and so many words that no line of a list could ever hold them")
    assert here("generate", "a wolf [sandbox:moderation]")[0] == 7
    head, wolf, wolf_id, why, first, fox_id, file = here("tasks")[1].splitlines()
    assert head.split() == ["MADE", "STATUS", "MODEL", "WOULD", "CHARGE", "PROMPT"]
    assert "failed" in wolf
    assert why == "  The request was rejected by content moderation."
    assert wolf.endswith("a wolf [sandbox:moderation]")
    assert "a red fox in snow, and so many words that no li…" in first
    assert "$0.05" in first
    assert (fox_id.strip(), file.strip()) == (fox["task_id"], fox["images"][0]["path"])
    assert wolf_id.strip() != fox["task_id"]
    part = here("tasks", "--limit", "1")[1].splitlines()
    assert part[-1] == f"1 of 2; all 2 would charge $0.05. Older ones: --before {wolf_id.strip()}"
    only = json.loads(here("tasks", "--status", "completed", "--json")[1])
    assert [task["task_id"] for task in only["tasks"]] == [fox["task_id"]]
    none = "No task matches status 'failed', since '2030-01-01T00:00:00Z'."
    assert here("tasks", "--since", "2030-01-01", "--status", "failed") == (0, f"{none}\n", "")
    assert none in json.loads(here("tasks", "--since", "2030-01-01", "--status", "failed", "--json")[1])["notice"]
    assert json.loads(here("tasks", "--workspace", str(tmp_path / "other"), "--json")[1])["tasks"] == []
    code, _, err = here("tasks", "--since", "soon")
    assert code == 4
    assert "'soon' is neither an age" in err


def test_tasks_says_what_it_can_not_read_and_why_what_was_paid_has_no_file(
    here: Here, clean_env: dict[str, str]
) -> None:
    assert here("generate", "a wolf [sandbox:corrupt]")[0] == 5
    fox = made(here, "a red fox in snow")
    with closing(sqlite3.connect(Path(clean_env["FLUX2_HOME"]) / "journal.sqlite3")) as database, database:
        sql = "UPDATE task SET state = 'paused' WHERE task_id = ?"
        assert database.execute(sql, (fox["task_id"],)).rowcount == 1
    database.close()
    code, out, _ = here("tasks")
    assert code == 0
    assert "can't read the record of this task (its state 'paused'" in out
    assert "its image can't be had: The image is broken" in out
    assert out.splitlines()[-1].startswith("The journal holds a record that this version of flux2-mcp can't read")


def test_open_shows_the_image_that_a_task_left(clean_env: dict[str, str], here: Here, tmp_path: Path) -> None:
    fox = made(here, "a red fox in snow")
    os.mkfifo(seen := tmp_path / "seen")
    viewer = tmp_path / "bin" / "xdg-open"
    viewer.parent.mkdir()
    viewer.write_text(f'#!/bin/sh\nprintf %s "$1" > "{seen}"\n')
    viewer.chmod(viewer.stat().st_mode | stat.S_IXUSR)
    with ThreadPoolExecutor() as pool:
        shown = pool.submit(seen.read_text)
        done = flux2_mcp(clean_env | {"PATH": f"{viewer.parent}:{clean_env['PATH']}"}, "open", fox["task_id"])
        assert (done.returncode, done.stdout) == (0, f"{fox['images'][0]['path']}\n")
        assert shown.result(DEADLINE) == fox["images"][0]["path"]
    viewer.write_text("#!/bin/sh\necho noise >&2\nexit 3\n")
    for path in (viewer.parent, tmp_path / "none"):
        # Without a program, or with one that finds no viewer.
        done = flux2_mcp(clean_env | {"PATH": str(path)}, "open", fox["task_id"])
        assert (done.returncode, done.stdout, done.stderr) == (1, f"{fox['images'][0]['path']}\n", f"{NO_VIEWER}\n")
    Path(fox["images"][0]["path"]).unlink()
    code, _, err = here("open", fox["task_id"])
    assert (code, "no file of it is there" in err) == (4, True)
    code, _, err = here("open", "nobody")
    assert (code, "The journal knows no such task." in err) == (4, True)


def test_prune_counts_asks_and_removes_old_images_alone(clean_env: dict[str, str], here: Here, tmp_path: Path) -> None:
    kept = made(here, "a red fox in snow", "--save-to", "fox.png")
    old, young = made(here, "an old owl"), made(here, "a young owl")
    for task in (kept, old):
        aged(clean_env, task, 40)
    images = [Path(clean_env["FLUX2_HOME"], "images", Path(task["images"][0]["path"]).name) for task in (kept, old)]
    copies = thumbnails.copies(images, Path(clean_env["FLUX2_HOME"], thumbnails.FOLDER))
    size = sum(path.stat().st_size for path in (*images, *copies)) / 1_000_000
    code, out, _ = here("prune", "--older-than", "30d", given="n\n")
    assert code == 130
    assert out.startswith(f"2 images and 2 small copies of 2 tasks, {size:.1f} MB, made before ")
    assert all(Path(task["images"][0]["path"]).exists() for task in (kept, old, young))
    code, out, _ = here("prune", "--older-than", "30d", "--yes")
    assert (code, out.splitlines()[1]) == (0, f"{size:.1f} MB freed.")
    assert [Path(task["images"][0]["path"]).exists() for task in (kept, old, young)] == [False, False, True]
    assert not any(path.exists() for path in copies)
    assert (tmp_path / "fox.png").exists()
    listed = json.loads(here("tasks", "--json")[1])["tasks"]
    assert [[image["path"] for image in task["images"]] for task in listed] == [
        [young["images"][0]["path"]],
        [None],
        [str(tmp_path / "fox.png")],
    ]
    assert here("prune", "--older-than", "30d", "--yes")[1].startswith("No image is older than ")


@pytest.mark.parametrize("age", ["1h", "0d", "2999-01-01"])
def test_what_is_younger_than_a_day_is_never_pruned(here: Here, age: str) -> None:
    code, _, err = here("prune", "--older-than", age, "--yes")
    assert (code, "what is younger than a day is not removed" in err) == (4, True)


def test_tasks_are_found_by_their_prompt_or_by_a_file_and_a_list_says_how_it_goes_on(
    here: Here, tmp_path: Path
) -> None:
    made = (
        ("an owl", "--variant", "max", "--aspect-ratio", "1:1", "--json"),
        ("A red FOX", "--save-to", "fox.jpg", "--json"),
    )
    owl, fox = (json.loads(here("generate", *words)[1])["tasks"][0]["task_id"] for words in made)
    (tmp_path / "fox.jpg").rename(tmp_path / "other.jpg")
    for found, wanted in (
        (here("tasks", "--query", "fox"), (True, False)),
        (here("tasks", "--file", "other.jpg"), (True, False)),
        (here("tasks", "--before", fox), (False, True)),
    ):
        assert found[0] == 0
        assert (fox in found[1], owl in found[1]) == wanted
    listed = here("tasks", "--limit", "1")[1]
    assert f"1 of 2; all 2 would charge $0.35. Older ones: --before {fox}" in listed
    assert "The sandbox made up the price of max" in listed
    assert "The sandbox made up the price of max" in here("spend")[1]
    assert "made up" not in here("tasks", "--query", "fox")[1]
    code, _, err = here("tasks", "--file", "gone.jpg")
    assert (code, err.splitlines()[0]) == (4, f"Error: --file: can't be read: there is no such file in {tmp_path}.")
