"""Makes a site's and an app's icons of one picture. Sync.

What a system does with an icon differs. A browser shows it as it is. iOS has no transparency, and rounds the corners. Android
cuts a maskable icon to any shape: only a circle around its middle, with a radius of two fifths of the width, is safe (W3C, Web
Application Manifest). So there, a picture with a ground is made smaller, and the colours of its border go on to the icon's
corners; what is cut out is laid on an even ground.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from flux2_mcp.images import linear

if TYPE_CHECKING:  # Pillow loads at its first use
    from PIL.Image import Image

SIDE_PX: Final = 512
"""The largest icon. A picture that is smaller has none: nothing is enlarged."""
SAFE_RADIUS: Final = 0.4
"""Of a maskable icon: the radius of the circle that is always visible, as a share of the width."""
TOUCH_SHARE: Final = 7 / 9
"""Of what is cut out: its share of an icon for iOS, whose rounded corners take 2/9 of the width."""
VISIBLE_FROM: Final = 16
"""The alpha from which a pixel counts as part of what is cut out: shadows fade below it."""
COARSE_PX: Final = 128
"""The size at which the farthest visible pixel is looked for."""
BORDER_PX: Final = 3
"""The pixels at a border whose mean goes on: of one alone, grain would become stripes."""
WHITE: Final = (255, 255, 255)
DARK: Final = (24, 24, 27)
"""The ground of what is mostly so bright that white would hide it."""
BRIGHT_FROM: Final = 215
DARK_UNTIL: Final = 72


class Icons:
    """One picture as the source of all icons.

    Args:
        picture: Normal. With a ground: its largest square in the middle counts. Cut out: the square around what is visible.

    Raises:
        ValueError: The square has less than `SIDE_PX` pixels a side.
    """

    def __init__(self, picture: Image) -> None:
        self._cut_out = picture.mode == "RGBA"
        square = _around_visible(picture) if self._cut_out else _middle(picture)
        if square.width < SIDE_PX:
            raise ValueError
        self._whole, self._half = square, linear.scaled(square, SIDE_PX, SIDE_PX)

    def plain(self, side: int) -> Image:
        """The icon as browsers show it, transparent where the picture is."""
        return linear.scaled(self._half if side <= SIDE_PX // 2 else self._whole, side, side)

    def touch(self, side: int) -> Image:
        """The icon for iOS: without transparency."""
        return self._grounded(side, round(side * TOUCH_SHARE)) if self._cut_out else self.plain(side)

    def maskable(self, side: int) -> Image:
        """The icon for Android: what counts is in the circle that is always visible, and the ground goes to the corners."""
        if self._cut_out:
            return self._grounded(side, min(side, int(side * SAFE_RADIUS / _reach(self._half))))
        margin = side - 2 * int(side * SAFE_RADIUS)
        return _extended(self.plain(side - margin), margin // 2)

    def _grounded(self, side: int, inner: int) -> Image:
        from PIL import Image

        ground = Image.new("RGB", (side, side), _ground(self._half))
        subject = self.plain(inner)
        ground.paste(subject, ((side - inner) // 2, (side - inner) // 2), subject)
        return ground


def ico(files: Sequence[tuple[int, bytes]]) -> bytes:
    """An ICO file of PNG files with their sides in pixels, below 256. Browsers and Windows have read such since 2007."""
    start = 6 + 16 * len(files)
    entries, bodies = [struct.pack("<3H", 0, 1, len(files))], list[bytes]()
    for side, data in files:
        entries.append(struct.pack("<4B2H2I", side, side, 0, 0, 1, 32, len(data), start + sum(map(len, bodies))))
        bodies.append(data)
    return b"".join([*entries, *bodies])


def _middle(picture: Image) -> Image:
    """The largest square in the middle."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture if picture.width == picture.height else picture.crop((left, top, left + side, top + side))


def _around_visible(picture: Image) -> Image:
    """The least square around what is visible, not below `SIDE_PX`. Beyond the picture it is transparent."""
    box = picture.getchannel("A").point(_step(VISIBLE_FROM)).getbbox() or (0, 0, *picture.size)
    left, top, right, bottom = box
    side = max(right - left, bottom - top, min(SIDE_PX, *picture.size))
    left, top = (left + right - side) // 2, (top + bottom - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _reach(square: Image) -> float:
    """How far the farthest visible pixel is from the middle, as a share of the side; never 0."""
    small = square.getchannel("A").point(_step(VISIBLE_FROM)).reduce(square.width // COARSE_PX)
    middle, far = small.width / 2, 1.0
    for y in range(small.height):
        if box := small.crop((0, y, small.width, y + 1)).getbbox():
            across = max(middle - box[0], box[2] - middle)
            down = max(middle - y, y + 1 - middle)
            far = max(far, across * across + down * down)
    return float(far**0.5) / small.width


def _ground(square: Image) -> tuple[int, int, int]:
    """White, unless white hides more of the picture than the dark ground would."""
    shown = square.getchannel("A").point(_step(128))
    counts = square.convert("RGB").convert("L").histogram(shown)
    return DARK if sum(counts[BRIGHT_FROM:]) > sum(counts[:DARK_UNTIL]) and 2 * sum(counts[BRIGHT_FROM:]) > sum(counts) else WHITE  # fmt: skip


def _extended(picture: Image, margin: int) -> Image:
    """The picture with so many more pixels at each side: the colours of its border go on to the outside."""
    from PIL import Image
    from PIL.Image import Resampling, Transpose

    for _ in range(2):  # to the left and the right, then with the sides changed to the top and the foot
        width, height = picture.size
        wider = Image.new(picture.mode, (width + 2 * margin, height))
        for left, there in ((0, 0), (width - BORDER_PX, width + margin)):
            border = picture.resize((1, height), Resampling.BOX, (left, 0, left + BORDER_PX, height))
            wider.paste(border.resize((margin, height)), (there, 0))
        wider.paste(picture, (margin, 0))
        picture = wider.transpose(Transpose.TRANSPOSE)
    return picture


def _step(least: int) -> list[int]:
    """A table that makes 255 of all from `least` on, and 0 of the rest."""
    return [255 * (value >= least) for value in range(256)]
