"""Outlines: smooth curves, ellipses, strokes; pure geometry, y downwards, in whatever unit the caller draws in."""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

Point = tuple[float, float]
Polygon = Sequence[Point]

_TWELVE = [(math.cos(math.tau * i / 12), math.sin(math.tau * i / 12)) for i in range(12)]


class Frame(Struct, frozen=True):
    """A motif's own coordinates on the canvas: its origin and its scale in pixels a unit."""

    x: float
    y: float
    scale: float

    def __call__(self, polygon: Polygon) -> list[Point]:
        """Return the points in canvas pixels."""
        return [(self.x + x * self.scale, self.y + y * self.scale) for x, y in polygon]

    def inner(self, x: float, y: float, scale: float) -> Frame:
        """Return a frame within this one, given in its units."""
        return Frame(self.x + x * self.scale, self.y + y * self.scale, self.scale * scale)


def points(text: str, side: int = 1) -> list[Point]:
    """Return the points of a text as in SVG ("0,1 .5,2"), mirrored at the y axis for side -1."""
    pairs = (pair.split(",") for pair in text.split())
    return [(side * float(x), float(y)) for x, y in pairs]


def mirrored(text: str) -> list[Point]:
    """Return a closed outline: the right half, given from top to bottom as for `points`, and its mirror image."""
    half = points(text)
    return curve([*half, *((-x, y) for x, y in half[::-1] if x)])


def curve(through: Polygon, *, closed: bool = True, steps: int = 10) -> list[Point]:
    """Return a smooth (Catmull-Rom) line through the points, as a polygon's corners."""
    n = len(through)

    def at(i: int) -> Point:
        return through[i % n] if closed else through[min(max(i, 0), n - 1)]

    line: list[Point] = []
    for i in range(n if closed else n - 1):
        (ax, ay), (bx, by), (cx, cy), (dx, dy) = at(i - 1), at(i), at(i + 1), at(i + 2)
        for step in range(steps):
            t = step / steps
            line.append((_spline(ax, bx, cx, dx, t), _spline(ay, by, cy, dy, t)))
    return line if closed else [*line, through[-1]]


def _spline(a: float, b: float, c: float, d: float, t: float) -> float:
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def dot(x: float, y: float, radius: float) -> list[Point]:
    """Return a dot, small enough for twelve corners to look round."""
    return [(x + radius * cos, y + radius * sin) for cos, sin in _TWELVE]


def ellipse(
    x: float, y: float, rx: float, ry: float | None = None, *, turn: float = 0, power: float = 2
) -> list[Point]:
    """Return an ellipse (with a power above 2 a superellipse) turned by `turn` degrees."""
    ry = rx if ry is None else ry
    cos, sin = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    outline: list[Point] = []
    for i in range(120):
        c, s = math.cos(math.tau * i / 120), math.sin(math.tau * i / 120)
        px = rx * math.copysign(abs(c) ** (2 / power), c)
        py = ry * math.copysign(abs(s) ** (2 / power), s)
        outline.append((x + px * cos - py * sin, y + px * sin + py * cos))
    return outline


def box(x: float, y: float, rx: float, ry: float) -> list[Point]:
    """Return a box with soft corners about its centre."""
    return ellipse(x, y, rx, ry, power=6)


def stroke(through: Polygon, *widths: float) -> list[Point]:
    """Return the outline of a smooth line with round ends through the points, as wide along it as `widths` says."""
    spine = curve(through, closed=False)
    if len(widths) == 1:
        widths *= 2
    last = len(spine) - 1
    left: list[Point] = []
    right: list[Point] = []
    for i, (x, y) in enumerate(spine):
        (ax, ay), (bx, by) = spine[max(i - 1, 0)], spine[min(i + 1, last)]
        length = math.hypot(bx - ax, by - ay) or 1.0
        where = i / last * (len(widths) - 1)
        leg = min(int(where), len(widths) - 2)
        half = (widths[leg] + (widths[leg + 1] - widths[leg]) * (where - leg)) / 2
        left.append((x - (by - ay) / length * half, y + (bx - ax) / length * half))
        right.append((x + (by - ay) / length * half, y - (bx - ax) / length * half))
    return left + _cap(right[-1], left[-1]) + right[::-1] + _cap(left[0], right[0])


def _cap(end: Point, start: Point) -> list[Point]:
    """Return the half circle from `start` round to `end` (anticlockwise on the canvas)."""
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    dx, dy = start[0] - x, start[1] - y
    turns = [-math.pi * i / 16 for i in range(1, 16)]
    return [(x + dx * math.cos(t) - dy * math.sin(t), y + dx * math.sin(t) + dy * math.cos(t)) for t in turns]
