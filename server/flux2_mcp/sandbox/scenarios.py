"""Scripted outcomes: a marker in the prompt, like `[sandbox:moderation]`, decides the outcome of its task.

`SCENARIOS` is the whole table. Several markers in one prompt add up. Faults come first: each of the first creates (or
polls) answers with the next fault in order; after the last one, the call succeeds.

A task that finishes a picture has no prompt. `[sandbox:upscale_image:moderation]` in a prompt is for the task of that action
that works on the prompt's picture, or on what another such task made of it. A marker without an action is for the task
with the prompt alone, or, behind the `#` of a source's URL, for the task with this source.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from enum import Enum

from msgspec import Struct

RETRY_SECONDS = 2.0
"""`Retry-After` of a scripted 429, in seconds at speed 1."""


class Fault(Enum):
    """An error that one call gets instead of its answer."""

    BUSY = "429, Retry-After in seconds"
    BUSY_UNTIL = "429, Retry-After as an HTTP date"
    UNAVAILABLE = "503"
    PAGE = "502, an HTML page"
    LOST = "the task is made, then the connection is cut without a byte"


class Script(Struct, frozen=True, kw_only=True):
    """The outcome of one task. The defaults describe a task that succeeds.

    `seconds` replaces the random duration (at speed 1; infinity: never ends). `failure` is the error text of its end.
    `refused` answers each create with 402. `first_url_dead` makes the first URL an expired one. `hint` adds
    `Retry-After` to the answer to each poll of an open task. `hybrid` answers the create with 202, and the result with an
    envelope. `replayed` says so when a key is known. `billing` states the money as reservation and settlement, and
    `refunded` gives it back. `words` are RunAPI's other words for the statuses. `refusal` answers each create with 400
    and this `code` at the top of the error.
    """

    creates: tuple[Fault, ...] = ()
    polls: tuple[Fault, ...] = ()
    refused: bool = False
    seconds: float | None = None
    failure: str | None = None
    other_ratio: bool = False
    truncated: bool = False
    first_url_dead: bool = False
    usage: bool = True
    hint: bool = False
    hybrid: bool = False
    replayed: bool = False
    billing: bool = False
    refunded: bool = False
    words: bool = False
    refusal: str | None = None


class Scenario(Struct, frozen=True):
    """One row of the table: the marker's name, its effect in one sentence, and the same effect as data."""

    marker: str
    does: str
    script: Script


MODERATED = "The request was rejected by content moderation."

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("moderation", "The task fails with a moderation error; nothing is charged.", Script(failure=MODERATED)),
    Scenario("insufficient_credits", "Create answers 402, each time.", Script(refused=True)),
    Scenario(
        "rate_limited",
        "The first create answers 429 with Retry-After in seconds; the next passes.",
        Script(creates=(Fault.BUSY,)),
    ),
    Scenario(
        "rate_limited_date",
        "The first create answers 429 with Retry-After as an HTTP date; the next passes.",
        Script(creates=(Fault.BUSY_UNTIL,)),
    ),
    Scenario("create_503", "The first create answers 503; the next passes.", Script(creates=(Fault.UNAVAILABLE,))),
    Scenario("create_html", "The first create answers 502 with an HTML page.", Script(creates=(Fault.PAGE,))),
    Scenario(
        "create_lost",
        "The first create makes the task, then the connection is cut; the same key brings the same task.",
        Script(creates=(Fault.LOST,)),
    ),
    Scenario("poll_503", "The first two polls answer 503.", Script(polls=(Fault.UNAVAILABLE, Fault.UNAVAILABLE))),
    Scenario("poll_html", "The first poll answers 502 with an HTML page.", Script(polls=(Fault.PAGE,))),
    Scenario("poll_retry_after", "Each poll of the open task carries Retry-After.", Script(hint=True)),
    Scenario("instant", "The task is done at once.", Script(seconds=0.0)),
    Scenario("slow", "The task takes 30 seconds.", Script(seconds=30.0)),
    Scenario("stuck", "The task never ends.", Script(seconds=math.inf)),
    Scenario("no_usage", "The completed task says nothing of its cost.", Script(usage=False)),
    Scenario(
        "expired_url",
        "The first result URL has expired (410); asking for the task again gives a working one.",
        Script(first_url_dead=True),
    ),
    Scenario(
        "wrong_ratio",
        "The image has another aspect ratio than asked for; a picture that was to be finished comes back as it was.",
        Script(other_ratio=True),
    ),
    Scenario("corrupt", "The image is a PNG that breaks off, at each fetch.", Script(truncated=True)),
    Scenario(
        "hybrid",
        "Create answers 202 with Location and Retry-After; the result comes in an envelope from there alone.",
        Script(hybrid=True),
    ),
    Scenario(
        "replayed",
        "As create_lost, and the second answer says task_replayed.",
        Script(creates=(Fault.LOST,), replayed=True),
    ),
    Scenario("billing", "The money is told as reservation and settlement, not as usage.", Script(billing=True)),
    Scenario("refunded", "The completed task is refunded: nothing is charged.", Script(billing=True, refunded=True)),
    Scenario("other_words", "Statuses are queued, processing, finished and timeout.", Script(words=True)),
    Scenario(
        "callback_refused",
        "Create answers 400 with the code callback_api_key_unusable beside the error, each time.",
        Script(refusal="callback_api_key_unusable"),
    ),
)

