"""How long tiles of a very large slide and of its map take, asked one after another as a browser would."""

from __future__ import annotations

import io
import math
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from softfree_runtime.core.files import replacing

TILE = 512  # pixels a side of the file's tiles
_KINDS = 16  # different tiles, which the levels repeat
_PER_CM = 40_000  # 0.25 um per pixel
_LONG, _LONG8, _SHORT, _RATIONAL = 4, 16, 3, 5  # types of TIFF tags
_SIZES = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}


@dataclass(frozen=True)
class TileTimes:
    """Times of tiles.

    Attributes:
        seconds: Of each tile, in the order in which they were asked for.
        size: Mean size of a tile in bytes.
    """

    seconds: np.ndarray
    size: float

    def in_words(self, what: str) -> str:
        """Say median and 95th percentile."""
        median, high = np.quantile(self.seconds, (0.5, 0.95)) * 1000
        size = self.size / 1024
        return f"{what}: {len(self.seconds)} tiles, median {median:.0f} ms, p95 {high:.0f} ms, {size:.0f} KiB each"


def write_large_slide(path: Path, side: int = 100_000, seed: int = 0) -> Path:
    """Write a pyramidal BigTIFF of ``side`` x ``side`` pixels at 0.25 um, with JPEG tiles.

    It has a few megabytes: its tiles repeat 16 computed ones in a random order, so that all of it must be decoded like
    a scanned slide, but need not be stored.
    """
    rng = np.random.default_rng(seed)
    sides = [side]
    while sides[-1] > TILE:
        sides.append(-(-sides[-1] // 2))
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        starts, lengths = [], []
        for tile in _tiles(rng):
            starts.append(file.tell())
            lengths.append(len(tile))
            file.write(tile)
        link = 8  # where the offset of the next directory goes
        for level, length in enumerate(sides):
            count = (-(-length // TILE)) ** 2
            chosen = rng.integers(_KINDS, size=count)
            where = {}
            for tag, values in ((324, np.array(starts)[chosen]), (325, np.array(lengths)[chosen])):
                where[tag] = file.tell()
                file.write(values.astype("<u8").tobytes())
            first = file.tell()
            file.write(_directory(length, level, count, where, (starts[chosen[0]], lengths[chosen[0]])))
            end = file.tell()
            file.seek(link)
            file.write(struct.pack("<Q", first))
            file.seek(end)
            link = end - 8
    return path


def _directory(side: int, level: int, count: int, where: dict[int, int], only: tuple[int, int]) -> bytes:
    """Pack the tags of a level; a value of one tile is stored in the tag itself."""
    resolution = struct.unpack("<Q", struct.pack("<II", _PER_CM >> level, 1))[0]
    starts, lengths = (where[324], where[325]) if count > 1 else only
    bits = struct.unpack("<Q", struct.pack("<4H", 8, 8, 8, 0))[0]
    tags = [
        (254, _LONG, 1, int(level > 0)), (256, _LONG, 1, side), (257, _LONG, 1, side), (258, _SHORT, 3, bits),
        (259, _SHORT, 1, 7), (262, _SHORT, 1, 6), (277, _SHORT, 1, 3), (282, _RATIONAL, 1, resolution),
        (283, _RATIONAL, 1, resolution), (284, _SHORT, 1, 1), (296, _SHORT, 1, 3), (322, _LONG, 1, TILE),
        (323, _LONG, 1, TILE), (324, _LONG8, count, starts), (325, _LONG8, count, lengths),
        (530, _SHORT, 2, 2 | 2 << 16),
    ]  # fmt: skip
    packed = b"".join(struct.pack("<HHQQ", *tag) for tag in tags)
    return struct.pack("<Q", len(tags)) + packed + struct.pack("<Q", 0)


def _tiles(rng: np.random.Generator) -> Iterator[bytes]:
    """Draw tissue in the colors of hematoxylin and eosin, and a tile of glass, as JPEG."""
    for number in range(_KINDS):
        shade = rng.normal(size=(TILE // 8, TILE // 8, 1))
        coarse = np.asarray(Image.fromarray(np.uint8(128 + 30 * shade[..., 0].clip(-3, 3))).resize((TILE, TILE)))
        grain = rng.normal(scale=12, size=(TILE, TILE))
        mix = np.clip((coarse.astype(float) + grain) / 255, 0, 1)[..., None]
        pixels = (1 - mix) * (90, 60, 130) + mix * (235, 170, 200)
        if number == 0:
            pixels[:] = 243
        buffer = io.BytesIO()
        Image.fromarray(np.uint8(pixels)).save(buffer, "JPEG", quality=80, subsampling="4:2:0")
        yield buffer.getvalue()


def walk(side: int, count: int, seed: int = 0) -> list[tuple[int, int, int]]:
    """List different (level, column, row) of DeepZoom tiles as a reader asks for them: zooming in, and panning there."""
    rng = np.random.default_rng(seed)
    deepest = math.ceil(math.log2(side))
    asked: dict[tuple[int, int, int], None] = {}
    while len(asked) < count:
        x, y = rng.uniform(0.1, 0.9, size=2)
        for level in range(8, deepest + 1):
            length = side / 2 ** (deepest - level)
            column, row = int(x * length / 254), int(y * length / 254)
            last = math.ceil(length / 254) - 1
            asked |= {(level, min(column + dx, last), min(row + dy, last)): None for dx in (0, 1) for dy in (0, 1)}
    return list(asked)[:count]


def time_tiles(get: Callable[[int, int, int], bytes], places: list[tuple[int, int, int]]) -> TileTimes:
    """Ask for tiles.

    Args:
        get: Returns the bytes of a tile, such as by HTTP.
        places: Level, column and row of each.
    """
    seconds, sizes = [], []
    for place in places:
        started = time.perf_counter()
        sizes.append(len(get(*place)))
        seconds.append(time.perf_counter() - started)
    return TileTimes(np.array(seconds), float(np.mean(sizes)))
