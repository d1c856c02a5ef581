"""What the sandbox delivers instead of a FLUX.2 image: a picture composed from the prompt, marked SANDBOX."""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Final

from PIL import Image, PngImagePlugin

from flux2_mcp.sandbox.drawing import png
from flux2_mcp.sandbox.drawing.basics import Colour, Dice
from flux2_mcp.sandbox.drawing.canvas import Canvas, Mask
from flux2_mcp.sandbox.drawing.collage import SourceImageError, SourcePicture, digest, lay_cards, measure, read_sources
from flux2_mcp.sandbox.drawing.figures import astronaut, cat, profile, robot
from flux2_mcp.sandbox.drawing.land import dunes, forest, mountains, ocean
from flux2_mcp.sandbox.drawing.marks import apple, emblem, fox, lighthouse
from flux2_mcp.sandbox.drawing.objects import balloon, bottle, cup, flower, product, sailboat
from flux2_mcp.sandbox.drawing.plan import Composition, plan
from flux2_mcp.sandbox.drawing.scenes import abstract, city, space, studio
from flux2_mcp.sandbox.drawing.shapes import Frame, Point
from flux2_mcp.sandbox.drawing.sky import backdrop
from flux2_mcp.sandbox.drawing.text import Caption, label, lay_out, letter, watermark

__all__ = ["SourceImageError", "digest", "measure", "read_sources", "render", "size_of"]

# Every ratio exactly, about one megapixel, sides multiples of 16; 2k doubles both sides.
_SIZES: Final[dict[str, tuple[int, int]]] = {
    "1:1": (1024, 1024),
    "4:3": (1152, 864), "3:4": (864, 1152),
    "3:2": (1248, 832), "2:3": (832, 1248),
    "16:9": (1280, 720), "9:16": (720, 1280),
}  # fmt: skip
_SCALES: Final = {"1k": 1, "2k": 2}
_REMIX: Final = "remix_image"
_AUTO: Final = "auto"
_AUTO_STEP = 16
_AUTO_AREA = 1024 * 1024
_AUTO_LIMIT = 4.0
_PLAIN = 4
"""Pixels of a plain picture that are one, across and down."""
ACCENT: Final[Colour] = (150, 190, 255)
"""Of a variant that the catalogue gives none."""
PAPER: Final[Colour] = (255, 255, 255)
"""The even ground of what is drawn alone."""
_Painter = Callable[[Canvas, Composition, Dice], None]
_SCENES: Final[dict[str, _Painter]] = {
    "space": space, "city": city, "ocean": ocean, "mountains": mountains, "forest": forest, "dunes": dunes,
    "studio": studio, "abstract": abstract,
}  # fmt: skip
_SUBJECTS: Final[dict[str, _Painter]] = {
    "astronaut": astronaut, "robot": robot, "cat": cat, "profile": profile, "flower": flower, "cup": cup,
    "bottle": bottle, "product": product, "sailboat": sailboat, "balloon": balloon, "fox": fox, "apple": apple,
    "lighthouse": lighthouse, "emblem": emblem,
}  # fmt: skip