_MARKER = re.compile(r"\[sandbox:([^\[\]]*)\]")
_BY_MARKER = {scenario.marker: scenario for scenario in SCENARIOS}


def markers(text: str, action: str | None = None) -> list[str]:
    """The names of all markers of a text that are for an action, in order, each once; None: those that name no action."""
    found = (marker.rpartition(":") for marker in _MARKER.findall(text))
    return list(dict.fromkeys(name for target, _, name in found if (target or None) == action))


def names_actions(text: str) -> bool:
    """Whether a text has a marker for tasks that work on its picture."""
    return any(":" in marker for marker in _MARKER.findall(text))


def unknown(text: str, actions: Collection[str] = ()) -> list[str]:
    """The markers of a text that are not in the table, or name none of these actions."""
    found = ((marker, *marker.rpartition(":")) for marker in dict.fromkeys(_MARKER.findall(text)))
    return [marker for marker, target, _, name in found if name not in _BY_MARKER or (target and target not in actions)]


def read(prompt: str, action: str | None = None) -> Script:
    """The script of a prompt whose markers are all known; without markers, a task that succeeds.

    `action` is that of a task that works on the prompt's picture; None: the task has the prompt.
    """
    return _together([_BY_MARKER[marker].script for marker in markers(prompt, action)])


def added(one: Script, other: Script) -> Script:
    """Two scripts as one."""
    return _together([one, other])


def _together(scripts: Iterable[Script]) -> Script:
    """One script from several: faults follow each other, the longest duration counts, all other effects add up."""
    scripts = list(scripts)
    return Script(
        creates=tuple(fault for script in scripts for fault in script.creates),
        polls=tuple(fault for script in scripts for fault in script.polls),
        refused=any(script.refused for script in scripts),
        seconds=max((script.seconds for script in scripts if script.seconds is not None), default=None),
        failure=next((script.failure for script in scripts if script.failure), None),
        other_ratio=any(script.other_ratio for script in scripts),
        truncated=any(script.truncated for script in scripts),
        first_url_dead=any(script.first_url_dead for script in scripts),
        usage=all(script.usage for script in scripts),
        hint=any(script.hint for script in scripts),
        hybrid=any(script.hybrid for script in scripts),
        replayed=any(script.replayed for script in scripts),
        billing=any(script.billing for script in scripts),
        refunded=any(script.refunded for script in scripts),
        words=any(script.words for script in scripts),
        refusal=next((script.refusal for script in scripts if script.refusal), None),
    )
