"""What an answer's head says of its bytes and its times: words that are no coding, and clocks that are not ours."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.errors import DeliveryError, RateLimitedError, ServiceError
from flux2_mcp.images.download import deliver
from flux2_mcp.runapi.client import RunApi
from tests.contract.test_client import CREATED, DONE, NOW, PENDING, Seam, create, get, opened
from tests.support.picture_files import png
from tests.support.recorded import Recorded, answer
from tests.support.rows import each_row

pytestmark = pytest.mark.anyio

LABELS = (
    *("aws-chunked", "none", "UTF-8", "binary", "aws-chunked, identity", "", " , "),
    *("gzip", "x-gzip", "deflate", "GZIP", "br", "zstd", "compress", "aws-chunked, gzip", "gzip, gzip", "br, gzip"),
)


MOST_BYTES = 2**20


async def fetched(server: Recorded, api: RunApi, folder: Path) -> StoredImage:
    url = f"{server.url}/1.png"
    return await deliver(api.download, url, folder=folder / "images", prompt="", at=NOW, max_bytes=MOST_BYTES)


async def test_no_label_keeps_a_picture_from_being_delivered(tmp_path: Path) -> None:
    webp = BytesIO()
    Image.new("RGB", (16, 16), "red").save(webp, "WEBP")
    for picture in (png(), webp.getvalue()):
        plays = [answer(200, picture, content_type="image/png", Content_Encoding=word) for word in LABELS]
        async with Recorded(plays) as server, opened(server.url) as api:
            with each_row() as row:
                for word in LABELS:
                    with row(word):
                        stored = await fetched(server, api, tmp_path)
                        assert Path(stored.path).read_bytes() == picture
                        assert stored.size_bytes == len(picture)
                        assert stored.sha256 == hashlib.sha256(picture).hexdigest()
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_a_picture_that_is_packed_as_its_label_says_is_unpacked(tmp_path: Path) -> None:
    bare = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(png()),
        "x-gzip": gzip.compress(png()),
        "deflate": zlib.compress(png()),
        "deflate, identity": bare.compress(png()) + bare.flush(),
    }
    plays = [answer(200, body, Content_Encoding=word) for word, body in packed.items()]
    async with Recorded(plays) as server, opened(server.url) as api:
        with each_row() as row:
            for word in packed:
                with row(word):
                    stored = await fetched(server, api, tmp_path)
                    assert Path(stored.path).read_bytes() == png()
                    assert (stored.size_bytes, stored.sha256) == (len(png()), hashlib.sha256(png()).hexdigest())


async def test_a_small_download_that_swells_beyond_any_image_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(MOST_BYTES + 1), 1)
    async with Recorded(answer(200, bomb, Content_Encoding="gzip")) as server, opened(server.url) as api:
        with pytest.raises(DeliveryError, match="larger than 1 MB"):
            await fetched(server, api, tmp_path)
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_what_is_packed_and_breaks_off_is_no_picture(tmp_path: Path) -> None:
    cut = answer(200, gzip.compress(png())[:-9], Content_Encoding="gzip")
    async with Recorded(cut) as server, opened(server.url) as api:
        with pytest.raises(DeliveryError, match="no PNG, JPEG or WebP"):
            await fetched(server, api, tmp_path)


async def test_whatever_the_label_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    framed = b"%x;chunk-signature=0\r\n%b\r\n0\r\n\r\n" % (len(png()), png())
    async with Recorded(answer(200, framed, Content_Encoding="aws-chunked")) as server, opened(server.url) as api:
        with pytest.raises(DeliveryError, match="no PNG, JPEG or WebP"):
            await deliver(api.download, server.url, folder=tmp_path / "images", prompt="", at=NOW)


async def test_no_label_loses_an_answer_either() -> None:
    packed = answer(200, gzip.compress(CREATED.encode()), Content_Encoding="gzip, identity, utf-8")
    plays = [answer(200, CREATED, Content_Encoding=word) for word in LABELS]
    async with Recorded([packed, *plays]) as server, opened(server.url) as api:
        with each_row() as row:
            for word in ("packed", *LABELS):
                with row(word):
                    assert await create(api) == PENDING


def http(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


@pytest.mark.parametrize("off", [timedelta(hours=3), timedelta(hours=-3)], ids=["ahead", "behind"])
async def test_a_date_to_wait_for_is_read_by_the_clock_of_who_named_it(off: timedelta) -> None:
    seam, date, later = Seam(), http(NOW + off), http(NOW + off + timedelta(seconds=9))
    plays = [
        answer(429, Date=date, Retry_After=later),
        answer(200, CREATED),
        answer(200, DONE, Date=date, Retry_After=later),
        answer(503, Date=date, Retry_After=later),
    ]
    async with Recorded(plays) as server, opened(server.url, seam) as api:
        assert await create(api) == PENDING
        assert (await get(api)).retry_after == 9.0
        with pytest.raises(ServiceError) as caught:
            await get(api)
    assert (seam.slept, seam.limited, caught.value.retry_after) == ([9.25], [9.0], 9.0)


async def test_without_a_date_that_can_be_read_our_own_clock_serves() -> None:
    minute = http(NOW + timedelta(seconds=60))
    for play in (answer(429, Retry_After=minute), answer(429, Retry_After=minute, Date="yesterday")):
        async with Recorded(play) as server, opened(server.url) as api:
            with pytest.raises(RateLimitedError) as caught:
                await get(api)
        assert caught.value.retry_after == 60.0


@pytest.mark.parametrize("off", [timedelta(hours=3), timedelta(hours=-3)], ids=["ahead", "behind"])
async def test_an_upload_ends_an_hour_after_it_was_made_whatever_the_clock_there_says(off: timedelta) -> None:
    there = NOW + off
    file = {"url": "https://files.example.com/1", "expires_at": (there + timedelta(hours=1)).isoformat()}
    confirmed = answer(200, json.dumps(file), Date=http(there))
    async with Recorded() as server, opened(server.url) as api:
        place = {"upload_url": f"{server.url}/put", "headers": {}, "signed_id": "s"}
        server.plays += [answer(200, json.dumps(place)), answer(200), confirmed]
        ours = await api.upload("a.png", b"x")
    assert ours.expires_at == NOW + timedelta(hours=1)


async def test_an_upload_that_never_ends_does_so_by_any_clock() -> None:
    file = {"url": "https://files.example.com/1", "expires_at": datetime.max.replace(tzinfo=UTC).isoformat()}
    behind = answer(200, json.dumps(file), Date=http(NOW - timedelta(hours=1)))
    async with Recorded() as server, opened(server.url) as api:
        place = {"upload_url": f"{server.url}/put", "headers": {}, "signed_id": "s"}
        server.plays += [answer(200, json.dumps(place)), answer(200), behind]
        assert (await api.upload("a.png", b"x")).url == file["url"]
