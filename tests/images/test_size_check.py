from __future__ import annotations

from msgspec.structs import replace

from flux2_mcp.domain import catalog
from flux2_mcp.domain.models import ImageRequest, SourceImage
from flux2_mcp.images.size_check import EMPTY, OPAQUE, mismatch
from flux2_mcp.sandbox.drawing import draw
from tests.support.rows import rows

PLAIN = catalog.request(prompt="a red fox")
RATIOS = [str(ratio) for ratio in catalog.models()["flux-2-pro-text-to-image"].fields["aspect_ratio"].enum]


@rows("resolution", ["1k", "2k"])
@rows("ratio", RATIOS)
def test_each_ratio_is_itself_and_no_other(ratio: str, resolution: str) -> None:
    request = replace(PLAIN, aspect_ratio=ratio, output_resolution=resolution)
    for other in RATIOS:
        width, height = draw.size_of(other, resolution)
        assert (mismatch(request, width, height) is None) is (other == ratio)


@rows(
    ("size", "asked"),
    [((1360, 768), "16:9"), ((1344, 768), "16:9"), ((1024, 1024), None), ((1248, 832), "3:2"), ((832, 1248), "2:3")],
)
def test_sides_may_be_rounded_to_what_the_model_can_draw(size: tuple[int, int], asked: str | None) -> None:
    assert mismatch(replace(PLAIN, aspect_ratio=asked), *size) is None


def test_another_ratio_or_resolution_is_named() -> None:
    wide = replace(PLAIN, aspect_ratio="16:9", output_resolution="2k")
    assert mismatch(wide, 1440, 2560) == "1440x2560 came, which is not the ratio 16:9 that was asked for."
    assert mismatch(wide, 1280, 720) == "1280x720 came, which is not the resolution 2k that was asked for."
    assert mismatch(wide, 100, 100) == (
        "100x100 came, which is not the ratio 16:9 nor the resolution 2k that was asked for."
    )
    assert mismatch(wide, 2048, 1152) is None
    assert mismatch(PLAIN, 2048, 2048) == "2048x2048 came, which is not the resolution 1k that was asked for."


def test_auto_is_the_ratio_of_the_first_source_where_that_was_seen() -> None:
    auto = replace(PLAIN, aspect_ratio="auto")
    seen = replace(auto, sources=(SourceImage(given="a.png", identity="x", width=4032, height=3024),))
    assert mismatch(auto, 1280, 720) is None
    assert mismatch(replace(auto, sources=(SourceImage(given="u", identity="u"),)), 1280, 720) is None
    assert mismatch(seen, 1152, 864) is None
    assert mismatch(seen, 1280, 720) == (
        "1280x720 came, which is not the ratio of the first source (4032x3024) that was asked for."
    )


def test_a_task_that_was_only_adopted_matches_whatever_came() -> None:
    assert mismatch(replace(PLAIN, model="unknown", variant="unknown"), 17, 4) is None


def test_a_ratio_is_right_within_three_in_a_hundred_and_no_further() -> None:
    for width in range(900, 1100):
        if width not in {970, 1030}:  # just at the bound, rounding decides
            assert (mismatch(PLAIN, width, 1000) is None) == (970 < width < 1030)


def test_less_than_two_megapixels_are_no_2k_and_more_no_1k() -> None:
    large = replace(PLAIN, output_resolution="2k")
    for side in range(1216, 1680, 16):  # 1.5 to 2.8 megapixels
        enough = side * side >= 2_000_000
        assert ((mismatch(large, side, side) is None), (mismatch(PLAIN, side, side) is None)) == (enough, not enough)


def test_what_only_a_newer_version_knows_matches_anything() -> None:
    for asked in ("9:0", "wide", "1:2:3", "9" * 5000 + ":1", ""):
        assert mismatch(replace(PLAIN, aspect_ratio=asked), 1024, 1024) is None, asked
    assert mismatch(replace(PLAIN, output_resolution="16k"), 16_384, 16_384) is None


def finished(model: str, source: SourceImage | None = None, factor: int | None = None) -> ImageRequest:
    made = catalog.all_models()[model]
    sources = () if source is None else (source,)
    return ImageRequest(
        action=made.action, variant=made.variant, model=made.id, prompt="", upscale_factor=factor, sources=sources
    )


CUT, TOPAZ, CRISP = "recraft-remove-background", "topaz-upscale-image", "recraft-crisp-upscale"
SMALL = SourceImage(given="a.png", identity="1", width=100, height=50)


@rows(
    ("request_", "size", "share", "why"),
    [
        (finished(CUT, SMALL), (100, 50), 0.4, None),
        (finished(CUT), (7, 9), 0.4, None),
        (finished(CUT, SMALL), (50, 25), 0.4, None),
        (finished(CUT, SMALL), (100, 50), None, OPAQUE),
        (finished(CUT, SMALL), (100, 50), 0.0, OPAQUE),
        (finished(CUT, SMALL), (100, 50), 1.0, EMPTY),
        (finished(CUT, SMALL), (50, 50), 0.4, "50x50 came, which has not the shape of its source (100x50)."),
        (finished(TOPAZ, SMALL, 4), (400, 200), None, None),
        (finished(TOPAZ, SMALL, 4), (404, 196), None, None),
        (finished(TOPAZ, SMALL, 4), (405, 200), None, "405x200 came, which is not 4 times its source (100x50)."),
        (finished(TOPAZ, SMALL, 4), (200, 100), None, "200x100 came, which is not 4 times its source (100x50)."),
        (finished(TOPAZ, factor=4), (3, 3), None, None),
        (finished(TOPAZ, replace(SMALL, transparent=True), 2), (200, 100), None, OPAQUE),
        (finished(TOPAZ, replace(SMALL, transparent=True), 2), (200, 100), 0.2, None),
        (finished(CRISP, SMALL), (130, 65), None, None),
        (finished(CRISP, SMALL), (100, 50), None, "100x50 came, which is not larger than its source (100x50)."),
    ],
)
def test_a_finished_picture_is_what_its_step_should_make(
    request_: ImageRequest, size: tuple[int, int], share: float | None, why: str | None
) -> None:
    assert mismatch(request_, *size, share) == why
