"""What comes back gets the care that sources get: the same picture in its measured size, its previews and its copies."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from flux2_mcp.domain.models import Save, StoredImage
from flux2_mcp.errors import DeliveryError
from flux2_mcp.images.decode import CheckedImage, check
from flux2_mcp.images.preview import scaled
from flux2_mcp.images.upright import upright
from flux2_mcp.images.workspace import place
from tests.support.picture_files import (
    BLUE,
    GREEN,
    RED,
    WHITE,
    chunk,
    corner,
    described,
    exif,
    jpeg,
    mpo,
    near,
    opened,
    png,
    red_is_green,
    saved,
)

CORNERS = {
    1: ((80, 40), (5, 5)),
    2: ((80, 40), (75, 5)),
    3: ((80, 40), (75, 35)),
    4: ((80, 40), (5, 35)),
    5: ((40, 80), (5, 5)),
    6: ((40, 80), (35, 5)),
    7: ((40, 80), (35, 75)),
    8: ((40, 80), (5, 75)),
}
"""For each of EXIF's orientations: the upright size, and where the red corner is then."""


@dataclass
class Desk:
    """A folder of images that were kept, and a workspace beside it."""

    folder: Path

    def stored(self, data: bytes) -> StoredImage:
        path = self.folder / "kept"
        path.write_bytes(data)
        return described(path)

    def saved(self, data: bytes, name: str) -> StoredImage:
        root = self.folder / "workspace"
        root.mkdir(exist_ok=True)
        return place(root, Save(name, overwrite=True), self.stored(data), 0)

    def seen(self, data: bytes, *, copy: str = "copy.png") -> list[Image.Image]:
        """The picture in all its forms: copies of another type, previews, and what is sent of it as a source."""
        put = self.saved(data, copy)
        assert put.saved is not None, put.note
        path = self.folder / "kept"
        forms = [
            Path(put.saved).read_bytes(),
            scaled(path),
            scaled(path, 64, kind="WEBP"),
            scaled(path, most_bytes=None, kind="PNG"),
            upright(data).data,
        ]
        return [opened(form) for form in forms]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_result_is_measured_shown_and_copied_as_its_exif_data_turns_it(desk: Desk) -> None:
    for kind, copy in (("JPEG", "copy.png"), ("PNG", "copy.webp"), ("WEBP", "copy.png")):
        for orientation, (size, red) in CORNERS.items():
            data = saved(corner(), kind, exif=exif(orientation))
            stored = desk.stored(data)
            assert (stored.width, stored.height) == size, (kind, orientation)
            for form in desk.seen(data, copy=copy):
                assert form.width * size[1] == form.height * size[0], (kind, orientation)
                assert near(form, red, RED), (kind, orientation)
                assert near(form, (size[0] - red[0], size[1] - red[1]), BLUE), (kind, orientation)
                assert not form.getexif()


