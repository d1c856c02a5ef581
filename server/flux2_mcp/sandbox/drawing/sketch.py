"""How subjects are drawn: parts in the motif's own coordinates, each lit as the picture is lit."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from flux2_mcp.sandbox.drawing.basics import BLACK, WHITE, Colour, mix
from flux2_mcp.sandbox.drawing.canvas import Canvas, Mask
from flux2_mcp.sandbox.drawing.plan import Palette
from flux2_mcp.sandbox.drawing.shapes import Frame, Polygon


class Sketch(Struct, frozen=True):
    """A motif being drawn on a canvas at a frame, lengths in the frame's units; `line` is its rim light's width."""

    canvas: Canvas
    palette: Palette
    at: Frame
    line: float = 0.011

    @property
    def deep(self) -> Colour:
        """The colour of its shadows."""
        return mix(self.palette.land, BLACK, 0.35)

    def within(self, x: float, y: float, scale: float) -> Sketch:
        """Return a sketch of a part with coordinates of its own."""
        return replace(self, at=self.at.inner(x, y, scale))

    def mask(self, *shapes: Polygon, cut: Sequence[Polygon] = ()) -> Mask:
        """Return the stencil of some shapes."""
        return self.canvas.mask(*(self.at(shape) for shape in shapes), cut=[self.at(shape) for shape in cut])

    def solid(
        self, *shapes: Polygon, stops: Sequence[Colour], angle: float = 90, rim: float = 1, shade: float = 0.55
    ) -> Mask:
        """Draw a body: its shadow, its colours along `angle`, its rim light (`rim` times the usual width)."""
        mask = self.mask(*shapes)
        self.shadow(mask, shade)
        self.canvas.fill(mask, *stops, angle=angle)
        self.rims(mask, rim)
        return mask

    def ball(self, shape: Polygon, *stops: Colour, rim: float = 1.0) -> Mask:
        """Draw a sphere."""
        mask = self.mask(shape)
        self.shadow(mask, 0.6)
        self.canvas.ball(mask, *stops)
        self.rims(mask, rim)
        return mask

    def shadow(self, mask: Mask, strength: float) -> None:
        """Lay the shadow of a stencil."""
        self.canvas.shadow(mask, self.deep, self.at.scale * 0.05, strength, (0, self.at.scale * 0.03))

    def rims(self, mask: Mask, width: float = 1.0) -> None:
        """Light the edges: the picture's light from the left, its second light from the right."""
        size = self.at.scale * self.line * width
        self.canvas.rim(mask, self.palette.light, (-0.85, -0.5), size)
        self.canvas.rim(mask, self.palette.second, (0.9, -0.35), size)

    def ink(self, shape: Polygon, colour: Colour, strength: float = 1.0, blur: float = 0.0) -> None:
        """Draw a flat detail."""
        mask = self.mask(shape)
        self.canvas.fill((mask.blurred(self.at.scale * blur) if blur else mask).faded(strength), colour)

    def shine(self, shape: Polygon, colour: Colour, strength: float = 1.0, blur: float = 0.0) -> None:
        """Draw a detail made of light."""
        mask = self.mask(shape)
        self.canvas.add(mask.blurred(self.at.scale * blur) if blur else mask, colour, strength)

    def lamp(self, shape: Polygon, colour: Colour, blur: float) -> None:
        """Draw a light that shines on its surroundings."""
        self.shine(shape, colour, 0.9, blur)
        self.ink(shape, mix(colour, WHITE, 0.35))

    def window(self, mask: Mask) -> Sketch:
        """Return a sketch that paints only within a stencil, once `close` puts it back."""
        inside = Canvas(self.canvas.image.crop(mask.box))
        return replace(self, canvas=inside, at=Frame(self.at.x - mask.x, self.at.y - mask.y, self.at.scale))

    def close(self, window: Sketch, mask: Mask) -> None:
        """Put a window's picture back where its stencil is."""
        self.canvas.image.paste(window.canvas.image, mask.box[:2], mask.image)
