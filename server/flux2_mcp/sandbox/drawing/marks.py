"""Subjects in few shapes, which stand alone as well as in a scene: a fox, an apple, a lighthouse, an emblem."""

from __future__ import annotations

from flux2_mcp.sandbox.drawing.basics import WHITE, Colour, Dice, mix
from flux2_mcp.sandbox.drawing.canvas import Canvas
from flux2_mcp.sandbox.drawing.plan import Composition
from flux2_mcp.sandbox.drawing.shapes import Frame, box, curve, ellipse, mirrored, points, stroke
from flux2_mcp.sandbox.drawing.sketch import Sketch

_SIDES = (-1, 1)
_FUR: Colour = (232, 112, 42)
_SHADE: Colour = (186, 70, 28)
_CREAM: Colour = (255, 244, 228)
_NIGHT: Colour = (38, 24, 28)
_RED: Colour = (206, 32, 44)
_LEAF: Colour = (84, 158, 66)
_STALK: Colour = (96, 62, 40)


def fox(canvas: Canvas, plan: Composition, _dice: Dice) -> None:
    """The head of a fox, in flat planes."""
    sketch = Sketch(canvas, plan.palette, canvas.stage, 0.006)
    for side in _SIDES:
        _flat(sketch, ".12,-.42 .88,-1.12 .98,-.1 .5,.02", _FUR, side)
        _flat(sketch, ".42,-.44 .8,-.86 .84,-.24 .6,-.16", _NIGHT, side)
        _flat(
            sketch, "0,-.5 .3,-.52 .98,-.1 1.06,.3 .56,.62 0,1.06", _FUR if side < 0 else mix(_FUR, _SHADE, 0.35), side
        )
        _flat(sketch, "1.06,.3 .56,.62 .16,.96 .22,.5 .56,.12", _CREAM if side < 0 else mix(_CREAM, _FUR, 0.18), side)
        _flat(sketch, ".2,.08 .54,-.02 .48,.16 .3,.2", _NIGHT, side)
    _flat(sketch, "-.17,.84 .17,.84 .06,1.06 -.06,1.06", _NIGHT)


def _flat(sketch: Sketch, corners: str, colour: Colour, side: int = 1) -> None:
    sketch.canvas.fill(sketch.mask(points(corners, side)), colour)


def apple(canvas: Canvas, plan: Composition, _dice: Dice) -> None:
    """An apple with its leaf."""
    palette, stage = plan.palette, canvas.stage
    sketch = Sketch(canvas, palette, stage if plan.even else Frame(stage.x, stage.y, stage.scale * 0.8), 0.006)
    skin = mix(_RED, palette.second, 0.25)
    body = mirrored("0,-.52 .3,-.66 .74,-.56 .98,-.1 .88,.5 .56,.94 .22,1.02 0,.94")
    canvas.fill(
        sketch.mask(stroke(points("0,-.5 .04,-.72 .16,-.98"), 0.09, 0.07, 0.1)), mix(_STALK, WHITE, 0.15), _STALK
    )
    mask = sketch.mask(body)
    canvas.ball(mask, mix(skin, WHITE, 0.55), mix(skin, WHITE, 0.12), skin, mix(skin, _NIGHT, 0.55), at=(0.32, 0.26))
    sketch.rims(mask, 0.8)
    inside = sketch.window(mask)
    inside.ink(ellipse(0, -0.56, 0.3, 0.13), mix(skin, _NIGHT, 0.6), 0.75, 0.05)
    inside.shine(ellipse(-0.46, -0.2, 0.13, 0.26, turn=24), WHITE, 0.65, 0.04)
    sketch.close(inside, mask)
    canvas.fill(sketch.mask(stroke(points("0,-.46 .02,-.58 .05,-.72"), 0.08, 0.07)), _STALK)
    leaf = sketch.mask(curve(points(".1,-.74 .32,-1.06 .78,-1.1 .62,-.8 .36,-.68")))
    canvas.fill(leaf, mix(_LEAF, WHITE, 0.25), _LEAF, mix(_LEAF, _NIGHT, 0.35), angle=60)
    sketch.rims(leaf, 0.6)


