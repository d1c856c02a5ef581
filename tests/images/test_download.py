"""From a result's URL to a whole image on disk, over real loopback HTTP; what is not a whole image leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import struct
import sys
import threading
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flux2_mcp.domain.models import StoredImage
from flux2_mcp.errors import DeliveryError, TransportError
from flux2_mcp.images import download, thumbnails
from flux2_mcp.images.decode import KINDS, CheckedImage, check
from flux2_mcp.images.download import INCOMING, deliver
from flux2_mcp.images.names import image_name
from flux2_mcp.images.pixel_limit import MAX_LARGE_PIXELS
from flux2_mcp.runapi.client import RunApi
from flux2_mcp.runapi.responses import DownloadStream
from tests.support.rows import rows

pytestmark = pytest.mark.anyio

AT = datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC)
KEY = "sk-run-secret"


def drawn(kind: str, size: tuple[int, int] = (40, 30), **more: Any) -> bytes:  # noqa: ANN401  # Pillow's own options
    """A small image with noise in it, so that every byte of its file matters."""
    dice = random.Random(7)  # noqa: S311  # the same image each time
    picture = Image.frombytes("RGB", size, dice.randbytes(size[0] * size[1] * 3))
    buffer = io.BytesIO()
    picture.save(buffer, kind, **more)
    return buffer.getvalue()


PNG, JPEG, WEBP = drawn("PNG"), drawn("JPEG"), drawn("WEBP")
GOOD = {
    "png": (PNG, "image/png", ".png"),
    "jpeg": (JPEG, "image/jpeg", ".jpg"),
    "progressive jpeg": (drawn("JPEG", progressive=True), "image/jpeg", ".jpg"),
    "webp": (WEBP, "image/webp", ".webp"),
    "lossless webp": (drawn("WEBP", lossless=True), "image/webp", ".webp"),
}


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_that_claims(width: int, height: int, *chunks: bytes) -> bytes:
    """A well-formed PNG of a few bytes that says it is this large."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = b"".join(chunks) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("cat.png", PNG)
    return buffer.getvalue()


# --- names ---


SHA = "0123456789abcdef" * 4


@rows(
    ("prompt", "name"),
    [
        ("A photorealistic studio portrait", "2026-11-20-a-photorealistic-studio-portrait-0123456789ab.png"),
        ("one two three four five six seven", "2026-11-20-one-two-three-four-five-six-0123456789ab.png"),
        ("Über Größe, naïve café!", "2026-11-20-uber-groe-naive-cafe-0123456789ab.png"),
        ("../../etc/passwd", "2026-11-20-etc-passwd-0123456789ab.png"),
        ("C:\\Windows\\system32", "2026-11-20-c-windows-system32-0123456789ab.png"),
        ("猫が宇宙を飛ぶ", "2026-11-20-0123456789ab.png"),
        ("", "2026-11-20-0123456789ab.png"),
        ("con", "2026-11-20-con-0123456789ab.png"),
        ("x" * 5000, f"2026-11-20-{'x' * 48}-0123456789ab.png"),
        ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbb", f"2026-11-20-{'a' * 47}-0123456789ab.png"),
        ("a cat\n\x00\u202egnp.exe", "2026-11-20-a-cat-gnp-exe-0123456789ab.png"),
    ],
)
def test_a_file_is_named_by_day_words_and_the_beginning_of_its_sha256(prompt: str, name: str) -> None:
    assert image_name(prompt, at=AT, sha256=SHA, suffix=".png") == name


@given(st.text(), st.binary())
def test_no_prompt_makes_a_name_that_leaves_the_folder_or_is_too_long(prompt: str, content: bytes) -> None:
    name = image_name(prompt, at=AT, sha256=hashlib.sha256(content).hexdigest(), suffix=".webp")
    assert re.fullmatch(r"2026-11-20(-[a-z0-9]+)*-[0-9a-f]{12}\.webp", name)
    assert len(name) <= 90


