from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction

import pytest
from PIL import ExifTags, Image, ImageChops

from flux2_mcp.domain import catalog
from flux2_mcp.sandbox import pictures
from flux2_mcp.sandbox.drawing.canvas import Canvas
from flux2_mcp.sandbox.drawing.draw import ACCENT, SourceImageError, read_sources, render, size_of
from flux2_mcp.sandbox.drawing.plan import plan
from flux2_mcp.sandbox.drawing.text import lay_out, printable
from tests.conftest import SEED_PROMPT
from tests.support.rows import each_row, rows

RATIOS = ("1:1", "4:3", "3:4", "16:9", "9:16", "3:2", "2:3")
COLOURS = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240), (128, 96, 0),
)  # fmt: skip
PROMPTS_BY_MOTIF = (
    "a ringed planet in deep space", "an astronaut in space, night", "a neon city in the rain", "a city by day",
    "a sailboat at sunset, gulls", "a mountain lake under an aurora", "a balloon over winter mountains", "a misty forest",
    "golden desert dunes", "a friendly robot", "a black cat", "portrait of a woman", "a red rose", "a cup of coffee",
    "a perfume bottle", "a luxury watch", "a logo for a bakery", "a fox logo", "a red apple",
    "a lighthouse at dusk", "a lighthouse, sticker", "zzz", "qqq", "xyzzy", "plugh",
)  # fmt: skip


def draw(
    prompt: str = "a quiet place",
    variant: str = "pro",
    sources: Sequence[bytes] = (),
    ratio: str = "1:1",
    resolution: str = "1k",
    size: tuple[int, int] | None = (256, 256),
    *,
    accent: tuple[int, int, int] | None = None,
    plain: bool = False,
) -> bytes:
    action = "remix_image" if sources else "text_to_image"
    return render(
        prompt=prompt,
        accent=accent,
        variant=variant,
        model=f"flux-2-{variant}-{action.replace('_', '-')}",
        action=action,
        aspect_ratio=ratio,
        output_resolution=resolution,
        sources=sources,
        size=size,
        plain=plain,
    )


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (60, 40)) -> bytes:
    return encoded(Image.new("RGB", size, colour))


def share_of(image: Image.Image, colour: tuple[int, int, int], tolerance: int = 6) -> float:
    """The share of the picture's pixels that are this colour."""
    off = ImageChops.difference(image, Image.new("RGB", image.size, colour))
    worst = ImageChops.lighter(ImageChops.lighter(off.getchannel("R"), off.getchannel("G")), off.getchannel("B"))
    return sum(worst.histogram()[: tolerance + 1]) / (image.width * image.height)


def test_each_ratio_is_exact_near_its_area_and_in_steps_of_16() -> None:
    for ratio, (resolution, area) in itertools.product(RATIOS, [("1k", 1024**2), ("2k", 2048**2)]):
        width, height = size_of(ratio, resolution)
        across, down = map(int, ratio.split(":"))
        assert width * down == height * across, ratio
        assert (width % 16, height % 16) == (0, 0), ratio
        assert 0.85 < width * height / area < 1.15, ratio


def test_a_square_is_1024_or_2048_pixels() -> None:
    assert (size_of("1:1", "1k"), size_of("1:1", "2k")) == ((1024, 1024), (2048, 2048))


def test_auto_finds_a_contract_ratio_again() -> None:
    for width, height in [size_of(ratio, "1k") for ratio in RATIOS]:
        assert size_of("auto", "1k", (width * 3, height * 3)) == (width, height)


@rows("source", [(3000, 1999), (1999, 3000), (1179, 2556), (800, 797), (1, 1)])
def test_auto_follows_the_source_as_nearly_as_steps_of_16_allow(source: tuple[int, int]) -> None:
    width, height = size_of("auto", "2k", source)
    assert (width % 32, height % 32) == (0, 0)
    assert width / height == pytest.approx(source[0] / source[1], rel=0.01)
    assert 0.75 < width * height / 2048**2 < 1.25


def test_auto_without_a_source_is_square_and_with_a_strip_at_most_four_to_one() -> None:
    assert size_of("auto", "1k") == (1024, 1024)
    assert [Fraction(*size_of("auto", "1k", strip)) for strip in ((9000, 3), (3, 9000))] == [
        Fraction(4),
        Fraction(1, 4),
    ]


