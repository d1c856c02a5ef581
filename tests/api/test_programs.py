"""Programs that use the client: what only a process can show."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from bench import api_kill
from flux2_mcp import Flux2Client
from flux2_mcp.sandbox.server import Sandbox
from tests.support import python_programs, trio_folder
from tests.support.python_programs import DEADLINE_SECONDS

SEED = (
    "from flux2_mcp import Flux2Client; print(Flux2Client().text_to_image.run("
    "model='flux-2-flex-text-to-image', prompt='A lighthouse at dusk').images[0].path)"
)
FORGOTTEN = """
from flux2_mcp import Flux2Client
client = Flux2Client()
print(client.text_to_image.create(prompt="[sandbox:stuck] a red fox").id)
"""
LOUD = "import warnings\nwarnings.simplefilter('always', ResourceWarning)\n"
FORK = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork where threads are
from flux2_mcp import Flux2Client
client = Flux2Client()
stuck = client.text_to_image.create(prompt="[sandbox:stuck] a red fox")
client.text_to_image.run(prompt="The parent's")
told, ready = os.pipe()
closed, go = os.pipe()
if not (child := os.fork()):
    client.text_to_image.run(prompt="The child's first")
    os.write(ready, b"x")
    os.read(closed, 1)
    client.text_to_image.run(prompt="The child's second")
    os._exit(0)  # as multiprocessing's children end
os.read(told, 1)
with Flux2Client() as other:  # in the parent the client goes on, too
    other.text_to_image.run(prompt="Another's")
client.close()  # the last connection of this process goes, and would take the log along
os.write(go, b"x")
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
with Flux2Client() as later:
    print(*sorted(task.prompt for task in later.tasks.recent(status="completed")), sep="; ")
    print(later.text_to_image.get(stuck.id).status)
"""
LEASES = """
import os, sys
from flux2_mcp import Flux2Client
client = Flux2Client()
client.text_to_image.create(prompt="[sandbox:stuck] a red fox")
if not (child := os.fork()):
    with client:
        client.text_to_image.run(prompt="The child's")
    raise SystemExit(0)
print(os.getpid(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
sys.stdin.read()
"""
INTERRUPTED = """
import os, signal, threading, time
from flux2_mcp import Flux2Client
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without it
with Flux2Client() as client:
    def interrupt():
        while not client.tasks.recent(status="processing"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    try:
        client.text_to_image.run(prompt="[sandbox:stuck] a red fox")
    except KeyboardInterrupt:
        print("interrupted", *(task.status for task in client.tasks.recent()))
    print(client.text_to_image.run(prompt="Another").status)
"""