def named(data: bytes, suffix: str, words: str = "a-cat") -> str:
    """The name under which these bytes are kept."""
    return f"2026-11-20-{words}-{hashlib.sha256(data).hexdigest()[:12]}{suffix}"


# --- is it an image? ---


def checked(tmp_path: Path, data: bytes, max_pixels: int = MAX_LARGE_PIXELS) -> CheckedImage:
    path = tmp_path / "file.part"
    path.write_bytes(data)
    return check(path, max_pixels=max_pixels)


def refusal(tmp_path: Path, data: bytes, max_pixels: int = MAX_LARGE_PIXELS) -> str:
    with pytest.raises(DeliveryError) as caught:
        checked(tmp_path, data, max_pixels)
    assert caught.value.cost == "The task itself is done and charged; fetching it again costs nothing."
    return caught.value.message


@pytest.mark.parametrize("name", GOOD)
def test_a_whole_image_is_known_by_its_bytes(tmp_path: Path, name: str) -> None:
    data, mime_type, suffix = GOOD[name]
    assert checked(tmp_path, data) == CheckedImage(mime_type, suffix, 40, 30)


@pytest.mark.parametrize("name", GOOD)
def test_a_cut_image_is_refused_wherever_its_pixels_were_cut(tmp_path: Path, name: str) -> None:
    data, mime_type, _ = GOOD[name]
    if mime_type == "image/png":
        data = data[:-12]  # behind the pixels stands nothing but the end, which is missed by nobody
    ends = {*range(0, len(data), 97), *range(40), *range(len(data) - 40, len(data))}
    for end in sorted(ends):
        assert refusal(tmp_path, data[:end]) in {
            "What came is no PNG, JPEG or WebP image.",
            "The image is broken: it can't be decoded to its end.",
        }, end


def test_a_png_with_a_byte_turned_over_is_refused(tmp_path: Path) -> None:
    for place in range(50, len(PNG) - 12, 131):
        broken = bytearray(PNG)
        broken[place] ^= 0xFF
        assert refusal(tmp_path, bytes(broken)) == "The image is broken: it can't be decoded to its end.", place


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PNG\r\n\x1a\n",
        drawn("GIF"),
        drawn("BMP"),
        drawn("TIFF"),
        drawn("ICO", (16, 16)),
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        b"<!DOCTYPE html><html><body>Expired</body></html>",
        b'{"error": "expired"}',
        b"%PDF-1.7",
        zipped(),
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        bytes(5000),
    ],
)
def test_what_is_no_png_jpeg_or_webp_is_refused(tmp_path: Path, data: bytes) -> None:
    assert refusal(tmp_path, data) in {
        "What came is no PNG, JPEG or WebP image.",
        "The image is broken: it can't be decoded to its end.",
    }


@pytest.mark.parametrize(
    ("width", "height"), [(20_000, 15_001), (100_001, 700), (60_000, 60_000), (2**31 - 1, 2**31 - 1)]
)
def test_a_few_bytes_that_claim_a_giant_picture_are_refused_before_they_are_decoded(
    tmp_path: Path, width: int, height: int
) -> None:
    assert "too large to be meant" in refusal(tmp_path, png_that_claims(width, height))


def test_the_largest_picture_allowed_is_allowed(tmp_path: Path) -> None:
    assert checked(tmp_path, PNG, 40 * 30).width == 40
    assert refusal(tmp_path, PNG, 40 * 30 - 1) == "The image has 40x30 pixels, too many to be decoded whole here."


def test_a_giant_text_in_a_small_picture_is_left_packed_and_the_picture_is_good(tmp_path: Path) -> None:
    text = chunk(b"zTXt", b"comment\x00\x00" + zlib.compress(bytes(80_000_000)))
    assert checked(tmp_path, png_that_claims(4, 4, text)) == CheckedImage("image/png", ".png", 4, 4)


def test_a_picture_cut_short_inside_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, png_that_claims(400, 400)) == "The image is broken: it can't be decoded to its end."


