"""Makes other sizes, other formats and icons of one picture, on this machine and for nothing. Sync; call from a thread.

`wanted` says what the files are called, without a look at the picture; `derive` makes them. The same bytes come from the same
original and the same Pillow: no time, no number of processors and no setting of the user is in them. Each file says in its
XMP data that a model made the picture (`provenance`); nothing else of the original's metadata is left.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from msgspec import Struct

from flux2_mcp.errors import InvalidRequestError, Problem, meant, shortened
from flux2_mcp.images import containers, decode, icons, linear, names, provenance

if TYPE_CHECKING:  # Pillow loads at its first use
    from PIL.Image import Image

FileKind: TypeAlias = Literal["PNG", "JPEG", "WEBP", "AVIF", "ICO"]
"""A kind of file, by Pillow's name."""
Role: TypeAlias = Literal["picture", "icon", "touch", "maskable"]
"""What a file is for: pages, browsers, iOS, Android."""

FORMATS: Final[Mapping[str, tuple[decode.Encoded, str]]] = {
    "avif": ("AVIF", ".avif"),
    "webp": ("WEBP", ".webp"),
    "jpeg": ("JPEG", ".jpg"),
    "png": ("PNG", ".png"),
}
"""By the name of a format: Pillow's, and the suffix of its files."""
ALIASES: Final = {"jpg": "jpeg"}
MAX_WIDTHS: Final = 32
MAX_WIDTH_PX: Final = 16_383
"""The widest WebP."""
MAX_NEW_PIXELS: Final = 2**25
"""The largest picture that is made: 8K, 7680x4320. The encoders of AVIF and WebP take up to 38 bytes a pixel."""
LARGE_SIDE_PX: Final = 2048
"""Of a picture that is too large to be in memory whole, a copy with this longer side is the original."""
ICON_SIDES: Final = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Tabs (16 and 32, 48 for search engines), Windows (48 to 256), the Chrome store (128), Android and installed pages (192, 512)."""
FAVICON_SIDES: Final = (16, 32, 48)
TOUCH_SIDE: Final = 180
MASKABLE_SIDES: Final = (192, 512)

# AVIF: one thread and one tile, as each number of them makes other bytes; 8 is three times as fast as 6. PNG: 9 takes four times as
# long as 7 for 3 % of the bytes.
_OPTIONS: Final[Mapping[decode.Encoded, Mapping[str, Any]]] = {
    "PNG": {"compress_level": 7},
    "JPEG": {"quality": 85, "subsampling": 0, "optimize": True, "progressive": True},
    "WEBP": {"quality": 85, "method": 4},
    "AVIF": {"quality": 75, "speed": 8, "subsampling": "4:4:4", "codec": "auto", "max_threads": 1, "autotiling": False},
}


class DerivedFile(Struct, frozen=True):
    """One file that is made of an original.

    `name` is a path with `/`, beside the original. `width` is in pixels, of the largest picture in the file; None: the
    original's. The height follows from the original; an icon is a square.
    """

    name: str
    kind: FileKind
    width: int | None
    role: Role = "picture"


def wanted(
    original_name: str, *, widths: Sequence[int] = (), formats: Sequence[str] = (), icons: bool = False
) -> tuple[DerivedFile, ...]:
    """Return the files that are made of an original, in their order: each width in each format, then the icons.

    No file is the original itself: of hero.png, the format png without widths is there already, and left out.

    Args:
        original_name: Relative to the workspace or project, as `names.targets` allows it.
        widths: Pixels. None: the original's alone.
        formats: Of `FORMATS`. None: the original's, if there are widths.
        icons: Whether to make the icons of a site and an app. Their names are those that browsers look for, so that a folder
            has room for one set.

    Raises:
        InvalidRequestError: A wrong name, width or format, or two files with one name. All that is wrong is named.
    """
    [name] = names.targets(original_name, 1, field="original")
    if name.endswith("/"):
        raise InvalidRequestError(Problem("original", "must be a file, such as public/hero.png; this is a folder."))
    wrong = [*_wrong_widths(widths), *_wrong_formats(formats)]
    if wrong:
        raise InvalidRequestError(*wrong)
    path = PurePosixPath(name)
    own = names.SUFFIXES[path.suffix.lower()]
    made = [_FORMATS_BY_NAME[each] for each in formats] or [(own, path.suffix)] * bool(widths)
    found = list[DerivedFile]()
    for width in widths or (None,):
        stem = path.stem if width is None else f"{path.stem}-{width}"
        for kind, suffix in made:
            file = str(path.with_name(stem + (path.suffix if kind == own else suffix)))
            if file != name:
                found.append(DerivedFile(file, kind, width))
    if icons:
        found += [DerivedFile(str(path.with_name(file)), kind, side, role) for file, kind, side, role in _ICONS]
    _refuse_collisions(name, found)
    return tuple(found)


def require_writers(files: Collection[DerivedFile], *, has: Callable[[str], bool | None] | None = None) -> None:
    """Check that the Pillow that is installed can write all of these files: before anything is paid.

    Args:
        files: From `wanted`.
        has: Says of avif and webp whether Pillow has it; None: Pillow's own answer.

    Raises:
        InvalidRequestError: It can't; the formats are named.
    """
    if has is None:
        from PIL import features

        has = features.check
    kinds = {file.kind for file in files}
    missing = [name for name in ("avif", "webp") if FORMATS[name][0] in kinds and not has(name)]
    if missing:
        what = " and ".join(missing)
        text = f"this installation's Pillow can't write {what}. Install a newer Pillow (its wheels can), or leave out {what}."
        raise InvalidRequestError(Problem("formats", text))


def derive(original: bytes, wanted: Collection[DerivedFile], *, prompt: str | None = None) -> dict[str, bytes]:
    """Make the files. They are in memory together, and nothing is written.

    Args:
        original: The original's file.
        wanted: The files, from `wanted`.
        prompt: Becomes the description in each file; None: there is none.

    Returns:
        The bytes of each file by its name, in the order of `wanted`.

    Raises:
        InvalidRequestError: The original is no sound picture or too small for one of the files; or Pillow lacks a format.
    """
    if not wanted:
        return {}
    require_writers(wanted)
    xmp = provenance.packet(prompt)
    try:
        with decode.normal(original, longest=_longest(original), copies=linear.COPIES) as (found, picture):
            _refuse_enlarging(wanted, found, picture)
            shown = _without_needless_alpha(picture)
            made = {file.name: data for file, data in _files(shown, found.width, wanted, xmp)}
    except decode.PictureError as exc:
        raise InvalidRequestError(Problem("original", exc.source)) from exc
    return {file.name: made[file.name] for file in wanted}


def _files(
    picture: Image, full: int, files: Collection[DerivedFile], xmp: bytes
) -> Iterator[tuple[DerivedFile, bytes]]:
    """The icons, then one width after the other, so that one scaled picture at a time is in memory."""
    if any(file.role != "picture" for file in files):
        yield from _icons(picture, [file for file in files if file.role != "picture"], xmp)
    pictures = [file for file in files if file.role == "picture"]
    for width in sorted({file.width or full for file in pictures}):
        height = max(1, (2 * picture.height * width + picture.width) // (2 * picture.width))
        small = linear.scaled(picture, width, height)
        for file in pictures:
            if (file.width or full) == width and file.kind != "ICO":
                yield file, _encoded(small, file.kind, xmp)


def _icons(picture: Image, files: Sequence[DerivedFile], xmp: bytes) -> Iterator[tuple[DerivedFile, bytes]]:
    source = icons.Icons(picture)
    made: Mapping[Role, Callable[[int], Image]] = {
        "icon": source.plain,
        "touch": source.touch,
        "maskable": source.maskable,
    }
    for file in files:
        side = file.width or icons.SIDE_PX
        if file.kind == "ICO":
            yield file, icons.ico([(each, _encoded(source.plain(each), "PNG", xmp)) for each in FAVICON_SIDES])
        else:
            yield file, _encoded(made[file.role](side), file.kind, xmp)


def _encoded(picture: Image, kind: decode.Encoded, xmp: bytes) -> bytes:
    if kind != "PNG":
        return decode.encoded(picture, kind, **_OPTIONS[kind], xmp=xmp)
    from PIL.PngImagePlugin import PngInfo

    about = PngInfo()
    about.add_itxt("XML:com.adobe.xmp", xmp.decode())
    return decode.encoded(picture, kind, **_OPTIONS[kind], pnginfo=about)


def _longest(original: bytes) -> int | None:
    """None, or the longer side of the copy of a picture that is too large to be in memory whole."""
    try:
        head = containers.header(io.BytesIO(original))
    except containers.BrokenError:
        return None  # the decoder says what is wrong with it
    return LARGE_SIDE_PX if head is not None and head.width * head.height > decode.MAX_PIXELS else None


def _without_needless_alpha(picture: Image) -> Image:
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (255, 255):
        return picture.convert("RGB")
    return picture


def _refuse_enlarging(files: Collection[DerivedFile], found: decode.CheckedImage, picture: Image) -> None:
    size, problems = f"{found.width}x{found.height} pixels", list[Problem]()
    pictures = [file.width or found.width for file in files if file.role == "picture"]
    most = min(picture.width, math.isqrt(MAX_NEW_PIXELS * picture.width // picture.height))
    wide = sorted({width for width in pictures if width > most})
    if wide:
        why = "and no picture is enlarged" if wide[-1] > found.width else "too many to be made whole here"
        text = f"{', '.join(map(str, wide))}: the original has {size}, {why}. At most {most}."
        problems.append(Problem("widths", text))
    if min(picture.size) < icons.SIDE_PX and any(file.role != "picture" for file in files):
        text = f"need an original of at least {icons.SIDE_PX}x{icons.SIDE_PX} pixels; this one has {size}."
        problems.append(Problem("icons", text))
    if problems:
        raise InvalidRequestError(*problems)


def _wrong_widths(widths: Sequence[int]) -> Iterator[Problem]:
    if len(widths) > MAX_WIDTHS:
        yield Problem("widths", f"has {len(widths)} widths; at most {MAX_WIDTHS} are made of one picture.")
    for width in widths[:MAX_WIDTHS]:
        if not 1 <= width <= MAX_WIDTH_PX:
            shown = shortened(str(width))
            yield Problem("widths", f"{shown} is no width; a width is a whole number of pixels, 1 to {MAX_WIDTH_PX}.")


def _wrong_formats(formats: Sequence[str]) -> Iterator[Problem]:
    for each in formats:
        if each not in _FORMATS_BY_NAME:
            text = f"{shortened(each)} is none that can be made{meant(each, FORMATS)}; there are {', '.join(FORMATS)}."
            yield Problem("formats", text)


def _refuse_collisions(original: str, files: Sequence[DerivedFile]) -> None:
    """Names that differ in capitals alone, or in how an accent is written, are one file on some systems."""
    seen = {_folded(original): "is the original itself"}
    problems = list[Problem]()
    for file in files:
        field = "icons" if file.role != "picture" else "widths" if file.width else "formats"
        if _folded(file.name) in seen:
            problems.append(Problem(field, f"{PurePosixPath(file.name).name} {seen[_folded(file.name)]}."))
        seen.setdefault(_folded(file.name), "would be written twice")
    if problems:
        raise InvalidRequestError(*problems)


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


_FORMATS_BY_NAME: Final = {**FORMATS, **{alias: FORMATS[name] for alias, name in ALIASES.items()}}
_ICONS: Final[Sequence[tuple[str, FileKind, int, Role]]] = (
    ("favicon.ico", "ICO", FAVICON_SIDES[-1], "icon"),
    *[(f"icon-{side}.png", "PNG", side, "icon") for side in ICON_SIDES],
    ("apple-touch-icon.png", "PNG", TOUCH_SIDE, "touch"),
    *[(f"maskable-{side}.png", "PNG", side, "maskable") for side in MASKABLE_SIDES],
)
