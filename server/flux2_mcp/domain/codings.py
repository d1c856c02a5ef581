"""What `Content-Encoding` says of a body, and what is true of it. Pure.

Stores and proxies leave labels there that say nothing of the bytes: `aws-chunked`, `none`, a `gzip` that was taken off on the way.
So a label is a hint: bytes that can be unpacked as it says are, all others are taken as they are, and whoever reads them judges.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import chain

PIECE_BYTES = 256 * 1024
"""Bytes that are unpacked at once: a small body may swell a thousandfold."""
_GZIP, _ZLIB, _BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_READABLE = frozenset({"gzip", "x-gzip", "deflate"})


class NotPackedError(Exception):
    """The bytes are not packed as their label says, or break off."""


def coding(label: str) -> str | None:
    """The one coding of a `Content-Encoding` that can be taken off; None where there is none, or several, which no request of ours asks for."""
    found = [word for each in label.lower().split(",") if (word := each.strip()) in _READABLE]
    return found[0] if len(found) == 1 else None


def unpacked(chunks: Iterable[bytes], coding: str) -> Iterator[bytes]:
    """The bytes under a coding, a piece at a time: who takes them keeps them within bounds.

    Raises:
        NotPackedError: At the first that do not fit; what came before is worth nothing.
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
    # Bare deflate has no checksum: other bytes may look like it for a while, and go on behind what looks like its end.
    if not engine.eof or (coding == "deflate" and engine.unused_data):
        raise NotPackedError


def _has_head(first: bytes) -> bool:
    """Whether what is called deflate begins as zlib's format does, as it should; some leave that away."""
    return len(first) > 1 and first[0] & 0x0F == zlib.DEFLATED and int.from_bytes(first[:2]) % 31 == 0


def plain(body: bytes, label: str, most: int) -> bytes:
    """A body without its coding, or as it is where it has none. Of what is longer, `most` bytes and some more."""
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
