"""How much is decoded at once is bounded by its pixels, wherever it is decoded."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import zlib
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from PIL import Image

from flux2_mcp.domain.models import Save, StoredImage
from flux2_mcp.images import decode, workspace
from flux2_mcp.images.derive import derive, wanted
from flux2_mcp.images.pixel_limit import PixelLimit
from tests.support.deep import deep_but
from tests.support.picture_files import bare_png

SIZES = {
    "as large as may be": ((7900, 8000), 450, 150),
    "a quarter of the room and of the picture": ((3950, 4000), 150, 60),
}
"""Each with the most MiB that a process has at once, and that it may keep. A picture of 63 megapixels takes 241 MiB in memory, one
of 16 takes 60; the rest is Python, Pillow, and a copy on the way."""
PROGRAM = """
import resource, sys, threading
from pathlib import Path
from flux2_mcp.images import decode, preview, upright, workspace
from flux2_mcp.images.pixel_limit import PixelLimit
from flux2_mcp.domain.models import Save, StoredImage
path = Path(sys.argv[1])
decode.ROOM = PixelLimit(int(sys.argv[2]))
stored = StoredImage(path=str(path), mime_type="image/png", width=1, height=1, size_bytes=1, sha256="0" * 64)
ended = []
works = [
    lambda: decode.check(path),
    lambda: preview.scaled(path),
    lambda: upright.upright(path.read_bytes()),
    lambda: workspace.place(path.parent, Save("copy.jpg"), stored, 0),
]
def run(work):
    work()
    ended.append(work)
threads = [threading.Thread(target=run, args=(work,)) for work in works]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(ended) == len(works)
if sys.platform == "linux":  # the same number of `resource` is also that of the process that began this one
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(*(int(lines[name].split()[0]) // 2**10 for name in ("VmHWM", "VmRSS")))
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (2**20 if sys.platform == "darwin" else 2**10), 0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nobody tells a process's peak there")
@pytest.mark.parametrize("what", deep_but(SIZES, "a quarter of the room and of the picture"))
def test_four_of_the_largest_pictures_at_once_take_the_memory_of_one_and_none_is_kept(
    tmp_path: Path, what: str
) -> None:
    (width, height), most_mib, left_mib = SIZES[what]
    path, room = tmp_path / "large.png", decode.MAX_PIXELS * width * height // (7900 * 8000)
    packing = zlib.compressobj(1)
    rows = b"".join(packing.compress(bytes(1 + 3 * width)) for _ in range(height)) + packing.flush()
    path.write_bytes(bare_png(width, height, rows))
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, str(room)], capture_output=True, text=True, timeout=120, check=False
    )
    assert told.returncode == 0, told.stderr
    most, left = map(int, told.stdout.split())
    assert most < most_mib
    assert left < left_mib


@pytest.mark.parametrize(("mode", "scaled"), [("RGB", True), ("RGBA", False), ("P", False)])
def test_only_pixels_that_are_scaled_without_a_second_copy_of_all_are_scaled_on_the_way(
    tmp_path: Path, mode: str, scaled: bool
) -> None:
    Image.new(mode, (64, 64)).save(path := tmp_path / "a.png")
    assert (decode.check_and_scale(path, 16)[1] is not None) == scaled


def wait_for(room: PixelLimit, waiting: int) -> None:
    """Until so many wait for room."""
    until = time.monotonic() + 30
    while room.waiting != waiting:
        assert time.monotonic() < until
        time.sleep(0.001)


def test_there_is_never_more_in_hand_than_there_is_room_for_and_all_get_their_turn() -> None:
    room, held, most, lock = PixelLimit(10), 0, 0, threading.Lock()

    def take(pixels: int) -> None:
        nonlocal held, most
        with room.hold(pixels):
            with lock:
                held += min(pixels, 10)
                most = max(most, held)
            with lock:
                held -= min(pixels, 10)

    threads = [threading.Thread(target=take, args=(pixels,)) for pixels in (10, 99, 7, 3, 3, 3, 3, 0) * 5]
    with room.hold(4), room.hold(6):  # both fit
        for thread in threads:
            thread.start()
        wait_for(room, len(threads))
    for thread in threads:
        thread.join(60)
    assert (held, most, room.waiting) == (0, 10, 0)


