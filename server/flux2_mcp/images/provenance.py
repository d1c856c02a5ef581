"""What a picture's file says of its origin: an XMP packet, as IPTC and Google ask for pictures that a model made. Pure."""

from __future__ import annotations

import re
from typing import Final
from xml.sax.saxutils import escape

MADE_BY_A_MODEL: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media that were made by a model which learned from others: the value of `Iptc4xmpExt:DigitalSourceType`."""
MAX_PROMPT_CHARS: Final = 8000
"""More than a prompt has. A JPEG's segment holds 65,502 bytes, and a character takes up to 5, as `&amp;`."""

_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML can hold, not even escaped."""


def packet(prompt: str | None = None) -> bytes:
    """Return the XMP packet of a picture that a model made. It holds no time: the same picture has the same packet.

    Args:
        prompt: Becomes the picture's description; None: it has none.
    """
    described = ""
    if prompt is not None:
        text = escape(_NO_XML.sub("\ufffd", prompt)[:MAX_PROMPT_CHARS])
        described = f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:description>'
    dublin = ' xmlns:dc="http://purl.org/dc/elements/1.1/"' if described else ""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about=""{dublin} xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        f"<Iptc4xmpExt:DigitalSourceType>{MADE_BY_A_MODEL}</Iptc4xmpExt:DigitalSourceType>{described}"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()
