"""The life of a task, as one table. Pure: an illegal step raises and changes nothing.

    INTENT ──accepted──> SUBMITTED ──processing──> PROCESSING ──completed──> COMPLETED ──delivered──> DELIVERED
      │                      └────────────┬────────────┘                         (images on disk, checked)
      ├──refused──> REJECTED              └──failed──> FAILED             └──expired──> UNDELIVERED
      └──expired──> UNKNOWN <──vanished── SUBMITTED, PROCESSING

INTENT is written before the first byte is sent. UNKNOWN is never sent again, since it may have been paid for.
DELIVERED means that the images are on disk, checked; UNDELIVERED that they could not be fetched while their URLs were
valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Literal

from flux2_mcp.domain.models import Status
from flux2_mcp.errors import Flux2Error

RESULT_LIFETIME = timedelta(days=7)
"""The longest time for which result URLs are valid (`api/flux-2.json`, result_url_lifetime_days)."""


class State(StrEnum):
    """A task's state in the journal."""

    INTENT = "intent"
    SUBMITTED = "submitted"
    PROCESSING = "processing"
    COMPLETED = "completed"
    DELIVERED = "delivered"
    FAILED = "failed"
    REJECTED = "rejected"
    UNDELIVERED = "undelivered"
    UNKNOWN = "unknown"

    @property
    def unfinished(self) -> bool:
        """True while there is work left to do."""
        return self in UNFINISHED


class Event(StrEnum):
    """What can happen to a task."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    EXPIRED = "expired"
    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    VANISHED = "vanished"
    DELIVERED = "delivered"


UNFINISHED = frozenset({State.INTENT, State.SUBMITTED, State.PROCESSING, State.COMPLETED})
"""States in which there is work left to do: to send, to poll, or to fetch."""
BEFORE_RESULT = frozenset({State.INTENT, State.SUBMITTED, State.PROCESSING})
"""States in which RunAPI has not made the image yet, as far as is known."""
AT_RUNAPI = frozenset({State.SUBMITTED, State.PROCESSING})
"""States in which RunAPI works on the task, so it is polled."""
MADE = frozenset({State.COMPLETED, State.DELIVERED})
UNPAID = frozenset({State.FAILED, State.REJECTED})
"""States in which the task has ended and costs nothing."""

TaskStatus = Literal["submitting", "pending", "processing", "completed", "failed", "unknown"]
"""RunAPI's words, and two of ours. "submitting": RunAPI has not answered yet. "unknown": nobody can say any more."""
STATUSES: Mapping[State, TaskStatus] = {
    State.INTENT: "submitting",
    State.SUBMITTED: "pending",
    State.PROCESSING: "processing",
    State.COMPLETED: "completed",
    State.DELIVERED: "completed",
    State.UNDELIVERED: "completed",
    State.FAILED: "failed",
    State.REJECTED: "failed",
    State.UNKNOWN: "unknown",
}
"""The word for each state, as every face says it."""

TABLE: Mapping[State, Mapping[Event, State]] = {
    State.INTENT: {
        Event.ACCEPTED: State.SUBMITTED,
        Event.REFUSED: State.REJECTED,
        Event.EXPIRED: State.UNKNOWN,
    },
    State.SUBMITTED: {
        Event.PENDING: State.SUBMITTED,
        Event.PROCESSING: State.PROCESSING,
        Event.COMPLETED: State.COMPLETED,
        Event.FAILED: State.FAILED,
        Event.VANISHED: State.UNKNOWN,
    },
    State.PROCESSING: {
        Event.PENDING: State.PROCESSING,
        Event.PROCESSING: State.PROCESSING,
        Event.COMPLETED: State.COMPLETED,
        Event.FAILED: State.FAILED,
        Event.VANISHED: State.UNKNOWN,
    },
    # A completed task may be polled again to refresh its URLs; it stays completed.
    State.COMPLETED: {
        Event.COMPLETED: State.COMPLETED,
        Event.DELIVERED: State.DELIVERED,
        Event.EXPIRED: State.UNDELIVERED,
    },
    State.DELIVERED: {Event.COMPLETED: State.DELIVERED, Event.DELIVERED: State.DELIVERED},
    State.FAILED: {Event.FAILED: State.FAILED},
    State.REJECTED: {},
    State.UNDELIVERED: {Event.COMPLETED: State.COMPLETED},
    State.UNKNOWN: {},
}

EVENT_OF_STATUS: Mapping[Status, Event] = {
    Status.PENDING: Event.PENDING,
    Status.PROCESSING: Event.PROCESSING,
    Status.COMPLETED: Event.COMPLETED,
    Status.FAILED: Event.FAILED,
    # RunAPI never documented this status: it is neither success nor failure, so the task goes on.
    Status.UNKNOWN: Event.PENDING,
}


class IllegalTransitionError(Flux2Error):
    """The event can't happen to a task in this state: a bug of ours, or two processes that wrote at once."""

    code = "illegal_transition"

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"A task in state {state} can't be {event}.", cost="The journal is unchanged.")
        self.state = state
        self.event = event


def after(state: State, event: Event) -> State:
    """The state that follows an event.

    Raises:
        IllegalTransitionError: The table has no such step.
    """
    try:
        return TABLE[state][event]
    except KeyError:
        raise IllegalTransitionError(state, event) from None
