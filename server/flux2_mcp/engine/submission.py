"""What a call asks for, on its way from the caller's words to the journal's intents. Pure but for a look at the workspace."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from flux2_mcp.domain.models import ImageRequest, Save
from flux2_mcp.engine.source_images import SourceSet
from flux2_mcp.errors import InvalidRequestError, Problem, Wording
from flux2_mcp.images.names import targets
from flux2_mcp.images.workspace import NO_WORKSPACE, check, inside
from flux2_mcp.runapi.exchange import sendable
from flux2_mcp.runapi.wire import MAX_ID_CHARS


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A validated request whose sources were looked at and not sent yet."""

    request: ImageRequest
    found: tuple[SourceSet, ...] = ()


def keys(given: str | None, count: int) -> list[str]:
    """The idempotency key of each task of a call: the caller's own, from the second on numbered, or new ones.

    So a call for more images under the same key has those of the call before.

    Raises:
        InvalidRequestError: RunAPI would never take it.
    """
    if given is None:
        return [str(uuid.uuid4()) for _ in range(count)]
    found = [given, *(f"{given}-{number}" for number in range(2, count + 1))]
    if not all(sendable(key) and len(key) <= MAX_ID_CHARS for key in found):
        raise InvalidRequestError(
            Problem("idempotency_key", f"must be 1 to {MAX_ID_CHARS - 2} printable ASCII characters.")
        )
    return found


def numbered_first(given: str) -> str:
    """What earlier versions called the first task of a call for several images under a caller's own key."""
    return f"{given}-1"


@dataclass(frozen=True, slots=True)
class SavePlan:
    """Where in the workspace the images of a call go, one for each task; None: nowhere.

    `hindrance` says what stands in the way now.
    """

    workspace: Path | None
    saves: tuple[Save | None, ...]

    def hindrance(self) -> InvalidRequestError | None:
        """What stands in the way of putting them there; None where nothing does. Looks at the disk."""
        try:
            for save in self.saves:
                if save is not None and self.workspace is not None:
                    check(self.workspace, save)
        except InvalidRequestError as exc:
            return exc
        return None


def saving(save_to: str | None, count: int, workspace: Path | None, *, overwrite: bool) -> SavePlan:
    """Where the images of a call go. Of the disk it looks at links alone.

    Raises:
        InvalidRequestError: That can't be said, or is no place below the workspace.
    """
    if save_to is None:
        if overwrite:
            raise InvalidRequestError(Problem("overwrite", Wording("goes with {name:save_to} only.")))
        return SavePlan(workspace, (None,) * count)
    if workspace is None:
        raise InvalidRequestError(Problem("save_to", NO_WORKSPACE))
    return SavePlan(workspace, tuple(Save(target, overwrite) for target in targets(inside(workspace, save_to), count)))