def test_a_large_picture_does_not_wait_behind_small_ones_that_came_later() -> None:
    room, order = PixelLimit(10), list[str]()

    def take(name: str, pixels: int) -> None:
        with room.hold(pixels):
            order.append(name)

    with room.hold(5):
        threads = [threading.Thread(target=take, args=each) for each in (("large", 10), ("small", 1))]
        for number, thread in enumerate(threads, 1):
            thread.start()
            wait_for(room, number)
    for thread in threads:
        thread.join(60)
    assert order == ["large", "small"]


def test_room_is_given_back_whatever_happens_in_it() -> None:
    room = PixelLimit(10)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), room.hold(10):
            raise ValueError("broken")
    assert room.waiting == 0


def full() -> AbstractContextManager[None]:
    """No room for small pictures beside the large ones: they wait with these."""
    return decode.BESIDE.hold(4 * decode.SMALL_PIXELS)


def test_a_small_picture_does_not_wait_for_a_large_one_as_long_as_there_is_room_beside_it() -> None:
    small, larger = (bare_png(side, side, zlib.compress(bytes((1 + 3 * side) * side))) for side in (2048, 2049))
    ended = list[int]()

    def read(data: bytes) -> None:
        with decode.normal(data) as (found, _):
            ended.append(found.width)

    waiting = [threading.Thread(target=read, args=(data,), daemon=True) for data in (larger, small)]
    with decode.ROOM.hold(decode.MAX_PIXELS):
        waiting[0].start()
        wait_for(decode.ROOM, 1)
        read(small)
        assert ended == [2048]
        with full():
            waiting[1].start()
            wait_for(decode.ROOM, 2)
    for thread in waiting:
        thread.join(60)
    assert sorted(ended) == [2048, 2048, 2049]
    assert decode.BESIDE.free == 4 * decode.SMALL_PIXELS


def test_what_is_going_to_be_encoded_has_room_for_its_encoder_too(tmp_path: Path) -> None:
    """A picture takes its pixels once, and with WebP's encoder three times."""
    data = bare_png(64, 64, zlib.compress(bytes((1 + 3 * 64) * 64)))
    taken = decode.MAX_PIXELS - 3 * 64 * 64 + 1
    with (
        full(),
        decode.ROOM.hold(taken),
        decode.normal(data),
        decode.normal(data),
    ):  # as long as nobody encodes, both have room
        pass
    path = tmp_path / "a.png"
    path.write_bytes(data)
    stored = StoredImage(path=str(path), mime_type="image/png", width=1, height=1, size_bytes=1, sha256="0" * 64)
    places = list[StoredImage]()
    other = threading.Thread(
        target=lambda: places.append(workspace.place(tmp_path, Save("copy.webp"), stored, 0)), daemon=True
    )
    with full(), decode.ROOM.hold(taken):
        other.start()
        wait_for(decode.ROOM, 1)
    other.join(60)
    assert [place.saved for place in places] == [str(tmp_path / "copy.webp")]


def test_what_is_going_to_be_scaled_has_room_for_its_light_too() -> None:
    """To make another size of a picture takes eleven times its pixels."""
    data = bare_png(64, 64, zlib.compress(bytes((1 + 3 * 64) * 64)))
    made = list[str]()
    other = threading.Thread(target=lambda: made.extend(derive(data, wanted("a.png", widths=[8]))), daemon=True)
    with full(), decode.ROOM.hold(decode.MAX_PIXELS - 11 * 64 * 64 + 1):
        other.start()
        wait_for(decode.ROOM, 1)
    other.join(60)
    assert made == ["a-8.png"]