def test_a_png_without_any_picture_in_it_is_refused_although_pillow_stumbles_over_it(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0))
    empty = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b"")
    assert refusal(tmp_path, empty) == "The image is broken: it can't be decoded to its end."


@settings(max_examples=2 * settings().max_examples)
@given(
    st.sampled_from([PNG, JPEG, WEBP, drawn("WEBP", lossless=True)]),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=6),
    st.binary(max_size=20),
)
def test_no_bytes_make_the_check_raise_anything_but_its_own_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, changes: list[tuple[int, int]], rest: bytes
) -> None:
    broken = bytearray(data)
    for place, value in changes:
        broken[place % len(broken)] = value
    path = tmp_path_factory.getbasetemp() / "fuzz.part"
    path.write_bytes(bytes(broken) + rest)
    try:
        found = check(path)
    except DeliveryError:
        return
    assert (found.mime_type, found.suffix) in KINDS.values()


# --- over HTTP ---


@dataclass
class Page:
    """What a path answers. `claims` is the Content-Length when it lies; `held` lets the rest of the body wait."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    claims: int | None = None
    held: threading.Event | None = None


class Host(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, Page] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.began = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        host = cast("Host", self.server)
        host.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        page = host.pages.get(self.path, Page(status=404))
        self.send_response(page.status)
        for name, value in page.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(page.body) if page.claims is None else page.claims))
        self.end_headers()
        middle = len(page.body) // 2 if page.held else len(page.body)
        self.wfile.write(page.body[:middle])
        if page.held is not None:
            host.began.set()
            page.held.wait(60)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as host:
        serving = threading.Thread(target=host.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield host
        host.shutdown()
        serving.join()


@pytest.fixture
async def api(host: Host) -> AsyncIterator[RunApi]:
    api = RunApi(host.base_url, KEY, version="0")
    yield api
    await api.aclose()


@dataclass
class Delivery:
    """Deliver from the test's host into an empty folder."""

    host: Host
    api: RunApi
    folder: Path

    async def __call__(self, path: str, **more: Any) -> StoredImage:  # noqa: ANN401  # deliver's own arguments
        given: dict[str, Any] = {"prompt": "a cat", "at": AT} | more
        url = path if "://" in path else f"{self.host.base_url}{path}"
        return await deliver(self.api.download, url, folder=self.folder, **given)

    async def refused(self, path: str, **more: Any) -> str:  # noqa: ANN401  # deliver's own arguments
        """The words of the error; nothing may be left of the try."""
        with pytest.raises(DeliveryError) as caught:
            await self(path, **more)
        assert self.files() == []
        return caught.value.message

    def files(self) -> list[str]:
        """What is kept, and what is on its way."""
        return sorted(
            path.name
            for path in self.folder.parent.rglob("*")
            if path.is_file() and path.parent.name != thumbnails.FOLDER
        )


@pytest.fixture
async def delivery(host: Host, api: RunApi, tmp_path: Path) -> Delivery:
    return Delivery(host, api, tmp_path / "home" / "images")


async def test_a_small_copy_is_kept_from_the_pixels_that_are_decoded_anyway(delivery: Delivery) -> None:
    delivery.host.pages["/1.png"] = Page(PNG)
    image = Path((await delivery("/1.png")).path)
    folder = delivery.folder.with_name(thumbnails.FOLDER)
    (kept,) = folder.iterdir()
    assert thumbnails.of(image, folder) == kept.read_bytes()
    assert list(folder.iterdir()) == [kept]


