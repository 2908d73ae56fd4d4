"""The chunks of a PNG, checked: Pillow looks neither at the checksums of all of them nor for the last."""

from __future__ import annotations

import zlib
from pathlib import Path

_TEXT = 1 << 20  # bytes; Pillow refuses to inflate more
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTING = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # texts that may hold an orientation


def without_metadata(data: bytes) -> bytes:
    """Return a PNG with all that its pixels and their orientation need, before the pixels, and no more.

    Color profiles and texts are left out: they may be larger than decoders take.

    Raises:
        ValueError: cut short, or with a checksum that is wrong.
    """
    before: list[bytes] = [data[:8]]
    after: list[bytes] = []
    position, kind = 8, b""
    while kind != b"IEND":
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4])
        if len(kind) < 4 or end > len(data):
            raise ValueError("the PNG is cut short: it has no end")
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end]):
            raise ValueError(f"the checksum of the PNG's chunk {kind.decode('ascii', 'replace')} is wrong")
        if kind == b"eXIf" or (kind in _TEXTS and _may_orient(kind, data[position + 8 : end - 4])):
            before.append(data[position:end])
        elif kind != b"iCCP" and kind not in _TEXTS:
            (after if after or kind == b"IDAT" else before).append(data[position:end])
        position = end
    return b"".join(before + after)


def png_size(path: Path) -> tuple[int, int] | None:
    """Width and height by the header alone; None for another kind of file."""
    with path.open("rb") as file:
        head = file.read(24)
    if not head.startswith(b"\x89PNG"):
        return None
    return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])


def is_sixteen_bit(data: bytes) -> bool:
    """Whether samples have 16 bits, which Pillow reduces to 8 for all but gray."""
    return data[24] == 16


def _may_orient(kind: bytes, body: bytes) -> bool:
    keyword, _, text = body.partition(b"\0")
    if keyword not in _ORIENTING or len(body) > _TEXT:
        return False
    if kind == b"tEXt" or (kind == b"iTXt" and text[:1] != b"\1"):
        return True
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1], _TEXT)
    except zlib.error:
        return False
    return not inflate.unconsumed_tail