def lighthouse(canvas: Canvas, plan: Composition, _dice: Dice) -> None:
    """A lighthouse on its rock, its lamp lit."""
    palette, stage = plan.palette, canvas.stage
    size, low = (0.94, 0.1) if plan.even else (0.74, 0.2)
    sketch = Sketch(canvas, palette, Frame(stage.x, stage.y + low * stage.scale, stage.scale * size), 0.008)
    if not plan.even:
        for side in _SIDES:
            sketch.shine(points("0,-.98 3.4,-1.5 3.4,-.5", side), mix(palette.light, WHITE, 0.3), 0.34, 0.09)
    rock = curve(
        points("-1.2,1.16 -.86,.86 -.44,.8 -.1,.7 .34,.78 .74,.84 1.1,1.02 1.3,1.22 1,1.44 0,1.5 -1,1.42"), steps=4
    )
    sketch.solid(rock, stops=(mix(_STALK, palette.sky[2], 0.5), mix(_NIGHT, palette.land, 0.5)))
    wall = (mix(_CREAM, WHITE, 0.4), _CREAM, mix(_CREAM, palette.land, 0.4))
    tower = points("-.27,-.72 .27,-.72 .42,.86 -.42,.86")
    sketch.solid(tower, stops=wall, angle=0, rim=0.7)
    inside = sketch.window(mask := sketch.mask(tower))
    for top in (-0.44, 0.1, 0.62):
        inside.canvas.fill(inside.mask(points(f"-1,{top} 1,{top + 0.1} 1,{top + 0.37} -1,{top + 0.27}")),
                           mix(_RED, WHITE, 0.1), _RED, mix(_RED, _NIGHT, 0.45), angle=0)  # fmt: skip
    sketch.close(inside, mask)
    for y in (-0.16, 0.36):
        sketch.ink(box(0, y, 0.05, 0.08), _NIGHT)
    sketch.solid(box(0, -0.76, 0.36, 0.05), stops=(mix(_NIGHT, WHITE, 0.3), _NIGHT), rim=0.5)
    sketch.solid(box(0, -0.98, 0.2, 0.2), stops=(mix(palette.light, WHITE, 0.5), (255, 214, 120)), rim=0.4)
    sketch.ink(points("-.02,-1.18 .02,-1.18 .02,-.8 -.02,-.8"), _NIGHT)
    sketch.solid(
        curve(points("-.28,-1.16 0,-1.46 .28,-1.16 .2,-1.12 -.2,-1.12"), steps=3), stops=(_RED, mix(_RED, _NIGHT, 0.4))
    )
    if not plan.even:
        sketch.lamp(ellipse(0, -0.98, 0.09), mix(palette.light, (255, 230, 160), 0.5), 0.12)


def emblem(canvas: Canvas, plan: Composition, dice: Dice) -> None:
    """A round mark of three waves, for what has no drawing of its own."""
    palette, sketch = plan.palette, Sketch(canvas, plan.palette, canvas.stage, 0.006)
    deep = mix(palette.second, _NIGHT, 0.45)
    disc = sketch.mask(ellipse(0, 0, 0.98))
    canvas.fill(disc, mix(palette.second, WHITE, 0.15), palette.second, angle=60)
    inside = sketch.window(disc)
    for number, colour in enumerate((mix(palette.second, WHITE, 0.55), deep, palette.accent)):
        y, swing = -0.1 + 0.36 * number, dice.uniform(0.12, 0.26)
        line = curve(
            [(-1.2, y), (-0.6, y - swing), (0.1, y + swing * 0.6), (0.7, y - swing * 0.7), (1.2, y)], closed=False
        )
        inside.canvas.fill(inside.mask([*line, (1.2, 1.2), (-1.2, 1.2)]), colour)
    inside.canvas.fill(inside.mask(ellipse(0.3, -0.48, 0.2)), mix(palette.light, WHITE, 0.5))
    sketch.close(inside, disc)
