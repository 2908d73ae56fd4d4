"""Damage in lossy WebP, which has no checksum and whose decoder takes any bytes for an image."""

from __future__ import annotations

import io

from PIL import Image

_SPARE = 16  # bytes; a whole image needs all but the last three of its data, a damaged one leaves hundreds


def refuse_damaged_webp(data: bytes) -> None:
    """Raise ValueError for a lossy image that can be decoded without its last bytes.

    An arithmetic decoder that has read rightly ends where the data end; thrown off its track it ends elsewhere.
    Too late raises; too early does not. Animations and lossless images are not looked at.
    """
    coded = _lossy(data)
    if not coded[-_SPARE:].strip(b"\0"):
        return  # no lossy image, or padding, which says nothing
    try:
        with Image.open(io.BytesIO(_riff(coded[:-_SPARE])), formats=("WEBP",)) as image:
            image.load()
    except Exception:  # as it should be
        return
    raise ValueError("WebP data that its image does not need: they are damaged")


def _lossy(data: bytes) -> bytes:
    """Return the coded data of a lossy image that is the only one, else nothing."""
    position = 12  # after RIFF, a size and WEBP
    while position + 8 <= len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"VP8 ":
            return data[position + 8 : position + 8 + length]
        if data[position : position + 4] == b"ANIM":
            break
        position += 8 + length + length % 2
    return b""


def _riff(coded: bytes) -> bytes:
    chunk = b"WEBPVP8 " + len(coded).to_bytes(4, "little") + coded + b"\0" * (len(coded) % 2)
    return b"RIFF" + len(chunk).to_bytes(4, "little") + chunk
