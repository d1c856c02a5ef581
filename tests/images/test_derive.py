"""Other sizes, other formats and icons of one picture: what they are called, what is in them, and what is refused."""

from __future__ import annotations

import io
import math
import struct
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from flux2_mcp.errors import InvalidRequestError
from flux2_mcp.images import icons
from flux2_mcp.images.derive import ICON_SIDES, DerivedFile, derive, require_writers, wanted
from tests.support.picture_files import corner, exif, opened, red_is_green, saved
from tests.support.rows import each_row

XMP = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "ext": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
MADE_BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
FORMATS = ["png", "jpeg", "webp", "avif"]
ICON_NAMES = [
    "favicon.ico",
    *[f"icon-{side}.png" for side in (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)],
    "apple-touch-icon.png",
    "maskable-192.png",
    "maskable-512.png",
]


def problems(caught: pytest.ExceptionInfo[InvalidRequestError]) -> list[str]:
    return [f"{each.field}: {each.text}" for each in caught.value.problems]


def disc(colour: tuple[int, int, int], side: int = 600) -> Image.Image:
    """Cut out: a disc with a diameter of 512 pixels, away from the middle. What is transparent is bright green."""
    picture = Image.new("RGBA", (side, side), (0, 255, 0, 0))
    ImageDraw.Draw(picture).ellipse((80, 40, 591, 551), fill=(*colour, 255))
    return picture


def icons_of(original: Image.Image, *names: str) -> dict[str, bytes]:
    """Some of its icons: all of them take half a second."""
    return derive(saved(original), [file for file in wanted("logo.png", icons=True) if file.name in names])


@pytest.fixture(scope="module")
def of_disc() -> dict[str, bytes]:
    """All icons of what is cut out."""
    return derive(saved(disc((200, 60, 20))), wanted("logo.png", icons=True))


def entries(ico: bytes) -> list[bytes]:
    """The files in an ICO."""
    kind, count = struct.unpack("<2H", ico[2:6])
    assert (ico[:2], kind) == (b"\0\0", 1)
    places = [struct.unpack("<2I", ico[14 + 16 * n : 22 + 16 * n]) for n in range(count)]
    for (size, start), (_, after) in pairwise(places):
        assert start + size == after
    return [ico[start : start + size] for size, start in places]


def described(data: bytes) -> tuple[str | None, str | None]:
    """The source type and the description that a file's XMP data has."""
    packet = opened(data).info["xmp"]
    root = ET.fromstring(packet.rstrip(b"\0"))  # noqa: S314  # our own bytes
    return (
        root.findtext(".//ext:DigitalSourceType", namespaces=XMP),
        root.findtext(".//dc:description/rdf:Alt/rdf:li", namespaces=XMP),
    )


# --- names ---


def test_each_width_is_made_in_each_format_beside_the_original() -> None:
    assert wanted("public/hero.png", widths=[640, 1280], formats=["avif", "jpg"]) == (
        DerivedFile("public/hero-640.avif", "AVIF", 640),
        DerivedFile("public/hero-640.jpg", "JPEG", 640),
        DerivedFile("public/hero-1280.avif", "AVIF", 1280),
        DerivedFile("public/hero-1280.jpg", "JPEG", 1280),
    )


def test_names_follow_the_original_and_the_original_itself_is_none_of_them() -> None:
    rows: list[tuple[str, dict[str, Any], list[str]]] = [
        ("a/Hero.JPEG", {"widths": [320]}, ["a/Hero-320.JPEG"]),
        ("hero.jpeg", {"widths": [320], "formats": ["jpeg", "png"]}, ["hero-320.jpeg", "hero-320.png"]),
        ("hero.png", {"formats": ["png", "webp"]}, ["hero.webp"]),
        ("hero.v2.webp", {"formats": ["avif"]}, ["hero.v2.avif"]),
        ("./a/./hero.png", {"formats": ["webp"]}, ["a/hero.webp"]),
        ("hero.png", {}, []),
        ("app/logo.png", {"icons": True}, [f"app/{name}" for name in ICON_NAMES]),
    ]
    with each_row() as row:
        for original, more, expected in rows:
            with row(original):
                assert [file.name for file in wanted(original, **more)] == expected


