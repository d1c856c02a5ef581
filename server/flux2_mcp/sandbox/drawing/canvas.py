"""Painting on top of Pillow: smooth-edged shapes, gradients, spheres, rim light, shadow, glow, mist, bloom, grain."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

from msgspec import Struct
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from flux2_mcp.sandbox.drawing.basics import Colour, ramp, scaled
from flux2_mcp.sandbox.drawing.shapes import Frame, Point, Polygon

_OVERSAMPLING = 2
_BEYOND = 48
"""How far, in units, a shape goes on beyond the picture's edge, lest the edge be taken for the shape's own."""
_DOWNWARDS = 90.0
_VISIBLE_BLUR = 0.8
_COARSE = 8
_WIDE = 1.4
_BILINEAR = Image.Resampling.BILINEAR

Box = tuple[int, int, int, int]


class Mask(Struct, frozen=True):
    """A greyscale stencil and where its top left corner lies on the canvas, in pixels."""

    image: Image.Image
    x: int
    y: int

    @property
    def box(self) -> Box:
        """The stencil's place on the canvas: left, top, right, bottom."""
        return self.x, self.y, self.x + self.image.width, self.y + self.image.height

    def faded(self, strength: float) -> Mask:
        """Return the stencil at a fraction of its strength."""
        return Mask(self.image.point(scaled(strength)), self.x, self.y)

    def blurred(self, radius: float) -> Mask:
        """Return the stencil blurred, `radius` pixels, with room around it for the blur."""
        room = math.ceil(radius * 2.5)
        return Mask(_soft(ImageOps.expand(self.image, room), radius), self.x - room, self.y - room)


class Canvas:
    """An RGB picture being painted, shape by shape; all lengths in pixels, angles in degrees.

    `unit` is a thousandth of the side of a square of the same area; `stage` is where a subject stands.
    """

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self.width, self.height = image.size
        self.unit = math.sqrt(self.width * self.height) / 1000
        self.is_wide = self.width > _WIDE * self.height
        # To the right in a wide picture, beside the prompt; else in the middle, above it.
        scale = 0.36 * self.height if self.is_wide else min(0.305 * self.height, 0.40 * self.width)
        across = 0.68 if self.is_wide else 0.5
        self.stage = Frame(across * self.width, max(0.065 * self.height + 0.9 * scale, 0.36 * self.height), scale)

    def mask(self, *polygons: Polygon, cut: Sequence[Polygon] = ()) -> Mask:
        """Return the smooth-edged stencil of the polygons together, less those in `cut`."""
        beyond = round(_BEYOND * self.unit) + 2
        xs = [x for polygon in polygons for x, _ in polygon]
        ys = [y for polygon in polygons for _, y in polygon]
        left, top = max(math.floor(min(xs)) - 2, -beyond), max(math.floor(min(ys)) - 2, -beyond)
        right = max(min(math.ceil(max(xs)) + 2, self.width + beyond), left + 4)
        bottom = max(min(math.ceil(max(ys)) + 2, self.height + beyond), top + 4)
        n = _OVERSAMPLING
        large = Image.new("L", ((right - left) * n, (bottom - top) * n))
        draw = ImageDraw.Draw(large)
        for shapes, ink in ((polygons, 255), (cut, 0)):
            for shape in shapes:
                draw.polygon([((x - left) * n, (y - top) * n) for x, y in shape], fill=ink)
        return Mask(large.reduce(n), left, top)

    def below(self, line: Polygon) -> Mask:
        """Return the stencil of everything under a line that runs from left to right."""
        foot = self.height * 1.2
        return self.mask([*line, (line[-1][0], foot), (line[0][0], foot)])

    def fill(self, mask: Mask, *stops: Colour, angle: float = _DOWNWARDS) -> None:
        """Paint the stencil with a colour, or a gradient of several along `angle` (0: to the right, 90: downwards)."""
        if len(stops) == 1:
            self.image.paste(stops[0], mask.box, mask.image)
            return
        grey = _linear(mask.image.size, mask.image.getbbox() or (0, 0, 1, 1), angle)
        self.image.paste(_colourised(grey, stops), mask.box[:2], mask.image)

    def ball(self, mask: Mask, *stops: Colour, at: Point = (0.35, 0.3)) -> None:
        """Paint the stencil as a lit sphere; the first stop is the highlight, at a place given in shares of its box."""
        left, top, right, bottom = mask.image.getbbox() or (0, 0, 1, 1)
        rx, ry = max(round((right - left) * 0.9), 1), max(round((bottom - top) * 0.9), 1)
        disc = radial(lambda t: t).resize((2 * rx, 2 * ry), _BILINEAR)
        shade = Image.new("L", mask.image.size, 255)
        shade.paste(disc, (left + round((right - left) * at[0]) - rx, top + round((bottom - top) * at[1]) - ry))
        self.image.paste(_colourised(shade, stops), mask.box[:2], mask.image)

    def add(self, mask: Mask, colour: Colour, strength: float = 1.0) -> None:
        """Add light of a colour (screen blend) where the stencil is."""
        table = [level for channel in colour for level in scaled(channel / 255 * strength)]
        light = Image.merge("RGB", (mask.image,) * 3).point(table)
        self.image.paste(ImageChops.screen(self.image.crop(mask.box), light), mask.box[:2])

    def rim(self, mask: Mask, colour: Colour, towards: Point, width: float, strength: float = 1.0) -> None:
        """Light the edge of a shape which faces `towards` (a direction): a crisp line, and a soft falloff inside it."""
        room = math.ceil(6 * width) + 1
        shape = ImageOps.expand(mask.image, room)

        def edge(reach: float, blur: float) -> Image.Image:
            moved = ImageChops.offset(shape, round(-towards[0] * reach), round(-towards[1] * reach))
            return _soft(ImageChops.subtract(shape, moved), blur)

        light = ImageChops.add(edge(width, 0.45 * width), edge(6 * width, 3.2 * width).point(scaled(0.6)))
        light = light.crop((room, room, room + mask.image.width, room + mask.image.height))
        self.add(Mask(ImageChops.multiply(light, mask.image), mask.x, mask.y), colour, strength)

    def shadow(self, mask: Mask, colour: Colour, blur: float, strength: float, offset: Point = (0.0, 0.0)) -> None:
        """Lay a soft shadow of the stencil under what is painted next."""
        soft = mask.blurred(blur).faded(strength)
        self.fill(Mask(soft.image, soft.x + round(offset[0]), soft.y + round(offset[1])), colour)

    def glow(self, x: float, y: float, radius: float, colour: Colour, strength: float = 1, power: float = 2) -> None:
        """Add a round glow that fades from its centre to nothing at `radius`; a higher power is tighter."""
        side = max(round(radius * 2), 1)
        disc = radial(lambda t: (1 - t) ** power).resize((side, side), _BILINEAR)
        self.add(Mask(disc, round(x - radius), round(y - radius)), colour, strength)

    def fog(self, top: float, bottom: float, colour: Colour, strength: float) -> None:
        """Lay mist that thickens from nothing at `top` to `strength` at `bottom`, and stays so to the foot."""
        start = round(top)
        column = Image.new("L", (1, max(self.height - start, 1)), 255)
        column.paste(Image.linear_gradient("L").resize((1, max(round(bottom - top), 1)), _BILINEAR), (0, 0))
        veil = column.point(scaled(strength)).resize((self.width, column.height), Image.Resampling.NEAREST)
        self.image.paste(colour, (0, start, self.width, start + column.height), veil)

    def bloom(self, threshold: int, radius: float, strength: float) -> None:
        """Let what is brighter than `threshold` (0 to 255) spill over its surroundings."""
        bright = [round(max(i - threshold, 0) / (255 - threshold) * i * strength) for i in range(256)] * 3
        small = self.image.reduce(8).point(bright).filter(ImageFilter.GaussianBlur(radius / 8))
        self.image = ImageChops.screen(self.image, small.resize(self.image.size, _BILINEAR))

    def grain(self, seed: str, amount: int) -> None:
        """Add fine monochrome grain of plus or minus `amount` levels, which also hides the gradients' banding."""
        noise = hashlib.shake_256(seed.encode("utf-8", "surrogatepass")).digest(self.width * self.height)
        levels = [128 - amount] * 42 + [128] * 172 + [128 + amount] * 42
        layer = Image.frombytes("L", self.image.size, noise).point(levels)
        self.image = ImageChops.add(self.image, Image.merge("RGB", (layer,) * 3), 1, -128)


