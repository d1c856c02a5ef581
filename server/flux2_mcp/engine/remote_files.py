"""Files of callers on other machines: how they bring a source and fetch an image, where a path would do on this one."""

from __future__ import annotations

import shlex

from msgspec import Struct

from flux2_mcp.errors import Wording

UPLOAD, FOLDER = "upload:", "/uploads"
BY_WORDS = "Leave it out, and look by query, since or status."
FAR_FOLDER = f"is a folder, and this server is on another machine. {BY_WORDS}"


class RemoteFiles(Struct, frozen=True):
    """The commands that a caller runs on their own machine. `base` is the address of this server."""

    base: str

    def bringing(self, path: str) -> str:
        """Return what to do in the place of a path as a source: the end of a sentence, and a sentence."""
        command = f"curl -H 'Authorization: Bearer TOKEN' --data-binary {shlex.quote(f'@{path}')} {self.base}{FOLDER}"
        return (
            "is a path, and this server is on another machine. Upload the file with the token of this server, then give the"
            f" upload:ID of the answer in its place: {command}"
        )

    def looking_up(self, path: str) -> str:
        """Return what to do in the place of a file whose task is looked for: the end of a sentence, and a sentence."""
        command = f"flux2-mcp tasks --file {shlex.quote(path)}"
        return f"is a path, and this server is on another machine. {BY_WORDS} What flux2-mcp there has made, it finds: {command}"

    def fetching(self, place: str) -> str:
        """Return what to do in the place of `save_to`."""
        file = shlex.quote(f"{place}image.png" if place.endswith("/") else place)
        return Wording(
            "leave it out: this server is on another machine. Then fetch the image there, by the url of the answer:"
            " curl -o {file} URL",
            file=file,
        )