@pytest.mark.parametrize(("ratio", "resolution"), [("5:4", "1k"), ("", "1k"), ("1:1", "4k")])
def test_a_ratio_or_resolution_outside_the_contract_is_refused(ratio: str, resolution: str) -> None:
    with pytest.raises(ValueError, match=r"is one of"):
        size_of(ratio, resolution)


@pytest.mark.parametrize(
    ("ratio", "resolution"),
    [("16:9", "1k")] + [pytest.param(ratio, kind, marks=pytest.mark.deep) for ratio in RATIOS for kind in ("1k", "2k")],
)
def test_the_picture_has_the_size_of_its_ratio_says_who_drew_it_and_is_small_enough_to_pass_around(
    ratio: str, resolution: str
) -> None:
    content = draw(SEED_PROMPT, ratio=ratio, resolution=resolution, size=None)
    image = opened(content)
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", size_of(ratio, resolution))
    assert image.info == {
        "Software": "flux2-mcp sandbox",
        "Comment": "SANDBOX: drawn in place of flux-2-pro-text-to-image (text_to_image); no model was run",
    }
    assert len(content) < 1_500_000 * (4 if resolution == "2k" else 1)


@pytest.mark.deep  # what pictures look like; that they are drawn stays
def test_a_picture_twice_as_large_is_the_same_composition() -> None:
    small, large = (opened(draw(SEED_PROMPT, size=size)) for size in ((512, 512), (1024, 1024)))
    counts = ImageChops.difference(small.reduce(16), large.reduce(32)).convert("L").histogram()
    assert sum(counts[60:]) == 0
    assert sum(level * count for level, count in enumerate(counts)) / 32**2 < 4


def test_an_asked_size_overrides_the_ratio() -> None:
    assert opened(draw(ratio="16:9", size=(96, 160))).size == (96, 160)


def test_the_same_arguments_give_the_same_bytes() -> None:
    sources = [flat(COLOURS[0]), flat(COLOURS[1])]
    assert draw(SEED_PROMPT, size=(128, 128)) == draw(SEED_PROMPT, size=(128, 128))
    assert draw("blend them", sources=sources) == draw("blend them", sources=sources)


@pytest.mark.deep  # the same
def test_variants_prompts_and_ratios_look_different() -> None:
    pictures = [draw(SEED_PROMPT, variant) for variant in catalog.variants()]
    pictures += [draw("a lighthouse"), draw("a windmill"), draw(SEED_PROMPT, ratio="4:3")]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.deep  # the same
def test_the_badge_stands_out_in_the_variants_colour() -> None:
    for variant in catalog.variants():
        accent = pictures.accent(variant)
        assert accent is not None or variant not in {"pro", "flex", "max"}
        picture = draw("a quiet place", variant, size=(512, 512), accent=accent)
        image = opened(picture).crop((29, 29, 108, 48))
        assert share_of(image, accent or ACCENT, 30) > 0.5, variant
        assert share_of(image, (12, 14, 24), 30) > 0.08, variant


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.deep), 4])
def test_every_motif_is_drawn(every: int) -> None:
    with each_row() as row:
        for prompt in PROMPTS_BY_MOTIF[::every]:
            with row(prompt):
                image = opened(draw(prompt, size=(120, 90)))
                colours = image.getcolors(image.width * image.height)
                assert colours is not None
                assert len(colours) > (50 if plan(prompt, ACCENT).even else 2000)  # on an even ground, in few colours


@rows("size", [(1, 1), (2, 3), (16, 16), (400, 8), (8, 400)])
def test_a_size_too_small_for_anything_is_still_a_picture(size: tuple[int, int]) -> None:
    assert opened(draw(SEED_PROMPT, size=size)).size == size
    assert opened(draw(SEED_PROMPT, sources=[flat(COLOURS[0])] * 3, size=size)).size == size


