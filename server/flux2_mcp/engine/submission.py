"""From a caller's arguments to the intents of the journal: keys and places to save. Reads only the workspace."""

from __future__ import annotations

import hashlib
import uuid
from decimal import Decimal
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain.models import ImageRequest, Save, SourceImage
from flux2_mcp.engine.source_images import SourceSet
from flux2_mcp.errors import InvalidRequestError, Problem, Wording
from flux2_mcp.journal.records import digests
from flux2_mcp.runapi.exchange import sendable
from flux2_mcp.runapi.wire import MAX_ID_CHARS

OWN_KEY_CHARS = 40


class CheckedRequest(Struct, frozen=True):
    """A validated request for a picture. Its sources were checked, and not sent yet.

    `finish` has the steps after the first: each works on the image of the one before.
    """

    request: ImageRequest
    found: tuple[SourceSet, ...] = ()
    finish: tuple[ImageRequest, ...] = ()

    @property
    def steps(self) -> tuple[ImageRequest, ...]:
        """The requests for one picture, first to last."""
        return self.request, *self.finish

    @property
    def digests(self) -> list[str]:
        """The digest of each step in the journal, as far as it is known before the sources are sent."""
        sources = tuple(SourceImage(given=each.shown, identity=each.identity) for each in self.found)
        return digests((replace(self.request, sources=sources), *self.finish))


class Terms(Struct, frozen=True, kw_only=True):
    """What a call wants beside its request, as `generate` has it. They are checked together with the request."""

    count: int = 1
    save_to: str | None = None
    overwrite: bool = False
    max_cost_usd: Decimal | None = None
    idempotency_key: str | None = None


def keys(given: str | None, count: int, steps: int = 1) -> list[str]:
    """Return an idempotency key for each picture of a call: the caller's key, numbered from the second on, or new keys.

    It is the key of the picture's first task; the keys of its other steps follow from it.

    So a later call for more images under the same key includes the tasks of the first call.

    Raises:
        InvalidRequestError: RunAPI does not accept such a key.
    """
    if given is None:
        return [str(uuid.uuid4()) for _ in range(count)]
    numbered = [given, *(f"{given}-{number}" for number in range(2, count + 1))]
    longest = MAX_ID_CHARS - len(following("", steps - 1))
    if not all(sendable(key) and len(key) <= longest for key in numbered):
        most = longest - len(numbered[-1].removeprefix(given))
        raise InvalidRequestError(Problem("idempotency_key", f"must be 1 to {most} printable ASCII characters."))
    return numbered


def own(given: str | None, person: str | None) -> str | None:
    """Return the key under which a person's own idempotency key is recorded and sent: two people may choose the same.

    Args:
        given: The person's key, or None.
        person: See `Intent.person`; None: the key stays as it is.

    Raises:
        InvalidRequestError: RunAPI does not accept such a key.
    """
    if given is None or person is None:
        return given
    keys(given, 1)
    return _own(given, person)


def names(ident: str, person: str | None) -> list[str]:
    """Return what a caller may mean by the name of a task: an id or a key of ours, or the person's own key."""
    return [ident] if person is None else [ident, _own(ident, person)]


def _own(given: str, person: str) -> str:
    return hashlib.sha256(f"{person} {given}".encode(errors="surrogatepass")).hexdigest()[:OWN_KEY_CHARS]


def following(key: str, later: int, *, number: int = 1) -> str:
    """Return the key of the task that follows the one with `key`, or of one some steps later.

    Args:
        key: The key of the task whose image it works on.
        later: How many steps later.
        number: Its place among the tasks that followed that one: an earlier one may have failed.
    """
    return key if later == 0 else f"{key}.{number}{'.1' * (later - 1)}"


def followed(key: str) -> str:
    """Return the key of the task that the one with `key` follows; `key` is from `following`."""
    return key.rpartition(".")[0]


def numbered_first(given: str) -> str:
    """Return the key that earlier versions gave to the first task of a call for several images."""
    return f"{given}-1"


class SavePlan(Struct, frozen=True):
    """The places in the workspace for the images of a call, one for each task; None: no copy is saved."""

    workspace: Path | None
    saves: tuple[Save | None, ...]

    def hindrance(self) -> InvalidRequestError | None:
        """Return the error that saving the images would meet now; None if there is none. Reads the disk."""
        if self.workspace is None or not any(self.saves):
            return None
        from flux2_mcp.images.workspace import check

        try:
            for save in self.saves:
                if save is not None:
                    check(self.workspace, save)
        except InvalidRequestError as exc:
            return exc
        return None


def saving(save_to: str | None, count: int, workspace: Path | None, *, overwrite: bool) -> SavePlan:
    """Plan where the images of a call are saved. Of the disk, it reads only symbolic links.

    Raises:
        InvalidRequestError: There is no workspace, the place is not inside it, or `overwrite` comes without `save_to`.
    """
    if save_to is None:
        if overwrite:
            raise InvalidRequestError(Problem("overwrite", Wording("goes with {name:save_to} only.")))
        return SavePlan(workspace, (None,) * count)
    from flux2_mcp.images.names import targets
    from flux2_mcp.images.workspace import NO_WORKSPACE, inside

    if workspace is None:
        raise InvalidRequestError(Problem("save_to", NO_WORKSPACE))
    return SavePlan(workspace, tuple(Save(target, overwrite) for target in targets(inside(workspace, save_to), count)))