def size_of(aspect_ratio: str, output_resolution: str, source_size: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return the width and height, in pixels, of a picture.

    The seven ratios are exact, near 1 megapixel for "1k" and 4 for "2k". "auto" takes the ratio of the first source
    image (within 1:4 and 4:1) as nearly as sides that are multiples of 16 allow, and 1:1 without one.
    Raises ValueError for any other ratio or resolution.
    """
    if output_resolution not in _SCALES:
        raise ValueError(f"output_resolution is one of {', '.join(_SCALES)}")
    if aspect_ratio == _AUTO:
        width, height = _nearest(source_size) if source_size else _SIZES["1:1"]
    elif aspect_ratio in _SIZES:
        width, height = _SIZES[aspect_ratio]
    else:
        raise ValueError(f"aspect_ratio is one of {', '.join([*_SIZES, _AUTO])}")
    scale = _SCALES[output_resolution]
    return width * scale, height * scale


def _nearest(source_size: tuple[int, int]) -> tuple[int, int]:
    wanted = min(max(source_size[0] / source_size[1], 1 / _AUTO_LIMIT), _AUTO_LIMIT)
    best = math.sqrt(_AUTO_AREA * wanted)
    sizes = [
        (width, max(round(width / wanted / _AUTO_STEP), 1) * _AUTO_STEP)
        for width in range(_AUTO_STEP, round(best * 1.08), _AUTO_STEP)
        if width > best * 0.92
    ]
    return min(sizes, key=lambda size: (abs(math.log(size[0] / size[1] / wanted)), abs(size[0] * size[1] - _AUTO_AREA)))


def render(*, prompt: str, variant: str, model: str, action: str, aspect_ratio: str, output_resolution: str,
           sources: Sequence[bytes] = (), size: tuple[int, int] | None = None, take: str = "", accent: Colour | None = None,
           plain: bool = False) -> bytes:  # fmt: skip
    """Return a PNG picture composed from the prompt and, for a remix, from its source images (1 to 8).

    The same arguments give the same bytes with one Pillow version. `accent` is the colour of the variant; `size` (width and
    height in pixels) overrides the size which the ratio and the resolution ask for; another `take` gives another picture
    of the same prompt. A `plain` one has its ground, its lettering and its sources, and no scene, each drawn at a quarter
    of its size: it takes a tenth of the time. Raises SourceImageError for a source which cannot be read, ValueError
    for an unknown variant, ratio or resolution.
    """
    pictures = read_sources(sources)
    width, height = size or size_of(aspect_ratio, output_resolution, pictures[0].size if pictures else None)
    request = [f"{width} x {height}", aspect_ratio, output_resolution]
    if action == _REMIX:
        counted = "1 source" if len(pictures) == 1 else f"{len(pictures)} sources"
        request.insert(0, counted if pictures else "sources not fetched")
    caption = Caption(variant, model, "  ·  ".join(request), accent or ACCENT)
    drawn = (-(-width // _PLAIN), -(-height // _PLAIN)) if plain else (width, height)
    image = _paint(prompt, drawn, caption, pictures, take, plain=plain).image
    texts = {
        "Software": "flux2-mcp sandbox",
        "Comment": f"SANDBOX: drawn in place of {model} ({action}); no model was run",
    }
    if plain:
        return png.of_equal_rows(image.resize((width, height), Image.Resampling.NEAREST), texts)
    information = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        information.add_text(name, text)
    out = io.BytesIO()
    # Grain does not compress; the fastest level costs 5 % in bytes and saves a third of the encoder's time.
    image.save(out, "PNG", compress_level=1, compress_type=zlib.Z_FILTERED, pnginfo=information)
    return out.getvalue()


def _paint(
    prompt: str, size: tuple[int, int], caption: Caption, pictures: Sequence[SourcePicture], take: str, *, plain: bool
) -> Canvas:
    todo = plan(prompt, caption.accent, take)
    dice = Dice("draw:" + prompt + take)
    if todo.even and todo.subject is not None and not pictures:
        return _paint_alone(prompt, size, caption, todo, dice)
    canvas = backdrop(size, todo.palette, dice)
    subject = None if pictures or plain else todo.subject
    if not plain:
        _SCENES[todo.scene](canvas, todo, dice)
        if subject is not None:
            _SUBJECTS[subject](canvas, todo, dice)
        canvas.bloom(170, 40 * canvas.unit, 0.8)
    watermark(canvas, 0.05)
    layout = lay_out(prompt, canvas, aside=subject is not None and canvas.is_wide)
    letter(canvas, layout, caption)
    if pictures:
        lay_cards(canvas, pictures, layout.margin + 66 * canvas.unit, layout.top - 40 * canvas.unit, layout.margin)
    if not plain:
        canvas.grain(prompt, 2)
    return canvas


def _paint_alone(prompt: str, size: tuple[int, int], caption: Caption, todo: Composition, dice: Dice) -> Canvas:
    """Paint a subject in the middle of an even ground; what is written on the picture is small."""
    canvas = _Sheet(Image.new("RGB", size, PAPER))
    scale = min(0.29 * canvas.height, 0.34 * canvas.width)
    canvas.stage = Frame(0.5 * canvas.width, 0.47 * canvas.height, scale)
    _SUBJECTS[todo.subject or "emblem"](canvas, todo, dice)
    foot = round(canvas.height - 84 * canvas.unit)
    canvas.image.paste(PAPER, (0, foot, canvas.width, canvas.height))
    label(canvas, prompt, caption)
    return canvas


class _Sheet(Canvas):
    """A canvas on which nothing throws a shadow: the ground stays even up to the subject's edge."""

    def shadow(self, mask: Mask, colour: Colour, blur: float, strength: float, offset: Point = (0.0, 0.0)) -> None:
        """Paint nothing."""
