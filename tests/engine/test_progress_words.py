"""How a call stands, in the words of its progress."""

from __future__ import annotations

import pytest

from flux2_mcp.domain.lifecycle import State
from flux2_mcp.server.tools.context import standing

DONE, OPEN = State.DELIVERED, State.PROCESSING


@pytest.mark.parametrize(
    ("states", "remaining", "words"),
    [
        ([OPEN], None, "0 of 1 done after 7 s"),
        ([OPEN, State.COMPLETED, DONE, State.FAILED], 4.4, "2 of 4 done after 7 s, about 4 s left"),
        ([OPEN], 0.2, "0 of 1 done after 7 s, about 1 s left"),
    ],
)
def test_what_is_done_is_counted_and_what_is_left_is_never_nothing(
    states: list[State], remaining: float | None, words: str
) -> None:
    assert standing(states, 7.2, remaining) == words