def radial(level: Callable[[float], float]) -> Image.Image:
    """Return a 256 px disc, grey `level(t)` (0 to 1) where t goes from 0 in the middle to 1 at the edge and beyond."""
    # Pillow's own radial gradient reaches 255 in the corners, and 180 where the inscribed circle ends.
    return Image.radial_gradient("L").point([round(255 * level(min(i / 180, 1.0))) for i in range(256)])


def _soft(image: Image.Image, radius: float) -> Image.Image:
    """Gaussian blur, done on a smaller copy where the radius is large enough for that not to show."""
    if radius < _VISIBLE_BLUR:
        return image
    factor = min(max(int(radius / 1.3), 1), 16)
    if factor == 1:
        return image.filter(ImageFilter.GaussianBlur(radius))
    small = image.reduce(factor).filter(ImageFilter.GaussianBlur(radius / factor))
    return small.resize(image.size, _BILINEAR, (0.0, 0.0, image.width / factor, image.height / factor))


def _colourised(grey: Image.Image, stops: Sequence[Colour]) -> Image.Image:
    return Image.merge("RGB", (grey,) * 3).point(ramp(stops))


def _linear(size: tuple[int, int], bounds: Box, angle: float) -> Image.Image:
    """Return a grey gradient that runs along `angle` from one side of `bounds` to the other."""
    left, top, right, bottom = bounds
    source = Image.linear_gradient("L")
    if angle == _DOWNWARDS:
        column = source.resize((1, bottom - top), _BILINEAR)
        whole = Image.new("L", size)
        whole.paste(column.resize((right - left, bottom - top), Image.Resampling.NEAREST), (left, top))
        return whole
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    ends = [x * cos + y * sin for x in (left, right) for y in (top, bottom)]
    k = 255 / max(max(ends) - min(ends), 1.0)
    # It is linear: a coarse one, enlarged, is the same, and much faster to make.
    matrix = (0.0, 0.0, 128.0, cos * k * _COARSE, sin * k * _COARSE, -min(ends) * k)
    coarse = (size[0] // _COARSE + 2, size[1] // _COARSE + 2)
    grey = source.transform(coarse, Image.Transform.AFFINE, matrix, _BILINEAR)
    return grey.resize(size, _BILINEAR, (0.0, 0.0, size[0] / _COARSE, size[1] / _COARSE))