@pytest.mark.parametrize("count", [1, 2, 8, *(pytest.param(count, marks=pytest.mark.deep) for count in range(3, 8))])
def test_a_remix_shows_each_of_its_sources(count: int) -> None:
    sizes = ((60, 40), (40, 60), (50, 50), (300, 20), (20, 300), (64, 48), (30, 90), (90, 30))
    sources = [flat(colour, size) for colour, size in zip(COLOURS[:count], sizes, strict=False)]
    image = opened(draw("a mood board", sources=sources, size=(512, 512)))
    least = 0.25 if count == 1 else 0.01
    assert {colour: share_of(image, colour) > least for colour in COLOURS[:count]} == dict.fromkeys(
        COLOURS[:count], True
    )


def test_a_remix_takes_auto_from_its_first_source_set_upright() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    sources = [encoded(Image.new("RGB", (90, 60)), exif=exif), flat(COLOURS[4])]
    assert opened(draw(sources=sources, ratio="auto", size=None)).size == size_of("auto", "1k", (60, 90)) == (832, 1248)


@pytest.mark.deep
def test_a_remix_has_the_ratio_that_it_asks_for_whatever_its_sources_have() -> None:
    assert opened(draw(sources=[flat(COLOURS[3], (10, 10))], ratio="9:16", size=None)).size == (720, 1280)


def test_a_remix_whose_sources_could_not_be_fetched_says_so_and_is_drawn() -> None:
    def without(action: str) -> bytes:
        return render(
            prompt=SEED_PROMPT, variant="pro", model="flux-2-pro-remix-image", action=action,
            aspect_ratio="auto", output_resolution="1k", size=(256, 256),
        )  # fmt: skip

    remix, plain = opened(without("remix_image")), opened(without("text_to_image"))
    assert ImageChops.difference(remix, plain).getbbox() is not None


RED = (200, 30, 40)
SOURCES_OF_EVERY_KIND = {
    "jpeg": encoded(Image.new("RGB", (80, 60), RED), "JPEG", quality=95),
    "webp": encoded(Image.new("RGB", (80, 60), RED), "WEBP", lossless=True),
    "palette": encoded(Image.new("RGB", (80, 60), RED).quantize(4)),
    "gif": encoded(Image.new("RGB", (80, 60), RED).quantize(4), "GIF"),
    "transparent": encoded(Image.new("RGBA", (80, 60), (*RED, 255))),
    "cmyk": encoded(Image.new("RGB", (80, 60), RED).convert("CMYK"), "JPEG", quality=95),
    "one pixel": flat(RED, (1, 1)),
    "animated": encoded(
        Image.new("RGB", (80, 60), RED),
        "WEBP",
        lossless=True,
        save_all=True,
        append_images=[Image.new("RGB", (80, 60))] * 3,
    ),
}


@pytest.mark.deep  # the same
def test_a_source_of_any_kind_is_recognisable() -> None:
    with each_row() as row:
        for kind, source in SOURCES_OF_EVERY_KIND.items():
            with row(kind):
                assert share_of(opened(draw("a mood board", sources=[source])), RED, 10) > 0.2


def test_grey_bilevel_and_16_bit_sources_keep_their_lightness() -> None:
    grey = [Image.new("L", (9, 9), 128), Image.new("1", (9, 9), 1), Image.new("I;16", (9, 9), 0x4040)]
    image = opened(draw("a mood board", sources=[encoded(source) for source in grey], size=(512, 512)))
    assert [share_of(image, (level,) * 3) > 0.03 for level in (128, 255, 64)] == [True, True, True]


def test_what_is_transparent_shows_paper() -> None:
    image = opened(draw(sources=[encoded(Image.new("RGBA", (80, 60), (0, 0, 0, 0)))]))
    assert share_of(image, (244, 244, 246)) > 0.2


@rows("orientation", range(1, 9))
def test_a_photograph_is_set_upright(orientation: int) -> None:
    upright = Image.new("RGB", (90, 60), RED)
    upright.paste((20, 40, 220), (0, 0, 90, 30))
    upright.paste((20, 240, 20), (0, 0, 20, 30))
    # How a camera in that position stores it, by EXIF's definition.
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }.get(orientation)  # fmt: skip
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    [source] = read_sources([encoded(upright if stored is None else upright.transpose(stored), exif=exif)])
    assert (source.size, source.image.tobytes()) == (upright.size, upright.tobytes())


