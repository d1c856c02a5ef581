"""Pieces of SQL that several parts of the journal share. States come from `domain.lifecycle`; migrations name them."""

from __future__ import annotations

from collections.abc import Collection

from flux2_mcp.domain import lifecycle
from flux2_mcp.domain.lifecycle import State
from flux2_mcp.journal.sql import task_rows
from flux2_mcp.journal.sqlite import glance


def among(states: Collection[State]) -> str:
    """SQL for a task in one of these states, in the order in which the lifecycle names them."""
    named = ", ".join(f"'{state}'" for state in State if state in states)
    return f"state IN ({named})"


OPEN, IS_OPEN, UNHELD = glance.OPEN, glance.IS_OPEN, glance.UNHELD
UNFINISHED = f"account = :account AND {IS_OPEN}"
UNDER_WAY = f"{UNFINISHED} AND ({among(lifecycle.AT_RUNAPI)} OR ({among({State.INTENT})} AND sent_at IS NOT NULL))"
IS_UNPAID = among(lifecycle.UNPAID)
SAME_MONEY = "(account = 'sandbox') = :sandbox"
"""The accounts whose money is counted together: all of a home, whatever their key and service; the sandbox's apart."""
COUNTED = f"coalesce({', '.join(map(task_rows.amount, ('charged', 'reserved', 'quoted')))})"
"""The money that a task counts against the caps, in millionths of a US dollar."""