def test_grey_of_sixteen_bits_keeps_its_brightness(desk: Desk) -> None:
    for grey in (0, 32_896, 65_535):
        data = saved(Image.new("I;16", (80, 40), grey))
        for form in desk.seen(data, copy="copy.jpg"):
            assert near(form, (40, 20), (grey // 257,) * 3, 3), grey


def test_the_four_inks_of_a_press_become_the_colours_they_print(desk: Desk) -> None:
    for form in desk.seen(saved(corner("CMYK"), "JPEG", quality=95)):
        assert form.mode == "RGB"
        assert near(form, (5, 5), RED)
        assert near(form, (60, 30), BLUE)


def half_clear(mode: str) -> bytes:
    """Black; the left half is transparent."""
    alpha = Image.new("L", (80, 40), 255)
    alpha.paste(0, (0, 0, 40, 40))
    picture = Image.new("LA" if mode == "LA" else "RGBA", (80, 40))
    picture.putalpha(alpha)
    return saved(picture.convert(mode)) if mode == "P" else saved(picture)


def test_what_is_transparent_is_white_where_there_is_no_transparency(desk: Desk) -> None:
    for mode in ("RGBA", "LA", "P"):
        data = half_clear(mode)
        assert "transparent is white" in (desk.saved(data, "copy.jpg").note or ""), mode
        *flat, source = desk.seen(data, copy="copy.jpg")
        for form in flat:
            assert near(form, (20, 20), WHITE), mode
            assert near(form, (60, 20), (0, 0, 0)), mode
        kept = desk.saved(data, "copy.webp")
        assert "transparent" not in (kept.note or ""), mode
        for form in (source, opened(Path(kept.saved or "").read_bytes())):
            assert form.mode == "RGBA", mode
            assert form.getchannel("A").getpixel((20, 20)) == 0, mode
            assert form.getchannel("A").getpixel((60, 20)) == 255, mode


def test_the_one_colour_that_is_transparent_is_white_too(desk: Desk) -> None:
    for mode, colour, key in (
        ("RGB", (9, 9, 9), b"\x00\x09\x00\x09\x00\x09"),
        ("L", 9, b"\x00\x09"),
        ("I;16", 900, struct.pack(">H", 900)),
        ("1", 0, b"\x00\x00"),
    ):
        plain = saved(Image.new(mode, (80, 40), colour))
        pixels = plain.index(b"IDAT") - 4
        data = plain[:pixels] + chunk(b"tRNS", key) + plain[pixels:]
        *flat, source = desk.seen(data, copy="copy.jpg")
        for form in flat:
            assert near(form, (20, 20), WHITE), mode
        assert source.getchannel("A").getextrema() == (0, 0), mode


def test_opaque_pictures_say_nothing_of_transparency(desk: Desk) -> None:
    assert desk.saved(png("RGBA"), "copy.jpg").note == ("Converted from image/png to image/jpeg, as its name asks for.")


def test_colours_are_those_of_the_pictures_profile(desk: Desk) -> None:
    for mode in ("RGB", "RGBA", "P"):
        for form in desk.seen(saved(corner(mode), icc_profile=red_is_green()), copy="copy.webp"):
            assert near(form, (5, 5), GREEN), mode
            assert near(form, (60, 30), BLUE), mode
            assert not form.info.get("icc_profile")


def test_a_profile_of_other_channels_than_the_pictures_is_not_applied(desk: Desk) -> None:
    for mode in ("L", "LA"):
        data = saved(
            Image.new(mode, (80, 40), (128, 255)[: len(mode)] if mode == "LA" else 128), icc_profile=red_is_green()
        )
        for form in desk.seen(data, copy="copy.jpg"):
            assert near(form, (40, 20), (128, 128, 128), 3)


def test_a_cameras_jpeg_with_a_second_picture_behind_it_is_a_jpeg(desk: Desk) -> None:
    data = mpo()
    assert opened(data).format == "MPO"
    stored = desk.stored(data)
    assert check(Path(stored.path)) == CheckedImage("image/jpeg", ".jpg", 80, 40)
    assert upright(data).mime_type == "image/jpeg"
    for form in desk.seen(data):
        assert near(form, (5, 5), RED)


def test_what_needs_no_other_type_stays_as_it_came(desk: Desk) -> None:
    turned = saved(corner(), "JPEG", exif=exif(6), icc_profile=red_is_green())
    for data, name in ((mpo(), "copy.jpg"), (turned, "copy.jpeg"), (half_clear("P"), "copy.png")):
        put = desk.saved(data, name)
        assert put.note is None
        assert Path(put.saved or "").read_bytes() == data


def test_a_picture_that_its_name_s_type_can_not_hold_is_safe_and_that_is_said(desk: Desk) -> None:
    put = desk.saved(saved(Image.new("RGB", (16_384, 2))), "copy.webp")
    assert (put.saved, put.note) == (
        None,
        "Not saved to copy.webp: A picture of 16384x2 pixels can't be written as WEBP. The image itself is safe in its path.",
    )


def test_a_decoder_that_finds_no_memory_does_not_call_the_picture_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    path = tmp_path / "kept"
    path.write_bytes(jpeg())
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", full)
    with pytest.raises(DeliveryError, match="not enough memory"):
        check(path)


def test_what_a_broken_picture_s_error_keeps_is_not_its_pixels(tmp_path: Path) -> None:
    """The error of a task in trouble is kept for an hour and more."""
    path = tmp_path / "kept"
    path.write_bytes(saved(Image.effect_noise((600, 600), 90))[:-20_000] + bytes(20_000))
    with pytest.raises(DeliveryError) as caught:
        check(path)
    seen, left = set[int](), [caught.value.__cause__]
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        left += [error.__cause__, error.__context__]
        trace = error.__traceback__
        while trace is not None:
            held = trace.tb_frame.f_locals.values()
            assert not [one for one in held if isinstance(one, Image.Image | io.BytesIO | bytes)]
            trace = trace.tb_next
