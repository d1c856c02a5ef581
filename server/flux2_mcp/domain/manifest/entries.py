"""What flux2.toml holds: a style, and one entry for each picture."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import RequestArgs
from flux2_mcp.domain.toml_places import Place, Places, TomlPath
from flux2_mcp.domain.urls import is_url

MANIFEST, LOCK = "flux2.toml", "flux2.lock"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""The suffixes of originals: what images are saved as."""
FORMATS = ("avif", "webp", "png", "jpeg")
"""What an original can be converted to beside it."""
SETTINGS = ("variant", "aspect_ratio", "output_resolution", "background", "upscale", "enable_safety_checker")
"""The fields of an entry that `generate` has by the same name, beside its prompt and its sources."""


class Style(Struct, frozen=True, kw_only=True):
    """What goes into every picture's request. `embed_prompt`: files made from an original hold its prompt."""

    prompt: str | None = None
    sources: tuple[str, ...] = ()
    embed_prompt: bool = False


class Entry(Struct, frozen=True, kw_only=True):
    """One picture: where it is saved, what is asked for, and what is made from it on this machine.

    Attributes:
        path: Relative to the folder of flux2.toml, with `/`.
        prompt: Without the style; None: the only source is finished as it is.
        sources: Paths as `path`, and https URLs.
        style: Whether the style goes into the request.
        settings: The fields named in `SETTINGS` that are given.
        widths: Of the smaller copies, in pixels.
        formats: Of the copies: some of `FORMATS`.
        icons: Whether an icon set is made.
    """

    path: str
    prompt: str | None = None
    sources: tuple[str, ...] = ()
    style: bool = True
    settings: Mapping[str, str | int | bool] = field(default_factory=dict)
    widths: tuple[int, ...] = ()
    formats: tuple[str, ...] = ()
    icons: bool = False

    @property
    def derives(self) -> bool:
        """Whether other files are made from the picture."""
        return bool(self.widths or self.formats or self.icons)

    @property
    def toml(self) -> TomlPath:
        """The entry's path in the text."""
        return "images", self.path


class Manifest(Struct, frozen=True, kw_only=True):
    """A whole flux2.toml that was checked.

    Attributes:
        style: See `Style`.
        entries: By their paths, in the order of the text.
        outputs: The entry that writes each file: its own, and those made from it.
        places: Where each key stands in the text.
        name: The file, for messages.
    """

    style: Style
    entries: Mapping[str, Entry]
    outputs: Mapping[str, str]
    places: Places
    name: str = MANIFEST

    def at(self, path: TomlPath, *, value: bool = False) -> str:
        """Return file, line and column of a key, or of its value, for a message, and the key's name."""
        place = self.places.of_value(path) if value else self.places.of(path)
        return located(self.name, place, path)

    def styled(self, entry: Entry) -> Style | None:
        """Return the style that goes into an entry's request; None if none does.

        A picture that is only finished is not made from a prompt, so it has no style.
        """
        return self.style if entry.style and entry.prompt is not None else None

    def sources(self, entry: Entry) -> tuple[str, ...]:
        """Return all sources of an entry, its own first."""
        style = self.styled(entry)
        return entry.sources + (style.sources if style else ())

    def prompt(self, entry: Entry) -> str | None:
        """Return the prompt that is sent: the entry's, then the style's."""
        style = self.styled(entry)
        if entry.prompt is None or style is None or style.prompt is None:
            return entry.prompt
        begin = entry.prompt.rstrip()
        return f"{begin}{' ' if begin.endswith(('.', '!', '?', ':', ';', ',')) else '. '}{style.prompt.strip()}"

    def request(self, entry: Entry) -> RequestArgs:
        """Return the arguments of `generate` that make the picture.

        Sources of the style alone do not decide about a picture's shape: it is square where nothing else is said.
        """
        sources = self.sources(entry)
        settings = dict(entry.settings)
        if sources and not entry.sources:
            settings.setdefault("aspect_ratio", catalog.DEFAULT_ASPECT_RATIO)
        return RequestArgs(prompt=self.prompt(entry), source_images=sources or None, **settings)  # type: ignore[arg-type]  # reading.py checks the types


def located(name: str, place: Place, path: TomlPath = ()) -> str:
    """Return a place and a key as messages have them: `flux2.toml:3:1 images."public/hero.png".prompt`."""
    return " ".join(filter(None, [f"{name}:{place}", dotted(path)]))


def dotted(path: TomlPath) -> str:
    """Return a key as TOML writes it."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if is_bare(part) else quoted(part))
    return text


def is_bare(key: str) -> bool:
    """Whether TOML writes a key without quotes."""
    return bool(key) and key.isascii() and key.replace("-", "").replace("_", "").isalnum()


def quoted(text: str) -> str:
    """Return a text as TOML's basic string, on one line."""
    escaped = "".join(_ESCAPES.get(char) or (f"\\u{ord(char):04X}" if _hidden(char) else char) for char in text)
    return f'"{escaped}"'


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def _hidden(char: str) -> bool:
    return char < " " or char == "\x7f"


def is_remote(source: str) -> bool:
    """Whether a source is an address, and no path in the project."""
    return is_url(source, local=False)
