"""Pieces of SQL that several parts of the journal share. States come from `domain.lifecycle`; migrations stay literal."""

from __future__ import annotations

from collections.abc import Collection

from flux2_mcp.domain import lifecycle
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.journal.sqlite import task_rows


def among(states: Collection[State]) -> str:
    """SQL for a task in one of these states, in the order in which the lifecycle names them."""
    named = ", ".join(f"'{state}'" for state in State if state in states)
    return f"state IN ({named})"


OPEN = "task INDEXED BY task_unfinished"
"""The table where only unfinished tasks are asked for. All indices begin with the account, and without statistics SQLite
takes any of them; so a journal of years would be read whole for the few that are open."""
IS_OPEN = among(lifecycle.UNFINISHED)
"""As `task_unfinished` says it, word for word: else that index does not serve."""
UNFINISHED = f"account = :account AND {IS_OPEN}"
UNDER_WAY = f"{UNFINISHED} AND ({among(lifecycle.AT_RUNAPI)} OR ({among({State.INTENT})} AND sent_at IS NOT NULL))"
UNHELD = "lease_until IS NULL OR lease_until NOT BETWEEN :now AND :until"
"""No process that is heard of holds it."""
IS_UNPAID = among(lifecycle.UNPAID)
SAME_MONEY = "(account = 'sandbox') = :sandbox"
"""The accounts that spend the same money: all of a home, whatever key or spelling of the host; the sandbox spends none."""
COUNTED = f"coalesce({', '.join(map(task_rows.amount, ('charged', 'reserved', 'quoted')))})"
"""What a task counts against the caps, in millionths of a US dollar."""
