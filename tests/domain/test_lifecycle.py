from __future__ import annotations

import itertools

import pytest

from flux2_mcp.domain import lifecycle
from flux2_mcp.domain.lifecycle import EVENT_OF_STATUS, TABLE, Event, IllegalTransitionError, State, after
from flux2_mcp.domain.models import Status
from flux2_mcp.errors import Flux2Error
from tests.support.rows import each_row

# The whole life of a task, written once more by hand: state, event, state that follows. What is not here is illegal.
LEGAL = """
    intent      accepted   submitted
    intent      refused    rejected
    intent      expired    unknown
    submitted   pending    submitted
    submitted   processing processing
    submitted   completed  completed
    submitted   failed     failed
    submitted   vanished   unknown
    processing  pending    processing
    processing  processing processing
    processing  completed  completed
    processing  failed     failed
    processing  vanished   unknown
    completed   completed  completed
    completed   delivered  delivered
    completed   expired    undelivered
    delivered   completed  delivered
    delivered   delivered  delivered
    failed      failed     failed
    undelivered completed  completed
"""
STEPS = {
    (State(state), Event(event)): State(then)
    for state, event, then in (line.split() for line in LEGAL.split("\n")[1:-1])
}


def test_a_step_is_legal_as_the_table_says_or_raises_and_changes_nothing() -> None:
    before = {state: dict(steps) for state, steps in TABLE.items()}
    with each_row() as row:
        for state, event in itertools.product(State, Event):
            with row((state, event)):
                if then := STEPS.get((state, event)):
                    assert after(state, event) is then
                    continue
                with pytest.raises(IllegalTransitionError) as caught:
                    after(state, event)
                assert (caught.value.state, caught.value.event) == (state, event)
                assert caught.value.message == f"A task in state {state} can't be {event}."
                assert caught.value.cost == "The journal is unchanged."
                assert isinstance(caught.value, Flux2Error)
                assert not caught.value.retryable
    assert {state: dict(steps) for state, steps in TABLE.items()} == before
    assert set(TABLE) == set(State)


def test_every_state_is_reached_from_intent() -> None:
    reached = {State.INTENT}
    while more := {then for (state, _), then in STEPS.items() if state in reached} - reached:
        reached |= more
    assert reached == set(State)


def test_what_has_ended_stays_ended_but_for_an_image_whose_url_lives_again() -> None:
    left = {state: {then for (before, _), then in STEPS.items() if before is state} - {state} for state in State}
    assert {state for state in State if not left[state]} == {
        *(State.DELIVERED, State.FAILED, State.REJECTED, State.UNKNOWN),
    }
    assert left[State.UNDELIVERED] == {State.COMPLETED}


def test_unfinished_is_what_still_has_to_be_sent_asked_or_fetched() -> None:
    assert {state for state in State if state.unfinished} == {
        *(State.INTENT, State.SUBMITTED, State.PROCESSING, State.COMPLETED),
    }


def test_every_unfinished_state_can_come_to_an_end() -> None:
    ends = {state for state in State if not state.unfinished}
    for state in lifecycle.UNFINISHED:
        ahead = {state}
        while more := {then for (before, _), then in STEPS.items() if before in ahead} - ahead:
            ahead |= more
        assert ahead & ends, state


def test_every_status_that_runapi_may_say_of_an_open_task_has_a_step() -> None:
    for state, status in itertools.product([State.SUBMITTED, State.PROCESSING], Status):
        then = after(state, EVENT_OF_STATUS[status])
        assert then.unfinished or status is Status.FAILED


def test_a_word_that_runapi_never_promised_changes_nothing_and_is_no_success() -> None:
    for state in (State.SUBMITTED, State.PROCESSING):
        assert after(state, EVENT_OF_STATUS[Status.UNKNOWN]) is state
