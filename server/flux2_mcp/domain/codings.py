"""Decodes bodies by their `Content-Encoding`, which may be wrong. Pure.

Stores and proxies leave labels there that do not describe the bytes: `aws-chunked`, `none`, a `gzip` that was undone on
the way. So a label is only a hint: bytes are decoded if they can be, and are used unchanged if not. The reader of the
bytes checks them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

PIECE_BYTES = 256 * 1024
"""Bytes that are decoded at once: a small body may grow a thousandfold."""
_GZIP, _ZLIB, _BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_READABLE = frozenset({"gzip", "x-gzip", "deflate"})


class NotPackedError(Exception):
    """The bytes are not coded as their label says, or they end early."""


def coding(label: str) -> str | None:
    """The one coding in a `Content-Encoding` that can be undone; None if it has none, or several (never requested)."""
    found = [word for each in label.lower().split(",") if (word := each.strip()) in _READABLE]
    return found[0] if len(found) == 1 else None


def unpacked(chunks: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """The decoded bytes, piece by piece. The caller must limit their number.

    Raises:
        NotPackedError: The bytes are not coded so. All earlier pieces are invalid then.
    """
    pieces = iter(chunks)
    first = next(pieces, b"")
    engine = zlib.decompressobj(_GZIP if coding != "deflate" else _ZLIB if _has_head(first) else _BARE)
    try:
        for chunk in chain([first], pieces):
            piece, out = chunk, b""
            while not engine.eof and (piece or out):
                out = engine.decompress(piece, PIECE_BYTES)
                piece = engine.unconsumed_tail
                yield out
    except zlib.error as exc:
        raise NotPackedError from exc
    # Bare deflate has no checksum: other bytes may look like it at first, and go on after an apparent end.
    if not engine.eof or (coding == "deflate" and engine.unused_data):
        raise NotPackedError


def _has_head(first: bytes) -> bool:
    """Whether a body labelled deflate begins with zlib's header, as it should; some servers leave the header out."""
    return len(first) > 1 and first[0] & 0x0F == zlib.DEFLATED and int.from_bytes(first[:2]) % 31 == 0


def plain(body: bytes, label: str, most: int) -> bytes:
    """A decoded body, or the body itself if it is not coded. A long one is cut, at any point after `most` bytes."""
    if (its := coding(label)) is None:
        return body
    out = bytearray()
    try:
        for piece in unpacked([body], its):
            out += piece
            if len(out) > most:
                break
    except NotPackedError:
        return body
    return bytes(out)
