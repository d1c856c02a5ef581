"""What a team's audit records: who did what, when, from where, and which cap refused it. Pure; loaded where a team calls.

No entry has a prompt, a path or a token.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from msgspec import Struct

MAX_CLIENT_CHARS = 64
MAX_ADDRESS_CHARS = 64


class What(StrEnum):
    """What was done. The names stand in journals: never change one."""

    GENERATE = "generate"
    """A task was asked for: its price is reserved."""
    STEP = "step"
    """The turn of a later step has come, after the picture that it works on is there."""
    IMAGE = "image"
    """The bytes of an image were given out, whole or small."""
    TASK = "task"
    """A task of another person was shown by its id, or its image was taken as a source."""
    LIST = "list"
    """A list of tasks was shown."""
    CAPS = "caps"
    """A person got caps of their own, or lost them: see `AuditEntry.cap`."""
    TOKEN = "token"  # noqa: S105  # a word
    """A personal token was made for a person."""
    REVOKE = "revoke"
    """A personal token of a person was taken back."""


class AuditEntry(Struct, frozen=True, kw_only=True):
    """One entry.

    Attributes:
        at: When, in UTC.
        what: A `What`; or what a later version has written.
        person: Who, by `Person.key`; None: this machine, by a command; of `IMAGE`, whoever had a link to it.
        client: The name and version of the client, as it says itself.
        address: The address of the caller.
        whose: Whose task was shown, or whose caps or tokens were changed, if that is another person than `person`.
        task: The key of the task.
        usd: What was reserved for the task, or would have been; of `CAPS`, the new cap (None: everybody's).
        allowed: False: it was refused.
        cap: The variable of the cap that refused it, or that was changed.
    """

    at: datetime
    what: str
    person: str | None = None
    client: str | None = None
    address: str | None = None
    whose: str | None = None
    task: str | None = None
    usd: Decimal | None = None
    allowed: bool = True
    cap: str | None = None


class AuditFilter(Struct, frozen=True, kw_only=True):
    """Which entries are wanted. None: any.

    Attributes:
        since: Those since then.
        person: What this person has done, and what others have done with their tasks and caps.
        task: Those of the task with this key.
        refused: Only what was refused.
    """

    since: datetime | None = None
    person: str | None = None
    task: str | None = None
    refused: bool = False


def printable(text: str | None, most: int) -> str | None:
    """Return a text from the network as it may be stored and shown: one line, no steering characters, cut; None if nothing is left.

    Half of a surrogate pair is no printable character either: no database could store it.
    """
    if text is None:
        return None
    kept = "".join(each for each in " ".join(text[: 4 * most].split()) if each.isprintable())
    return kept[:most].strip() or None
