"""Takes a picture that is there into a project's manifest and lock, so that a chat becomes code. It costs nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread
from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.domain import catalog, sources
from flux2_mcp.domain.manifest import digests, reading
from flux2_mcp.domain.manifest.entries import SETTINGS, Entry, Manifest, quoted
from flux2_mcp.domain.manifest.lock import LockedImage
from flux2_mcp.domain.manifest.plan import contents_of
from flux2_mcp.domain.models import MAKING, SourceImage
from flux2_mcp.domain.sources import UnreadableError
from flux2_mcp.engine.project import Project
from flux2_mcp.engine.seam import Seam
from flux2_mcp.errors import InvalidRequestError, Problem, Wording
from flux2_mcp.images.upright import upright
from flux2_mcp.journal.records import TaskFilter, TaskRecord

UNKNOWN = (
    "is made by no task that the journal of this machine knows, so its prompt is not known. Write its entry by hand."
)
NO_FILE = "is not there, or is no plain file in the project."


class Adopted(Struct, frozen=True, kw_only=True):
    """What was taken: the picture's path, and the text that was added to the manifest; "" if it had an entry."""

    path: str
    added: str = ""


class Adoption:
    """Takes pictures into a project.

    Args:
        seam: The journal; whether the sandbox draws the pictures.
    """

    def __init__(self, seam: Seam) -> None:
        self._journal = seam.journal
        self._sandbox = seam.backend.sandbox

    async def adopt(self, project: Project, path: str) -> Adopted:
        """Write an entry for a picture that the journal knows by its content; or accept the file of one that has an entry.

        Args:
            project: The project; a manifest is made if it has none.
            path: The picture, relative to the project.

        Raises:
            InvalidRequestError: There is no such picture, or no task is known that made it, or a source of it is lost.
            ManifestError: The manifest can't be used.
        """
        data = await anyio.to_thread.run_sync(project.bytes_of, path)
        if data is None:
            raise InvalidRequestError(Problem(path, NO_FILE))
        sha256 = hashlib.sha256(data).hexdigest()
        found = (
            await self._journal.tasks.recent(limit=1, wanted=TaskFilter(sha256=sha256))
            if self._journal.was_made
            else ()
        )
        record = next(iter(found), None)
        text = await anyio.to_thread.run_sync(project.text)
        made = reading.read(text.encode()) if text else None
        if made is not None and path in made.entries:
            await self._accept(project, made, made.entries[path], data, record)
            return Adopted(path=path)
        if record is None:
            raise InvalidRequestError(Problem(path, UNKNOWN))
        chain = await self._journal.tasks.led_to([record])
        added = self._entry(project, path, chain, styled=made is not None and made.style.prompt is not None)
        whole = _appended(text, added)
        made = reading.read(whole.encode(), name=project.name)
        await self._accept(project, made, made.entries[path], data, record, write=whole)
        return Adopted(path=path, added=added)

    async def _accept(
        self,
        project: Project,
        made: Manifest,
        entry: Entry,
        data: bytes,
        record: TaskRecord | None,
        *,
        write: str | None = None,
    ) -> None:
        """Note that a file is the one that its entry asks for."""
        wanted = [source for source in made.sources(entry) if "://" not in source]
        disk = await anyio.to_thread.run_sync(project.contents, made, wanted)
        contents = contents_of(made, entry, disk)
        if contents is None:
            raise InvalidRequestError(Problem(made.at((*entry.toml, "sources")), "a source is not there."))
        parts = digests.parts(made, entry, contents)
        picture = await anyio.to_thread.run_sync(_decoded, entry.path, data)
        old = await anyio.to_thread.run_sync(project.locked, entry.path)
        chain = await self._journal.tasks.led_to([record]) if record is not None else ()
        fresh = LockedImage(
            path=entry.path,
            request=digests.request(parts),
            parts={name: each[: digests.PART_DIGITS] for name, each in parts.items()},
            model="+".join(each.request.model for each in chain) or (old.model if old else "by-hand"),
            task=(record.task_id or record.key) if record is not None else old.task if old else "",
            charged_usd="",
            sha256=hashlib.sha256(data).hexdigest(),
            size=picture,
            sandbox=self._sandbox and record is not None,
        )
        if old is not None:
            fresh = replace(
                fresh, charged_usd=old.charged_usd, sandbox=old.sandbox if record is None else fresh.sandbox
            )
        if write is not None:
            await anyio.to_thread.run_sync(project.write, write)
        await anyio.to_thread.run_sync(project.note, fresh)

    def _entry(self, project: Project, path: str, chain: Sequence[TaskRecord], *, styled: bool) -> str:
        """Return the text of an entry that asks for what these tasks made."""
        first = chain[0].request
        values: dict[str, object] = {}
        if first.action in MAKING:
            values["prompt"] = first.prompt
            values |= {name: value for name in SETTINGS if (value := getattr(first, name, None)) is not None}
        if values.get("variant") == catalog.DEFAULT_VARIANT:
            del values["variant"]
        for record in chain:
            model = catalog.finishers().get(record.request.model)
            if model is not None and model.argument is not None:
                values[model.argument] = model.value or record.request.upscale_factor
        if first.sources or first.source_image_urls:
            values["sources"] = [_source(project, path, source) for source in first.sources]
            if not first.sources:
                raise InvalidRequestError(
                    Problem(path, "was made from a source of which nothing is known. Write its entry by hand.")
                )
            if values.get("aspect_ratio") == catalog.AUTO:
                del values["aspect_ratio"]
        if styled and "prompt" in values:
            values["style"] = False  # what was asked for is all in the prompt
        lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
        return "\n".join([f"[images.{quoted(path)}]", *lines, ""])


def _source(project: Project, path: str, source: SourceImage) -> str:
    """Return how a manifest names a source.

    Raises:
        InvalidRequestError: It is no file of the project, or that file is another one now.
    """
    kind, _, sha256 = source.identity.partition(":")
    if kind == "https":
        return source.identity
    given = Path(source.given)
    if kind == "sha256" and sources.is_local(source.given):
        root = project.folder.resolve()
        for place in (given, root / given):
            if place.is_absolute() and place.is_relative_to(root):
                relative = place.relative_to(root).as_posix()
                if hashlib.sha256(project.bytes_of(relative) or b"").hexdigest() == sha256:
                    return relative
    text = Wording(
        "was made from {source}, which is not in the project as it was. Put it there, and write the entry by hand.",
        source=source.given,
    )
    raise InvalidRequestError(Problem(path, text))


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return quoted(value) if isinstance(value, str) else str(value)


def _appended(text: str, entry: str) -> str:
    """Return a text with an entry at its end, in its own kind of lines. All that was there stays as it is."""
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = "" if not text else newline if text.endswith("\n") else newline * 2
    return text + gap + entry.replace("\n", newline)


def _decoded(path: str, data: bytes) -> tuple[int, int]:
    try:
        picture = upright(data)
    except UnreadableError as exc:
        raise InvalidRequestError(Problem(path, exc.message)) from exc
    return picture.width, picture.height
