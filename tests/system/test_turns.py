"""Turns: few at once, and of those who wait each person comes after one of another's, whatever they ask for."""

from __future__ import annotations

import threading
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from flux2_mcp.system.turns import Turns
from tests.support.stdio import DEADLINE

pytestmark = pytest.mark.anyio


async def test_people_are_served_in_turn_and_not_their_calls() -> None:
    turns, served = Turns(1, 1), list[str]()

    async def wait(name: str) -> None:
        async with turns.one(name):
            served.append(name)

    with anyio.fail_after(DEADLINE):
        end = await turns.take("ada")
        async with anyio.create_task_group() as group:
            for name in ("ada", "ada", "ada", "ben", "ben", "zoe"):
                group.start_soon(wait, name)
                await anyio.wait_all_tasks_blocked()
            assert (turns.under_way, turns.waiting) == (1, 6)
            end()
    assert served == ["ada", "ben", "zoe", "ada", "ben", "ada"]
    assert (turns.under_way, turns.waiting) == (0, 0)


async def test_one_person_has_so_many_at_once_and_all_have_so_many() -> None:
    turns = Turns(2, 3)
    with anyio.fail_after(DEADLINE):
        ends = [await turns.take("ada"), await turns.take("ada")]
        async with anyio.create_task_group() as group:
            for name in ("ada", "ben", "zoe"):
                group.start_soon(turns.take, name)
            await anyio.wait_all_tasks_blocked()
            assert (turns.under_way, turns.waiting) == (3, 2)  # Ben has one; there is none left for Zoe
            ends.pop()()
            await anyio.wait_all_tasks_blocked()
            assert (turns.under_way, turns.waiting) == (3, 1)
            ends.pop()()
    assert (turns.under_way, turns.waiting) == (3, 0)


async def test_who_is_gone_leaves_the_line_and_nothing_of_theirs_is_begun() -> None:
    turns, begun = Turns(1, 2), list[str]()
    release = threading.Event()
    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(turns.run, "ada", partial(release.wait, DEADLINE))
            await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as gone:
                for _ in range(3):
                    gone.start_soon(turns.run, "ada", partial(begun.append, "ada"))
                await anyio.wait_all_tasks_blocked()
                assert turns.waiting == 3
                gone.cancel_scope.cancel()
            assert (turns.under_way, turns.waiting) == (1, 0)
            release.set()
        assert await turns.run("ada", lambda: "free again") == "free again"
    assert begun == []


async def test_a_turn_that_is_given_in_the_moment_in_which_its_caller_goes_is_given_on() -> None:
    turns = Turns(1, 1)
    with anyio.fail_after(DEADLINE):
        end = await turns.take("ada")
        async with anyio.create_task_group() as group:
            group.start_soon(turns.take, "ben")
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
            end()  # Ben's call does not know yet that it is cancelled, and gets the turn
        (await turns.take("zoe"))()
    assert turns.under_way == 0


async def test_what_has_begun_keeps_its_turn_until_its_thread_has_ended() -> None:
    """A caller who goes away would otherwise have as many threads at work as they like."""
    turns, begun, release = Turns(1, 2), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait(DEADLINE)

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(turns.run, "ada", work)
            await anyio.to_thread.run_sync(begun.wait, DEADLINE)
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
                assert turns.under_way == 1
                release.set()
    assert turns.under_way == 0


async def test_however_much_is_waited_for_the_threads_of_all_others_are_free() -> None:
    turns, release, done = Turns(100, 100), threading.Event(), list[bool]()

    async def wait() -> None:
        done.append(await turns.run("ada", partial(release.wait, DEADLINE)))

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            for _ in range(60):
                group.start_soon(wait)
            while turns.under_way < 60:
                await anyio.lowlevel.checkpoint()
            await anyio.to_thread.run_sync(release.set)
    assert done == [True] * 60
