"""A small picture is small whatever it shows: in pixels and in bytes."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from flux2_mcp.images.preview import MAX_PREVIEW_BYTES, Picture, scaled


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """What no encoder makes small."""
    path = tmp_path / "noise.png"
    Image.effect_noise((700, 600), 120).convert("RGB").save(path)
    return path


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_the_quality_falls_until_it_fits_and_then_the_size(noise: Path, kind: Picture) -> None:
    for most, side in ((None, 512), (MAX_PREVIEW_BYTES, 512), (6_000, 511)):
        data = scaled(noise, most_bytes=most, kind=kind)
        assert (len(data) <= (most or 0)) == (most is not None)
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == kind
            assert side / 4 < max(picture.size) <= side
