"""What an audit keeps of one sample once its pixels are let go."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd

from softfree.data.readers import Picture, read_picture
from softfree.errors import ReadError
from softfree.progress import tracked

_CHUNK = 256
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Probe:
    """Facts about one sample; all but the first two are unset when it cannot be read.

    Attributes:
        status: ``ok``, or why it cannot be read (see :class:`softfree.errors.ReadError`).
        reason: the same for people.
        file_size: bytes.
        height: rows; of tile features the tiles.
        width: columns; of tile features their width.
        channels: 1 or 3; of a volume any number.
        stored: what the file holds, such as ``8-bit gray``.
        spacing: millimetres from (slice to slice,) row to row and column to column, where the file says so.
        blank: whether all pixels are the same.
        pixel_digest: of the decoded values, whatever the file format; a gray picture has the same one as RGB.
        file_digest: of the file.
    """

    status: str
    reason: str
    file_size: int = 0
    height: int = 0
    width: int = 0
    channels: int = 0
    stored: str = ""
    spacing: tuple[float, ...] | None = None
    blank: bool = False
    pixel_digest: bytes = b""
    file_digest: bytes = b""


def probe(file: str, frame: int | None) -> Probe:
    """Read one sample and keep its facts."""
    from softfree.data.probe_kinds import probe_kind

    try:
        other = probe_kind(file, frame)
        if other is not None:
            return other
        picture = read_picture(file, frame=frame)
        size, file_digest = digest_file(Path(file))
    except ReadError as error:
        return Probe(error.status, str(error))
    except OSError as error:  # gone since it was read
        return Probe("missing", f"{file}: {error.strerror}")
    height, width, channels = picture.pixels.shape
    return Probe(
        "ok",
        "",
        size,
        height,
        width,
        channels,
        picture.stored,
        picture.spacing,
        bool(picture.pixels.min() == picture.pixels.max()),
        _digest_pixels(picture),
        file_digest,
    )


def probe_all(frame: pd.DataFrame, *, workers: int, progress: bool) -> list[Probe]:
    """Probe the picture of every row, with ``workers`` threads beside this one, a few hundred rows at a time."""
    files = frame["file"].tolist()
    frames = [None if pd.isna(n) else int(n) for n in frame["frame"]] if "frame" in frame else [None] * len(files)

    def results() -> Iterator[Probe]:
        with ThreadPoolExecutor(workers) if workers > 0 else nullcontext() as pool:
            apply = map if pool is None else pool.map
            for start in range(0, len(files), _CHUNK):
                yield from apply(probe, files[start : start + _CHUNK], frames[start : start + _CHUNK])

    shown = tracked(results(), "Reading samples", total=len(files), shown=progress)
    return list(shown)


def _digest_pixels(picture: Picture) -> bytes:
    """Hash shape and values, a block of rows at a time."""
    pixels = picture.pixels[..., :1] if picture.stored.endswith("(gray)") else picture.pixels
    kind = _narrowest(pixels)
    digest = blake2b(str(pixels.shape).encode(), digest_size=16)
    step = max(1, _BLOCK // max(1, pixels[0].size))
    for start in range(0, len(pixels), step):
        digest.update(pixels[start : start + step].astype(kind).tobytes())
    return digest.digest()


def _narrowest(pixels: np.ndarray) -> str:
    """Choose a type by the values alone, so that equal values have equal bytes whatever type they are stored in."""
    whole = pixels.dtype.kind in "ui" or bool((pixels == np.rint(pixels)).all())
    for kind, limit in (("u1", 1 << 8), ("<u2", 1 << 16)):
        if whole and pixels.min() >= 0 and pixels.max() < limit:
            return kind
    return "<f4"


def digest_file(path: Path) -> tuple[int, bytes]:
    """Size and digest of a file."""
    digest, size = blake2b(digest_size=16), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.digest()
