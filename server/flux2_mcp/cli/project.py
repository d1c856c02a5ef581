"""What the commands over flux2.toml share: finding the project, and how its pictures are listed."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

from flux2_mcp.cli import output
from flux2_mcp.cli.invocation import Invocation
from flux2_mcp.domain.manifest.entries import MANIFEST
from flux2_mcp.domain.manifest.plan import Standing
from flux2_mcp.engine.project import Project
from flux2_mcp.errors import InvalidRequestError, Problem, SettingsError, meant
from flux2_mcp.server.results import plan as results
from flux2_mcp.server.results.plan import PlannedResult
from flux2_mcp.settings import home_of

SOMETHING_TO_DO = 8
"""The exit code if the pictures are not those of the manifest."""
COLORS = {
    Standing.NEW: "green",
    Standing.CHANGED: "yellow",
    Standing.MISSING: "yellow",
    Standing.EDITED: "magenta",
    Standing.MOVED: "cyan",
    Standing.DERIVE: "cyan",
    Standing.UNNAMED: "bright_black",
}
GAP = 2


def find(invocation: Invocation, *, live: bool = False) -> Project:
    """Return the project of the working folder: that of the nearest flux2.toml, here or above it in the same repository."""
    here = Path(invocation.workspace or ".")
    folder = next((each for each in _folders(here) if (each / MANIFEST).is_file()), here)
    home = None
    with suppress(SettingsError):  # without it, files are read each time; a command that needs it says what is wrong
        home = home_of(invocation.env)
    return Project(folder, live=live, home=home)


def _folders(here: Path) -> Sequence[Path]:
    """Return a folder and those above it, up to its repository's. Outside of one, a file above may be a stranger's."""
    above = [here, *here.absolute().parents]
    root = next((number for number, each in enumerate(above) if (each / ".git").exists()), 0)
    return above[: root + 1]


def named(invocation: Invocation, project: Project, paths: tuple[str, ...]) -> list[str]:
    """Return the manifest's names for paths from the working folder.

    Raises:
        InvalidRequestError: A path is outside the project.
    """
    here = Path(invocation.workspace or ".").resolve()
    root = project.folder.resolve()
    found = []
    for path in paths:
        place = here / path
        place = place.parent.resolve() / place.name
        if not place.is_relative_to(root):
            raise InvalidRequestError(Problem(path, f"is outside the project, {root}."))
        found.append(place.relative_to(root).as_posix())
    return found


def refuse_unknown(paths: Collection[str], known: Collection[str], name: str) -> None:
    """Check that these are pictures of the manifest.

    Raises:
        InvalidRequestError: One is not.
    """
    if wrong := [path for path in paths if path not in known]:
        raise InvalidRequestError(*(Problem(path, f"is no picture of {name}{meant(path, known)}.") for path in wrong))


def _price(image: PlannedResult) -> str:
    if image.usd is None or image.kept or image.blocked or image.standing is Standing.UNNAMED:
        return ""
    return output.usd(image.usd) if image.usd else "free"


def table(images: list[PlannedResult]) -> list[str]:
    """Return a line for each picture: how it stands, its path, what is to do about it, what that costs."""
    standing = max((len(image.standing) for image in images), default=0)
    paths = max((len(image.path) for image in images), default=0)
    prices = [_price(image) for image in images]
    width = max(map(len, prices), default=0)
    room = shutil.get_terminal_size().columns - standing - paths - width - 4 * GAP
    lines = []
    for image, price in zip(images, prices, strict=True):
        mark = output.style(image.standing.ljust(standing), fg=COLORS.get(image.standing))
        said = output.own_words(results.about(image))
        about = said if len(said) <= room else ""
        cells = [mark, image.path.ljust(paths), price.rjust(width), about]
        lines.append("  " + "  ".join(cells).rstrip())
        if said != about:
            lines.append(f"{' ' * (standing + 2 * GAP)}{said}")
    return lines