LOOPS = """
import sys
import anyio
from flux2_mcp import AsyncFlux2Client, ClosedError
ended = []
async def main():
    async with AsyncFlux2Client() as client:
        async def one(number):
            ended.append((await client.text_to_image.run(prompt=f"Number {number}", save_to=f"{number}.png")).id)
        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(one, number)
        made = await client.remix_image.create(prompt="Make it night", source_images=["1.png"])
        found = [task.id async for task in client.tasks.as_completed([made.id, *ended], timeout=60)]
        print(sorted(found) == sorted([made.id, *ended]))
        print((await client.quote(variant="pro", count=2)).usd, client.sandbox)
        stuck = await client.text_to_image.create(prompt="[sandbox:stuck] a red fox")
        with anyio.move_on_after(0):
            await client.tasks.wait([stuck.id])
        print((await client.text_to_image.get(stuck.id)).ended)
    try:
        await client.balance()
    except ClosedError as error:
        print(error)
anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("loop", [pytest.param("asyncio", marks=pytest.mark.deep), "trio"])
def test_the_async_client_does_the_same_on_each_event_loop(
    loop: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    if loop == "trio":
        if isinstance(trio := trio_folder.fetched(), str):
            pytest.skip(trio)
        clean_env["PYTHONPATH"] = str(trio)
    done = python_programs.run(LOOPS.replace("sys.argv[1]", repr(loop)), clean_env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["True", "0.10 True", "False", "The client is not open."]
    assert all((tmp_path / f"{number}.png").exists() for number in range(3))


def test_the_seeds_call_prints_a_file_from_a_clean_environment(clean_env: dict[str, str], tmp_path: Path) -> None:
    done = python_programs.run(SEED, clean_env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.strip()).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "program",
    [
        FORGOTTEN,
        *(pytest.param(FORGOTTEN + more, marks=pytest.mark.deep) for more in ("del client\n", "\nother = [client]\n")),
    ],
)
def test_a_forgotten_client_warns_and_keeps_no_program_from_ending(
    program: str, clean_env: dict[str, str], tmp_path: Path
) -> None:
    quiet = python_programs.run(program, clean_env, tmp_path)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    loud = python_programs.run(LOUD + program, clean_env, tmp_path)
    assert loud.returncode == 0
    assert loud.stderr.count("ResourceWarning: A Flux2Client was not closed.") == 1
    assert "Traceback" not in loud.stderr
    [ident, _] = (each.stdout.strip() for each in (quiet, loud))
    with Flux2Client(environ=clean_env) as client:  # nothing is lost
        assert client.text_to_image.get(ident).status in {"pending", "processing"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_process_that_forks_after_use_loses_no_task_of_either_side(clean_env: dict[str, str], tmp_path: Path) -> None:
    done = python_programs.run(FORK, clean_env, tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines()[:2] == [
        "0",
        "Another's; The child's first; The child's second; The parent's",
    ]
    assert done.stdout.splitlines()[2] in {"pending", "processing"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_that_ends_leaves_its_parents_leases_alone(clean_env: dict[str, str], tmp_path: Path) -> None:
    with python_programs.begin(LEASES, clean_env, tmp_path) as parent:
        assert parent.stdout is not None
        pid, code = parent.stdout.readline().split()
        with closing(sqlite3.connect(tmp_path / "home" / "journal.sqlite3")) as journal:
            [(owner, until)] = journal.execute("SELECT owner, lease_until FROM task WHERE state = 'processing'")
        parent.communicate(timeout=DEADLINE_SECONDS)
    assert (code, owner.split("/")[-2]) == ("0", pid)
    assert until is not None


def test_ctrl_c_ends_the_wait_and_neither_the_task_nor_the_client(clean_env: dict[str, str], tmp_path: Path) -> None:
    done = python_programs.run(INTERRUPTED, clean_env, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["interrupted processing", "completed"]


def leases(tmp_path: Path) -> list[tuple[str, float]]:
    """The tasks that a process holds, by their keys, and until when."""
    with closing(sqlite3.connect(tmp_path / "home" / "journal.sqlite3")) as journal:
        return journal.execute("SELECT key, lease_until FROM task WHERE lease_until IS NOT NULL").fetchall()


def test_a_detached_client_leaves_its_tasks_to_another_process_at_once(
    clean_env: dict[str, str], tmp_path: Path
) -> None:
    with Sandbox(tmp_path / "runapi", speed=1000, rate=None) as runapi:
        env = clean_env | {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        with Flux2Client(environ=env, detached=True) as detached:
            made = [detached.text_to_image.create(prompt=f"Number {number}") for number in range(3)]
            assert all(task.status in {"pending", "processing"} for task in made)
            until = time.monotonic() + DEADLINE_SECONDS
            while held := leases(tmp_path):  # no process has to wait for one to lapse
                assert time.monotonic() < until, held
            assert not any(task.ended for task in detached.tasks.wait([task.id for task in made], timeout=0.1))
            with Flux2Client(environ=env) as worker:
                worker.tasks.recent()
                ended = detached.tasks.wait([task.id for task in made], timeout=DEADLINE_SECONDS)
                assert all(task.images[0].path for task in ended)
                assert detached.text_to_image.run(prompt="One more", timeout=DEADLINE_SECONDS).images[0].path
        assert runapi.creates() == 4


@pytest.mark.parametrize("seconds", [0.2, *(pytest.param(after, marks=pytest.mark.deep) for after in (0.0, 0.4))])
def test_a_program_that_is_killed_in_run_and_started_again_under_its_key_pays_once(
    seconds: float, clean_env: dict[str, str], tmp_path: Path
) -> None:
    """Fifty random moments: python -m bench.api_kill."""
    with Sandbox(tmp_path / "runapi", speed=50, rate=None) as runapi:
        env = clean_env | {"RUNAPI_API_KEY": runapi.api_key, "RUNAPI_BASE_URL": runapi.base_url}
        path, _ = api_kill.killed_and_again(env, tmp_path, "fox-1", seconds)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert len(runapi.tasks()) == 1