async def test_a_small_copy_that_cannot_be_made_costs_no_image(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    Image.init()
    monkeypatch.setitem(Image.SAVE, "JPEG", refuse)  # where Pillow keeps its writers
    delivery.host.pages["/1.png"] = Page(PNG)
    assert Path((await delivery("/1.png")).path).read_bytes() == PNG


@pytest.mark.parametrize("name", GOOD)
async def test_an_image_comes_to_disk_whole_under_its_own_name_and_alone(delivery: Delivery, name: str) -> None:
    data, mime_type, suffix = GOOD[name]
    delivery.host.pages["/1.gif"] = Page(data, headers={"Content-Type": "text/html"})
    final = delivery.folder / named(data, suffix)
    assert await delivery("/1.gif") == StoredImage(
        path=str(final),
        mime_type=mime_type,
        width=40,
        height=30,
        size_bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    assert delivery.files() == [final.name]
    assert final.read_bytes() == data


async def test_the_key_stays_here(delivery: Delivery) -> None:
    delivery.host.pages["/1"] = Page(status=302, headers={"Location": "/2"})
    delivery.host.pages["/2"] = Page(PNG)
    await delivery("/1")
    assert [path for path, _ in delivery.host.asked] == ["/1", "/2"]
    for _, headers in delivery.host.asked:
        assert not {"authorization", "cookie"} & set(headers)
        assert KEY not in str(headers)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps user folders private in another way")
async def test_images_are_the_users_alone(delivery: Delivery) -> None:
    delivery.host.pages["/1"] = Page(PNG)
    stored = await delivery("/1")
    assert Path(stored.path).stat().st_mode & 0o777 == 0o600
    assert delivery.folder.stat().st_mode & 0o777 == 0o700


async def test_each_image_of_a_task_has_a_file_and_fetching_again_makes_no_second_one(delivery: Delivery) -> None:
    delivery.host.pages["/1"] = Page(PNG)
    delivery.host.pages["/2"] = Page(JPEG)
    first = await delivery("/1")
    await delivery("/2")
    assert await delivery("/1") == first
    assert delivery.files() == sorted([named(PNG, ".png"), named(JPEG, ".jpg")])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_up_to_three_redirects_are_followed(delivery: Delivery, status: int) -> None:
    for number, place in enumerate(["/b/2", "3", f"{delivery.host.base_url}/4"], 1):
        path = {1: "/1", 2: "/b/2", 3: "/b/3"}[number]
        delivery.host.pages[path] = Page(status=status, headers={"Location": place})
    delivery.host.pages["/4"] = Page(PNG)
    await delivery("/1")
    assert [path for path, _ in delivery.host.asked] == ["/1", "/b/2", "/b/3", "/4"]
    delivery.host.pages["/4"] = Page(status=status, headers={"Location": "/5"})
    delivery.host.pages["/5"] = Page(PNG)
    (delivery.folder / delivery.files()[0]).unlink()
    assert await delivery.refused("/1") == "The result's URL redirected more than 3 times."


@pytest.mark.parametrize(
    "place",
    [
        "http://example.com/a.png",
        "http://127.0.0.1:9/a.png",
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "ftp://example.com/a.png",
        "//example.com/a.png",
    ],
)
async def test_a_redirect_to_where_results_may_not_come_from_is_not_followed(delivery: Delivery, place: str) -> None:
    delivery.host.pages["/1"] = Page(status=302, headers={"Location": place})
    assert await delivery.refused("/1") == "The result's URL is not https, so it was not fetched."


@pytest.mark.parametrize(
    "place", ["https://[::1", "data:image/png;base64,AAAA", "http:a.png", "https://a:b", "\\\\x\\y"]
)
async def test_a_redirect_that_leads_nowhere_is_an_error_of_ours_and_leaves_nothing(
    delivery: Delivery, place: str
) -> None:
    delivery.host.pages["/1"] = Page(status=302, headers={"Location": place})
    with pytest.raises((DeliveryError, TransportError)):
        await delivery("/1")
    assert delivery.files() == []


async def test_a_redirect_without_an_address_goes_in_circles_and_not_for_ever(delivery: Delivery) -> None:
    delivery.host.pages["/1"] = Page(status=302)
    assert await delivery.refused("/1") == "The result's URL redirected more than 3 times."
    assert len(delivery.host.asked) == 4


async def test_a_redirect_to_what_is_no_url_is_refused_by_delivery_itself(tmp_path: Path) -> None:
    """The client refuses such answers before; another one behind the same seam may not."""

    async def nothing() -> AsyncIterator[bytes]:
        yield b""

    @asynccontextmanager
    async def fetch(_: str) -> AsyncIterator[DownloadStream]:
        yield DownloadStream(302, {"location": "https://[::1"}, nothing)

    with pytest.raises(DeliveryError, match="redirected to what is no URL"):
        await deliver(fetch, "https://a/1", folder=tmp_path / "f", prompt="", at=AT)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("url", ["http://example.com/a.png", "file:///etc/passwd", "ftp://example.com/a"])
async def test_a_result_that_is_not_https_is_not_even_asked_for(delivery: Delivery, url: str) -> None:
    assert await delivery.refused(url) == "The result's URL is not https, so it was not fetched."
    assert delivery.host.asked == []


@pytest.mark.parametrize("status", [204, 206, 400, 403, 404, 410, 429, 500, 503])
async def test_any_status_but_200_is_no_image_even_with_one_in_it(delivery: Delivery, status: int) -> None:
    delivery.host.pages["/1"] = Page(b"" if status == 204 else PNG, status=status)
    assert await delivery.refused("/1") == f"The result's URL answered {status}; it may have expired."


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "What came is no PNG, JPEG or WebP image."),
        (b"<html>Expired</html>", "What came is no PNG, JPEG or WebP image."),
        (drawn("GIF"), "What came is no PNG, JPEG or WebP image."),
        (PNG[:-20], "The image is broken: it can't be decoded to its end."),
        (JPEG[: len(JPEG) // 2], "The image is broken: it can't be decoded to its end."),
    ],
)
async def test_what_is_no_whole_image_is_not_kept(delivery: Delivery, body: bytes, text: str) -> None:
    delivery.host.pages["/1"] = Page(body, headers={"Content-Type": "image/png"})
    assert await delivery.refused("/1") == text


async def test_a_failed_fetch_leaves_an_earlier_image_alone(delivery: Delivery) -> None:
    delivery.host.pages["/1"] = Page(PNG)
    stored = await delivery("/1")
    delivery.host.pages["/1"] = Page(PNG[:-30])
    with pytest.raises(DeliveryError):
        await delivery("/1")
    assert Path(stored.path).read_bytes() == PNG
    assert len(delivery.files()) == 1


async def test_a_body_that_breaks_off_leaves_nothing(delivery: Delivery) -> None:
    delivery.host.pages["/1"] = Page(PNG, claims=len(PNG) + 1)
    with pytest.raises(TransportError):
        await delivery("/1")
    assert delivery.files() == []


async def test_a_host_that_is_not_there_leaves_nothing(delivery: Delivery) -> None:
    """The port was free a moment ago, so nobody answers on it."""
    delivery.host.shutdown()
    delivery.host.server_close()
    with pytest.raises(TransportError):
        await delivery("/1")
    assert delivery.files() == []


async def test_an_image_may_be_as_large_as_allowed_and_not_a_byte_more(delivery: Delivery) -> None:
    large = drawn("PNG", (400, 300))
    delivery.host.pages["/1"] = Page(large)
    assert await delivery.refused("/1", max_bytes=len(large) - 1) == "The image is larger than 0 MB."
    assert (await delivery("/1", max_bytes=len(large))).size_bytes == len(large)


@pytest.fixture
def stuck(host: Host) -> Iterator[str]:
    """A path whose body stops half-way until the test is over."""
    held = threading.Event()
    host.pages["/stuck"] = Page(drawn("PNG", (400, 300)), held=held)
    yield "/stuck"
    held.set()


async def test_an_image_that_does_not_come_in_time_leaves_nothing(delivery: Delivery, stuck: str) -> None:
    with anyio.fail_after(30):
        assert await delivery.refused(stuck, seconds=0.2) == "The image did not come within 0 s."


async def test_each_byte_that_comes_gives_the_rest_more_time(tmp_path: Path) -> None:
    """A large image may take longer. The deadline itself is read: nothing waits for it."""
    deadlines = list[float]()

    async def pieces() -> AsyncIterator[bytes]:
        for size in (0, 0, 2**20, 2**21):
            deadlines.append(anyio.current_effective_deadline())
            yield bytes(size)
        deadlines.append(anyio.current_effective_deadline())

    @asynccontextmanager
    async def fetch(_: str) -> AsyncIterator[DownloadStream]:
        yield DownloadStream(200, {}, pieces)

    with pytest.raises(DeliveryError, match="no PNG, JPEG or WebP"):
        await deliver(fetch, "https://a/1", folder=tmp_path / "f", prompt="", at=AT, seconds=64.0)
    assert [later - deadlines[0] for later in deadlines] == pytest.approx([0, 0, 0, 1, 3])


async def test_a_delivery_that_is_cancelled_half_way_leaves_nothing(delivery: Delivery, stuck: str) -> None:
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(delivery, stuck)
            await anyio.to_thread.run_sync(delivery.host.began.wait)
            while not (kept := delivery.files()):  # noqa: ASYNC110  # a file that another thread makes tells nothing
                await anyio.sleep(0.005)
            assert len(list(delivery.folder.with_name(INCOMING).iterdir())) == len(kept) == 1
            group.cancel_scope.cancel()
    assert delivery.files() == []


async def test_many_deliveries_at_once_do_not_meet(delivery: Delivery) -> None:
    pictures = [drawn("PNG", (40, 30 + number)) for number in range(8)]
    delivery.host.pages |= {f"/{number}": Page(data) for number, data in enumerate(pictures)}
    async with anyio.create_task_group() as group:
        for number in (*range(8), 0):
            group.start_soon(delivery, f"/{number}")
    assert delivery.files() == sorted(named(data, ".png") for data in pictures)


async def test_what_a_dead_process_left_half_way_is_cleared_away_and_what_is_on_its_way_is_not(
    delivery: Delivery,
) -> None:
    delivery.host.pages["/1"] = Page(PNG)
    parts = delivery.folder.with_name(INCOMING)
    parts.mkdir(parents=True)
    for name, age in (("old", download.STALE_SECONDS + 60), ("young", download.DOWNLOAD_SECONDS)):
        (parts / name).write_bytes(PNG[:100])
        then = (parts / name).stat().st_mtime - age
        os.utime(parts / name, (then, then))
    await delivery("/1")
    assert [path.name for path in parts.iterdir()] == ["young"]


async def test_a_folder_that_cannot_be_made_is_said_in_words(delivery: Delivery) -> None:
    delivery.folder.parent.parent.mkdir(exist_ok=True)
    delivery.folder.parent.write_text("a file")
    delivery.host.pages["/1"] = Page(PNG)
    with pytest.raises(DeliveryError) as caught:
        await delivery("/1")
    assert caught.value.message == "The image folder can't be written: Not a directory."
    assert delivery.host.asked == []


async def test_a_disk_that_takes_no_more_is_said_in_words_and_leaves_nothing(delivery: Delivery) -> None:
    resource = pytest.importorskip("resource")
    delivery.host.pages["/1"] = Page(drawn("PNG", (400, 300)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert await delivery.refused("/1") == "The image can't be written: File too large."
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_of_many_images_that_wait_for_a_connection_none_holds_a_file_open(delivery: Delivery) -> None:
    many, waiting, all_wait, free = 40, 0, anyio.Event(), anyio.Event()

    @asynccontextmanager
    async def late(url: str) -> AsyncIterator[DownloadStream]:
        nonlocal waiting
        waiting += 1
        if waiting == many:
            all_wait.set()
        await free.wait()
        async with delivery.api.download(url) as answer:
            yield answer

    delivery.host.pages["/a.png"] = Page(PNG)
    url = f"{delivery.host.base_url}/a.png"
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(many):
                group.start_soon(partial(deliver, late, url, folder=delivery.folder, prompt="a cat", at=AT))
            await all_wait.wait()
            assert delivery.files() == []
            free.set()
    assert len(delivery.files()) == 1
