"""Every program of docs/python.md runs against the sandbox as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict

import pytest

from tests.conftest import environment
from tests.support import python_programs, trio_folder
from tests.support.python_programs import DEADLINE_SECONDS
from tests.support.rows import rows

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/python.md").read_text("utf-8")
BUILDING = (ROOT / "docs/building.md").read_text("utf-8")
PROGRAM = re.compile(r"^## (.+?)$|```python\n(.*?)```", re.DOTALL | re.MULTILINE)
LOUD = ("-W", "error::ResourceWarning:flux2_mcp")
IMAGE = r"\S+\.png"
PLAIN = {
    "Start": rf"{IMAGE} \S+hero\.png 0\.05\nDrawn by the sandbox: there is no key\.",
    "A batch under a cap": (
        r"0\.15 USD for all, live price\nNot sent: A sailing boat\. .+\n"
        rf"(A (lighthouse|harbour) {IMAGE} 0\.05\n?){{2}}"
    ),
    "Retries under one key": "",
    "Remix": IMAGE,
    "Finished pictures": (
        r"\S+logo\.png \d\d% transparent\nflux-2-pro-text-to-image 0\.05\nrecraft-remove-background 0\.02\n0\.07\n"
        r"[45]\d{3} True"
    ),
    "Errors": r"\S+ .*moderation.*",
    "asyncio and trio": rf"({IMAGE}\n?){{2}}",
    "As they end": rf"(A [a-z ]+ completed {IMAGE}\n?){{3}}",
    "A web process that creates, a worker that delivers": rf"completed {IMAGE}",
    "Callbacks in Starlette": "204",
    "Callbacks in FastAPI": r"204\n\{'id': '[^']+', 'status': '(pending|processing|completed)'\}",
}
"""What they print, by their headings. They run one after the other in one process, each in a home of its own."""
COSTLY = ("Finished pictures", "Callbacks in FastAPI")
"""An image of 17 megapixels, which tests/api/test_finished_pictures.py asks for in a smaller size; the import of FastAPI."""
TRIO, NOTEBOOK, QUEUE, TESTS = (
    "asyncio and trio 2",
    "A notebook",
    "A worker of a task queue",
    "In your own tests",
)
"""These run as they are run in life."""
RUNNER = """
import contextlib, gc, io, json, os, sys, traceback, warnings
warnings.filterwarnings("error", category=ResourceWarning, module="flux2_mcp")
folder = os.getcwd()
for number, (heading, program) in enumerate(json.load(sys.stdin).items()):
    os.mkdir(f"{folder}/{number}")
    os.chdir(f"{folder}/{number}")
    os.environ["FLUX2_HOME"] = f"{folder}/{number}/home"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        names = {"__name__": "__main__"}
        try:
            exec(compile(program, heading, "exec"), names)
        except BaseException:
            traceback.print_exc()
        names.clear()
        gc.collect()
    print(json.dumps([heading, out.getvalue().strip(), err.getvalue()]), flush=True)
"""
SHELL = """
import asyncio, json, sys
from IPython.core.interactiveshell import InteractiveShell
async def main():
    shell = InteractiveShell.instance()
    for cell in json.load(sys.stdin):
        found = await shell.run_cell_async(cell, store_history=True, transformed_cell=shell.transform_cell(cell))
        found.raise_error()
asyncio.run(main())
"""
"""Runs cells as Jupyter's kernel does: in one loop, which also runs between them."""


class Done(TypedDict):
    """What a program has written."""

    out: str
    err: str


def programs() -> dict[str, str]:
    """The programs by the heading that they stand under; the second under one has a 2 behind it."""
    found, heading = dict[str, str](), "Start"
    for title, program in PROGRAM.findall(PAGE):
        heading = title or heading
        if program:
            found[f"{heading} 2" if heading in found else heading] = program
    return found


def test_the_page_has_ten_programs_or_more_and_each_is_run() -> None:
    assert set(programs()) == {*PLAIN, TRIO, NOTEBOOK, QUEUE, TESTS}
    assert len(programs()) >= 10


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Done]:
    """What each of the plain programs has written that are not costly."""
    return written(tmp_path_factory.mktemp("page"), *(heading for heading in PLAIN if heading not in COSTLY))