def test_what_can_not_be_made_is_refused_by_its_field_before_anything_is_read() -> None:
    rows: list[tuple[str, dict[str, Any], list[str]]] = [
        ("../hero.png", {}, ["original: must stay below the workspace: no '..', no empty part."]),
        ("public/", {}, ["original: must be a file, such as public/hero.png; this is a folder."]),
        ("a.gif", {}, ["original: ends in .gif; images are saved as .png, .jpg, .jpeg, .webp. A folder ends in /."]),
        (
            "a.png",
            {"widths": [0, 16_384], "formats": ["wepb", "tiff"]},
            [
                "widths: 0 is no width; a width is a whole number of pixels, 1 to 16383.",
                "widths: 16384 is no width; a width is a whole number of pixels, 1 to 16383.",
                "formats: wepb is none that can be made (did you mean webp?); there are avif, webp, jpeg, png.",
                "formats: tiff is none that can be made; there are avif, webp, jpeg, png.",
            ],
        ),
        ("a.png", {"widths": range(1, 34)}, ["widths: has 33 widths; at most 32 are made of one picture."]),
        ("a.png", {"widths": [64, 64]}, ["widths: a-64.png would be written twice."]),
        ("a.png", {"formats": ["jpg", "jpeg"]}, ["formats: a.jpg would be written twice."]),
        ("icon-512.png", {"icons": True}, ["icons: icon-512.png is the original itself."]),
        ("ICON-16.PNG", {"icons": True}, ["icons: icon-16.png is the original itself."]),
        ("icon.png", {"widths": [32], "icons": True}, ["icons: icon-32.png would be written twice."]),
    ]
    with each_row() as row:
        for original, more, expected in rows:
            with row((original, more)), pytest.raises(InvalidRequestError) as caught:
                wanted(original, **more)
            with row((original, more)):
                assert problems(caught) == expected


@given(
    st.text(st.sampled_from("ab./-5A1ß\u00e9"), min_size=1, max_size=12).map(lambda stem: f"{stem}.png"),
    st.lists(st.integers(1, 20), max_size=3),
    st.lists(st.sampled_from([*FORMATS, "jpg"]), max_size=3),
    st.booleans(),
)
def test_no_two_names_are_the_same_on_any_system_and_none_leaves_the_folder(
    original: str, widths: list[int], formats: list[str], icons: bool
) -> None:
    try:
        files = wanted(original, widths=widths, formats=formats, icons=icons)
    except InvalidRequestError:
        return
    folder = PurePosixPath(original).parent
    assert {PurePosixPath(file.name).parent for file in files} <= {folder}
    names = [str(PurePosixPath(original)), *(file.name for file in files)]
    assert len({name.casefold() for name in names}) == len(names)


def test_a_format_that_pillow_lacks_is_refused_by_its_name() -> None:
    files = wanted("a.png", formats=["avif", "webp", "jpeg"])
    require_writers(files, has=lambda _: True)
    with pytest.raises(InvalidRequestError) as caught:
        require_writers(files, has=lambda name: name != "avif")
    assert problems(caught) == [
        "formats: this installation's Pillow can't write avif. Install a newer Pillow (its wheels can), or leave out avif."
    ]
    require_writers(wanted("a.png", formats=["webp", "jpeg"]), has=lambda name: name != "avif")


# --- pictures ---


def test_the_height_keeps_the_ratio_and_each_file_is_what_its_name_says() -> None:
    files = wanted("hero.png", widths=[100, 35, 1], formats=FORMATS)
    made = derive(saved(Image.new("RGB", (100, 57), "teal")), files)
    assert list(made) == [file.name for file in files]
    found = {name: (picture.format, picture.size) for name, data in made.items() for picture in [opened(data)]}
    sizes = {100: (100, 57), 35: (35, 20), 1: (1, 1)}
    assert found == {file.name: (file.kind, sizes[file.width or 0]) for file in files}


def test_nothing_is_enlarged() -> None:
    files = wanted("hero.png", widths=[64, 81, 900], icons=True)
    with pytest.raises(InvalidRequestError) as caught:
        derive(saved(corner()), files)
    assert problems(caught) == [
        "widths: 81, 900: the original has 80x40 pixels, and no picture is enlarged. At most 80.",
        "icons: need an original of at least 512x512 pixels; this one has 80x40 pixels.",
    ]


def test_what_is_no_sound_picture_is_refused_as_the_original() -> None:
    whole = saved(corner())
    with each_row() as row:
        for data, words in (
            (b"<svg/>", "is no PNG, JPEG or WebP image"),
            (b"", "is no PNG"),
            (whole[:-40], "is a broken image"),
            (whole[:20], "is a broken image"),
        ):
            with row(data[:8]):
                with pytest.raises(InvalidRequestError) as caught:
                    derive(data, wanted("a.png", widths=[10]))
                assert problems(caught)[0].startswith(f"original: {words}")


