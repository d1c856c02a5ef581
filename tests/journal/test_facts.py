"""The contract's suite: what servers that share a journal agree on."""

from __future__ import annotations

import anyio
import pytest

from tests.support.journals import Home

pytestmark = pytest.mark.anyio


async def test_a_fact_is_known_to_every_process_and_the_last_that_was_put_holds(home: Home) -> None:
    journal, other = home.journal(), home.journal("b", account="runapi.ai:ba9876543210")
    assert await journal.facts.get("caps") is None
    await journal.facts.put("caps", "first")
    assert (await other.facts.get("caps"), await other.facts.get("store")) == ("first", None)
    await other.facts.put("caps", "second")
    assert await journal.facts.get("caps") == "second"


async def test_of_those_who_settle_a_fact_at_once_one_wins_for_all_and_for_good(home: Home) -> None:
    said: list[str] = []

    async def settle(name: str) -> None:
        said.append(await home.journal(name).facts.settle("store", name))

    async with anyio.create_task_group() as group:
        for name in ("a", "b", "c"):
            group.start_soon(settle, name)
    assert len(set(said)) == 1
    assert await home.journal("d").facts.settle("store", "d") == said[0]
    assert await home.journal("e").facts.get("store") == said[0]