def test_damaged_exif_data_does_not_spoil_a_picture() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.XResolution] = 72.0
    content = encoded(Image.new("RGB", (80, 60), RED), "WEBP", lossless=True, exif=exif.tobytes())
    spoilt = content.replace(b"MM\0*\0\0\0\x08", b"MM\0*\xff\xff\0\0")
    assert spoilt != content
    assert share_of(opened(draw(sources=[spoilt])), RED, 10) > 0.2


@pytest.mark.deep  # of their shrinking: the same
@pytest.mark.parametrize("count", [2, 8])
def test_large_photographs_are_drawn(count: int) -> None:
    sources = [encoded(Image.new("RGB", (2400, 1600), colour), "JPEG", quality=30) for colour in COLOURS[:count]]
    image = opened(draw("a mood board", sources=sources, size=(512, 512)))
    assert [share_of(image, colour, 10) > 0.01 for colour in COLOURS[:count]] == [True] * count


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(8001, 8000), (10_000, 10_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(SourceImageError, match=r"source image 2 has .*more than 64,000,000") as caught:
        draw(sources=[flat(RED), png_that_claims(*size)])
    assert caught.value.index == 1


UNREADABLE = {
    "empty": b"",
    "text": b"<html>no image</html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "tiff": encoded(Image.new("RGB", (4, 4)), "TIFF"),
    "cut png": encoded(Image.effect_noise((200, 200), 80).convert("RGB"))[:400],
    "cut jpeg": encoded(Image.effect_noise((200, 200), 80).convert("RGB"), "JPEG")[:400],
    "png without pixels": png_that_claims(500, 500),
}


def test_a_source_that_is_no_readable_image_is_refused_by_number() -> None:
    with each_row() as row:
        for kind, source in UNREADABLE.items():
            with row(kind), pytest.raises(SourceImageError, match="source image 1 is not an image that can be read"):
                draw(sources=[source, flat(RED)])


STRANGE_PROMPTS = (
    "   ", "\x00\x1b[31m\x07\u202e\u200f", "cat " * 1250, "x" * 5000, "\u6f22" * 5000, "\ufdfa" * 5000, "\ud800 lone",
    "👩\u200d🚀 holding a 🐈", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645", "cafe\u0301 déjà vu",
)  # fmt: skip


def test_no_prompt_is_too_strange_to_draw() -> None:
    with each_row() as row:
        for prompt in STRANGE_PROMPTS:
            with row(ascii(prompt[:20])):
                assert opened(draw(prompt, size=(128, 128))).size == (128, 128)


def test_the_title_is_set_in_what_the_font_has() -> None:
    strange = "Caf\u00e9 \u2014 na\u00efve\u0000\tposter 4\u00d75\n\u201cok\u201d \u6f22\u5b57 \ud83d\ude80"
    assert (
        printable(strange.encode("utf-16", "surrogatepass").decode("utf-16"))
        == "Cafe - naive poster 4x5 \u201cok\u201d"
    )


def test_a_title_that_is_too_long_ends_in_an_ellipsis_and_moves_nothing() -> None:
    layouts = [lay_out("cat " * n, Canvas(Image.new("RGB", (512, 512))), aside=False) for n in (3, 600, 1250)]
    short, long, longer = ([layout.lines, round(layout.rule)] for layout in layouts)
    assert short == [["cat cat cat"], long[1]]
    assert long == longer
    assert [line[-1] for line in layouts[1].lines] == [*"t" * (len(layouts[1].lines) - 1), "\N{HORIZONTAL ELLIPSIS}"]


# --- plain ------------------------------------------------------------------------------------------------------------


def test_a_plain_picture_has_its_size_its_mark_its_prompt_and_its_sources_and_no_scene() -> None:
    plain, whole = draw("a black cat", plain=True), draw("a black cat")
    assert plain == draw("a black cat", plain=True)
    assert len(plain) < len(whole) / 2
    picture = opened(plain)
    assert picture.size == opened(whole).size
    assert picture.info["Comment"] == opened(whole).info["Comment"]
    assert ImageChops.difference(picture, opened(draw("a black hat", plain=True))).getbbox() is not None
    source = encoded(Image.new("RGB", (64, 64), (230, 25, 75)))
    shown = opened(draw("a black cat", sources=[source], plain=True)).getcolors(2**18)
    assert shown is not None
    assert max(shown, key=lambda each: (each[1] == (230, 25, 75), each[0]))[1] == (230, 25, 75)