@pytest.mark.deep  # test_large.py has the pieces
def test_a_picture_too_large_for_memory_is_scaled_from_a_smaller_copy_and_never_made_whole() -> None:
    rows = Image.new("1", (8200, 8000), 1)
    rows.paste(0, (0, 0, 4100, 8000))
    data = saved(rows, compress_level=1)
    [small] = derive(data, wanted("a.png", widths=[64])).values()
    assert opened(small).size == (64, 62)
    assert [opened(small).getpixel((x, 30)) for x in (10, 50)] == [(0, 0, 0), (255, 255, 255)]
    whole = [*wanted("a.png", formats=["webp"]), *wanted("a.png", widths=[2049])]
    with pytest.raises(InvalidRequestError) as caught:
        derive(data, whole)
    assert problems(caught) == [
        "widths: 2049, 8200: the original has 8200x8000 pixels, too many to be made whole here. At most 2048."
    ]


def test_fine_lines_keep_their_light() -> None:
    """Half of the light of white is 188 of 255 in sRGB. The mean of the numbers, 128, is a fifth of the light."""
    for dark, bright, mean in ((0, 255, 188), (64, 200, 152)):
        lines = Image.new("L", (64, 64), dark)
        for x in range(0, 64, 2):
            lines.paste(bright, (x, 0, x + 1, 64))
        [small] = derive(saved(lines), wanted("a.png", widths=[16])).values()
        assert opened(small).getpixel((8, 8)) == (mean, mean, mean)


def test_no_edge_becomes_darker_or_brighter_than_what_it_parts() -> None:
    sides = Image.new("RGB", (1000, 400), (11, 16, 32))
    ImageDraw.Draw(sides).line((100, 0, 800, 399), fill=(124, 245, 196), width=90)
    for width in (16, 333):
        [small] = derive(saved(sides), wanted("a.png", widths=[width])).values()
        assert opened(small).getextrema() == ((11, 124), (16, 245), (32, 196))


def test_what_is_transparent_gives_no_colour_to_an_edge() -> None:
    made = derive(saved(disc((200, 60, 20))), wanted("a.png", widths=[33, 200], formats=["png"]))
    for data in made.values():
        picture = opened(data)
        shown = {colour[:3] for _, colour in picture.getcolors(99_999) or [] if colour[3]}  # type: ignore[index]
        assert shown == {(200, 60, 20)}
        assert picture.getchannel("A").getextrema() == (0, 255)


def test_turns_and_profiles_are_applied_and_nothing_else_of_the_original_is_left() -> None:
    original = saved(
        corner(), "JPEG", quality=100, subsampling=0, exif=exif(6), icc_profile=red_is_green(), comment=b"home"
    )
    made = derive(original, wanted("a.jpg", widths=[40], formats=FORMATS))
    with each_row() as row:
        for name, data in made.items():
            with row(name):
                picture = opened(data)
                assert picture.size == (40, 80)
                red, green, blue = picture.convert("RGB").getpixel((30, 10))  # type: ignore[misc]
                assert green > 200
                assert max(red, blue) < 90
                assert not picture.getexif()
                assert not {"icc_profile", "comment", "exif"} & set(picture.info)


def test_alpha_that_hides_nothing_is_left_out() -> None:
    made = derive(saved(corner("RGBA")), wanted("a.png", widths=[40], formats=["png", "webp"]))
    assert {opened(data).mode for data in made.values()} == {"RGB"}


def test_the_same_original_gives_the_same_bytes() -> None:
    original = saved(disc((200, 60, 20)))
    some = ("favicon.ico", "apple-touch-icon.png", "maskable-192.png")
    files = [*wanted("a.png", widths=[90, 400], formats=FORMATS), *wanted("a.png", icons=True)]
    files = [file for file in files if file.role == "picture" or file.name in some]
    assert derive(original, files, prompt="a fox") == derive(original, files[::-1], prompt="a fox")


# --- provenance ---


