"""Cutting out: the ground is really transparent, the subject really opaque, and the edge between them soft and clean."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageChops, ImageDraw, ImageFilter

from flux2_mcp.sandbox.drawing.cut_out import cut_out
from flux2_mcp.sandbox.drawing.draw import SourceImageError, render
from flux2_mcp.sandbox.drawing.plan import plan
from tests.support.deep import deep_but
from tests.support.picture_files import saved
from tests.support.rows import each_row, rows

SIZE = (320, 240)


def opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return picture


def alpha(data: bytes) -> Image.Image:
    picture = opened(data)
    assert (picture.format, picture.mode) == ("PNG", "RGBA")
    return picture.getchannel("A")


def share(stencil: Image.Image, low: int, high: int) -> float:
    """The share of the pixels whose value is in this range."""
    return sum(stencil.histogram()[low : high + 1]) / (stencil.width * stencil.height)


def disc(ground: Image.Image, colour: tuple[int, int, int] = (180, 30, 40)) -> Image.Image:
    """A disc with smooth edges in the middle of a ground."""
    large = Image.new("L", (ground.width * 4, ground.height * 4))
    ImageDraw.Draw(large).ellipse((440, 240, 840, 720), fill=255)
    picture = ground.copy()
    picture.paste(colour, mask=large.reduce(4))
    return picture


def gradient(*ends: tuple[int, int, int]) -> Image.Image:
    column = Image.new("RGB", (1, 2))
    for y, colour in enumerate(ends):
        column.putpixel((0, y), colour)
    return column.resize(SIZE, Image.Resampling.BILINEAR)


GROUNDS = {
    "white": Image.new("RGB", SIZE, "white"),
    "black": Image.new("RGB", SIZE, "black"),
    "a sky that gets lighter": gradient((30, 40, 120), (250, 220, 190)),
    "a sky with grain": ImageChops.add(
        gradient((40, 60, 140), (220, 220, 230)), Image.effect_noise(SIZE, 8).convert("RGB"), 1, -128
    ),
}


def test_what_surrounds_the_subject_goes_and_the_subject_stays_with_soft_edges() -> None:
    with each_row() as row:
        for name, ground in GROUNDS.items():
            with row(name):
                found = alpha(cut_out(saved(disc(ground))))
                assert found.size == SIZE
                assert {found.getpixel(at) for at in ((0, 0), (319, 0), (0, 239), (319, 239), (70, 120))} == {0}
                assert {found.getpixel(at) for at in ((160, 120), (130, 120), (190, 120), (160, 80))} == {255}
                assert share(found, 128, 255) == pytest.approx(3.1416 * 50 * 60 / (320 * 240), rel=0.05)
                assert 0.001 < share(found, 1, 254) < 0.03


def test_an_edge_keeps_nothing_of_the_ground() -> None:
    """On white it would have a light seam, which shows as soon as it lies on something dark."""
    picture = opened(cut_out(saved(disc(GROUNDS["white"]))))
    seen = picture.getchannel("A").point([255 * (value > 60) for value in range(256)])
    blue = Image.composite(picture.getchannel("B"), Image.new("L", SIZE), seen)
    assert sum(blue.histogram()[110:]) == 0  # the disc has 40, the ground 255


DRAWN = ("a flat fox logo on white", "a lighthouse at dusk", "a red apple", "forest in the fog", "a cat sticker")


@pytest.mark.parametrize("prompt", deep_but(DRAWN, "a red apple"))
def test_of_what_the_sandbox_draws_something_stays_in_the_middle_and_something_goes(prompt: str) -> None:
    data = render(
        prompt=prompt, variant="pro", model="m", action="text_to_image", aspect_ratio="4:3", output_resolution="1k",
        size=(576, 432),
    )  # fmt: skip
    found = alpha(cut_out(data))
    width, height = found.size
    middle = found.crop((width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    assert share(middle, 255, 255) > 0.1
    assert share(found, 0, 0) > 0.25


@pytest.mark.parametrize(
    "prompt",
    deep_but(
        ["a logo", "an icon of a lighthouse", "a fox, cut out", "a cup on white", "a rose on a plain background"],
        "a fox, cut out",
        "a rose on a plain background",
    ),
)
def test_what_is_meant_to_be_cut_out_is_drawn_alone_on_an_even_ground(prompt: str) -> None:
    data = render(
        prompt=prompt, variant="pro", model="m", action="text_to_image", aspect_ratio="1:1", output_resolution="1k",
        size=(400, 400),
    )  # fmt: skip
    picture = opened(data).convert("RGB")
    assert {picture.getpixel(at) for at in ((3, 3), (396, 3), (3, 396), (396, 396), (8, 200), (391, 200))} == {
        (255, 255, 255)
    }
    found = alpha(cut_out(data))
    assert share(found, 0, 0) > 0.5
    assert share(found.crop((0, 0, 400, 40)), 1, 255) == share(found.crop((0, 375, 400, 400)), 1, 255) == 0  # the words


KINDS: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: saved(disc(GROUNDS["white"]), "JPEG", quality=92),
    "webp": lambda: saved(disc(GROUNDS["white"]), "WEBP", quality=90),
    "grey": lambda: saved(disc(GROUNDS["white"]).convert("L")),
    "palette": lambda: saved(disc(GROUNDS["white"]).quantize(64)),
    "16 bits": lambda: saved(disc(GROUNDS["white"]).convert("L").convert("I;16").point(lambda value: value * 257)),
}


def test_every_kind_of_picture_is_cut_out() -> None:
    with each_row() as row:
        for name, make in KINDS.items():
            with row(name):
                found = alpha(cut_out(make()))
                assert (found.getpixel((3, 3)), found.getpixel((160, 120))) == (0, 255)


def test_a_photograph_is_set_upright_and_what_was_transparent_stays_so() -> None:
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    assert alpha(cut_out(saved(disc(GROUNDS["white"]), "JPEG", exif=turned))).size == (240, 320)
    picture = disc(GROUNDS["white"]).convert("RGBA")
    picture.paste((0, 0, 0, 0), (150, 110, 170, 130))
    found = alpha(cut_out(saved(picture)))
    assert (found.getpixel((160, 120)), found.getpixel((160, 90)), found.getpixel((2, 2))) == (0, 255, 0)


@given(
    st.sampled_from([(1, 1), (2, 1), (1, 7), (3, 3), (40, 2), (33, 47)]),
    st.sampled_from(["flat", "noise", "gradient", "edges"]),
)
def test_no_picture_is_too_small_or_too_wild(size: tuple[int, int], kind: str) -> None:
    picture = {
        "flat": lambda: Image.new("RGB", size, (90, 120, 30)),
        "noise": lambda: Image.effect_noise(size, 120).convert("RGB"),
        "gradient": lambda: Image.linear_gradient("L").resize(size).convert("RGB"),
        "edges": lambda: Image.effect_noise(size, 200).filter(ImageFilter.FIND_EDGES).convert("RGB"),
    }[kind]()
    found = alpha(cut_out(saved(picture)))
    assert found.crop((size[0] // 4, size[1] // 4, -(-size[0] * 3 // 4), -(-size[1] * 3 // 4))).getextrema()[1] == 255
    assert size[0] * size[1] < 9 or share(found, 0, 127) > 0


@pytest.mark.parametrize("data", [b"", b"<svg/>", saved(Image.new("RGB", (90, 90)))[:60]])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(SourceImageError, match="is not an image that can be read"):
        cut_out(data)


@rows("prompt", ["a woman on white horse", "a transparent umbrella", "a lighthouse at dusk", "an isolated cabin"])
def test_a_scene_stays_one(prompt: str) -> None:
    assert not plan(prompt, (0, 0, 0)).even