def written(folder: Path, *headings: str) -> dict[str, Done]:
    wanted = json.dumps({heading: programs()[heading] for heading in headings})
    told = python_programs.run(RUNNER, environment(folder), folder, stdin=wanted)
    assert (told.returncode, told.stderr) == (0, "")
    return {heading: Done(out=out, err=err) for heading, out, err in map(json.loads, told.stdout.splitlines())}


@rows("heading", [heading for heading in PLAIN if heading not in COSTLY])
def test_a_program_of_the_page_does_what_it_says(heading: str, done: dict[str, Done]) -> None:
    assert done[heading]["err"] == ""
    assert re.fullmatch(PLAIN[heading], done[heading]["out"]), done[heading]["out"]


@pytest.mark.deep
@pytest.mark.parametrize("heading", COSTLY)
def test_so_does_one_that_takes_long(heading: str, tmp_path: Path) -> None:
    test_a_program_of_the_page_does_what_it_says(heading, written(tmp_path, heading))


@pytest.mark.deep  # tests/api/test_programs.py runs the client on trio, and the plain programs run this one on asyncio
def test_the_program_for_trio_runs_on_trio(clean_env: dict[str, str], tmp_path: Path) -> None:
    if isinstance(trio := trio_folder.fetched(), str):
        pytest.skip(trio)
    ran = python_programs.run(programs()[TRIO], clean_env | {"PYTHONPATH": str(trio)}, tmp_path, *LOUD)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.fullmatch(PLAIN["asyncio and trio"], ran.stdout.strip())


@pytest.mark.deep  # the notebook alone needs IPython; its client is that of the plain programs
def test_the_cells_of_the_notebook_run_in_ipython(clean_env: dict[str, str], tmp_path: Path) -> None:
    cells = programs()[NOTEBOOK].split("# %%\n")[1:]
    ran = python_programs.run(SHELL, clean_env | {"IPYTHONDIR": str(tmp_path)}, tmp_path, stdin=json.dumps(cells))
    assert (ran.returncode, ran.stderr) == (0, "")
    assert re.findall(r"^Out\[(\d)\]: (.+)$", ran.stdout, re.MULTILINE) == [
        ("2", "<IPython.core.display.Image object>"),
        ("3", "'completed'"),
    ]


@pytest.mark.deep  # a key that is used twice in two processes is tests/api/test_programs.py's
def test_celerys_worker_delivers_an_order_once_that_was_queued_twice(clean_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pictures.py").write_text(programs()[QUEUE], "utf-8")
    (tmp_path / "settings_of_queue.py").write_text(
        f"broker_transport_options = {dict.fromkeys(('data_folder_in', 'data_folder_out'), str(tmp_path))}\n"
        f"control_folder = {str(tmp_path)!r}\n"
    )
    env = clean_env | {
        "BROKER_URL": "filesystem://",
        "CELERY_CONFIG_MODULE": "settings_of_queue",
        "PYTHONPATH": str(tmp_path),
    }
    python_programs.run("from pictures import picture\nfor _ in range(2): picture.delay(7, 'A red fox')", env, tmp_path)
    command = [sys.executable, "-m", "celery", "-A", "pictures", "worker", "--concurrency", "1", "--without-mingle"]
    with subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as worker:
        assert worker.stdout is not None
        told, until = list[str](), time.monotonic() + DEADLINE_SECONDS
        for line in worker.stdout:
            told += re.findall(rf"7: ({IMAGE})", line)
            if len(told) == 2 or time.monotonic() > until:
                break
        worker.terminate()
        worker.communicate(timeout=DEADLINE_SECONDS)
    assert len(told) == 2
    assert told[0] == told[1]
    assert Path(told[0]).exists()


@pytest.mark.deep  # tests/api/test_pytest_plugin.py runs such tests
def test_the_tests_of_the_page_pass_in_a_folder_of_their_own(clean_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "test_covers.py").write_text(programs()[TESTS], "utf-8")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:schemathesis", "-p", "no:cacheprovider", "-W", "error"],
        env={**clean_env, "RUNAPI_API_KEY": "a-key-that-must-not-be-used", "PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert "2 passed" in ran.stdout


def test_the_program_of_the_page_for_builders_runs(clean_env: dict[str, str], tmp_path: Path) -> None:
    [program] = re.findall(r"```python\n(.*?)```", BUILDING, re.DOTALL)
    done = python_programs.run(program, clean_env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "hero.png").exists()