def test_every_file_says_that_a_model_made_it_and_has_the_prompt_only_if_asked() -> None:
    prompt = 'a <fox> & "friends"\x00\x1b\ud800 at dusk, 日本' + "&" * 9000
    files = [*wanted("a.png", widths=[60], formats=FORMATS), *wanted("a.png", icons=True)]
    files = [file for file in files if file.role != "icon" or file.name in {"favicon.ico", "icon-16.png"}]
    original = saved(Image.new("RGB", (512, 512), "teal"))
    bare, told = (derive(original, files, prompt=each) for each in (None, prompt))
    told_text = ('a <fox> & "friends"\ufffd\ufffd\ufffd at dusk, 日本' + "&" * 9000)[:8000]
    with each_row() as row:
        for name in bare:
            with row(name):
                inside = (entries(made[name]) if name.endswith(".ico") else [made[name]] for made in (bare, told))
                for without, with_it in zip(*inside, strict=True):
                    assert described(without) == (MADE_BY_A_MODEL, None)
                    assert described(with_it) == (MADE_BY_A_MODEL, told_text)


# --- icons ---


def test_the_icons_have_the_sizes_in_their_names_and_only_those_for_browsers_are_transparent(
    of_disc: dict[str, bytes],
) -> None:
    found = {name: (picture.size, picture.mode) for name, data in of_disc.items() for picture in [opened(data)]}
    assert found == {
        "favicon.ico": ((48, 48), "RGBA"),
        **{f"icon-{side}.png": ((side, side), "RGBA") for side in ICON_SIDES},
        "apple-touch-icon.png": ((180, 180), "RGB"),
        **{f"maskable-{side}.png": ((side, side), "RGB") for side in (192, 512)},
    }
    with Image.open(io.BytesIO(of_disc["favicon.ico"])) as ico:
        assert ico.info["sizes"] == {(16, 16), (32, 32), (48, 48)}
    assert entries(of_disc["favicon.ico"]) == [of_disc[f"icon-{side}.png"] for side in (16, 32, 48)]


def test_an_icon_of_what_is_cut_out_fills_its_square_from_side_to_side(of_disc: dict[str, bytes]) -> None:
    for side in (16, 48, 512):
        assert opened(of_disc[f"icon-{side}.png"]).getchannel("A").getbbox() == (0, 0, side, side)


def test_a_maskable_icon_shows_all_that_is_cut_out_in_its_safe_circle(of_disc: dict[str, bytes]) -> None:
    square = Image.new("RGBA", (700, 700))
    square.paste((20, 60, 200, 255), (30, 100, 630, 660))
    for made in (of_disc, icons_of(square, "maskable-192.png")):
        picture = opened(made["maskable-192.png"])
        marked = picture.convert("L").point(lambda value: 255 * (value < 200)).tobytes()
        offsets = [divmod(at, 192) for at, value in enumerate(marked) if value]
        farthest = max(math.hypot(x + 0.5 - 96, y + 0.5 - 96) for y, x in offsets) / 192
        assert 0.37 < farthest <= 0.4
        assert picture.getpixel((0, 0)) == icons.WHITE


def test_what_white_would_hide_is_laid_on_a_dark_ground() -> None:
    names = ("apple-touch-icon.png", "maskable-192.png")
    for colour, ground in (((255, 255, 255), icons.DARK), ((200, 60, 20), icons.WHITE), ((20, 20, 20), icons.WHITE)):
        made = icons_of(disc(colour), *names)
        assert [opened(made[name]).getpixel((0, 0)) for name in names] == [ground, ground]


def test_a_picture_with_a_ground_is_cut_to_its_middle_and_its_border_goes_on_around_the_safe_part() -> None:
    wide = Image.new("RGB", (900, 600), "black")
    wide.paste((200, 60, 20), (150, 0, 750, 300))
    wide.paste((20, 60, 200), (150, 300, 750, 600))
    halves = {(200, 60, 20), (20, 60, 200)}
    for data in icons_of(wide, "icon-16.png", "apple-touch-icon.png", "maskable-192.png").values():
        picture = opened(data)
        side = picture.width
        corners = [picture.getpixel((x, y)) for y in (0, side - 1) for x in (0, side - 1)]
        assert corners == [(200, 60, 20)] * 2 + [(20, 60, 200)] * 2
        assert halves <= {colour for _, colour in picture.getcolors(9999) or []}


def test_a_maskable_icon_has_the_whole_picture_in_its_middle_four_fifths() -> None:
    framed = Image.new("RGB", (640, 640), (200, 60, 20))
    framed.paste((20, 60, 200), (64, 64, 576, 576))
    [data] = icons_of(framed, "maskable-512.png").values()
    inner = opened(data).getchannel("B").point(lambda value: 255 * (value > 120)).getbbox()
    assert inner == (93, 93, 419, 419)
