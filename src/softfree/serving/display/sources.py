"""Files that are open for display in this worker: the last few, so that a window or a tile need not decode again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from softfree.serving.display.images import ShownImage, Window
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers import read_image

if TYPE_CHECKING:
    from softfree.data.slide_readers.slide import Slide
    from softfree.serving.display.map_file import StoredMap
    from softfree.serving.display.volumes import ShownVolume

_OPEN = 4  # files
_BYTES = 1 << 28  # of decoded pixels


@dataclass(frozen=True)
class Source:
    """What is shown.

    Attributes:
        paths: The files of a sample.
        kind: ``image``, ``volume``, ``slide`` or ``case``.
        frame: Frame of a multi-frame file.
        part: Number of the image of a case.
        max_pixels: Larger images are refused before they are decoded.
        mpp: Resolution of a slide that does not state it.
        rules: Which series of a study are the channels of a volume.
    """

    paths: tuple[Path, ...]
    kind: str
    frame: int | None = None
    part: int = 0
    max_pixels: int = 1 << 28
    mpp: float | None = None
    rules: tuple[str, ...] | None = None

    @property
    def path(self) -> Path:
        """The file or folder of the shown part."""
        if self.kind == "case":
            return self.paths[self.part]
        return self.paths[0] if len(self.paths) == 1 else self.paths[0].parent  # the slices of a series


class Opened:
    """The last files that were opened; one whose file was deleted is forgotten at the next call."""

    def __init__(self) -> None:
        self._kept: OrderedDict[object, tuple[Path, object, int]] = OrderedDict()

    def get(self, key: object, path: Path, make: Callable[[], tuple[object, int]]) -> object:
        """Return what ``make`` made for the key; ``make`` also gives its size in bytes."""
        for other, (where, thing, _) in list(self._kept.items()):
            if not where.exists():
                self._forget(other, thing)
        if key not in self._kept:
            thing, size = make()
            self._kept[key] = (path, thing, size)
        self._kept.move_to_end(key)
        kept = self._kept[key][1]
        while len(self._kept) > 1 and (len(self._kept) > _OPEN or self._size() > _BYTES):
            oldest = next(iter(self._kept))
            self._forget(oldest, self._kept[oldest][1])
        return kept

    def _size(self) -> int:
        return sum(size for _, _, size in self._kept.values())

    def _forget(self, key: object, thing: object) -> None:
        del self._kept[key]
        close = getattr(thing, "close", None)
        if close is not None:
            close()


_opened = Opened()


def image_of(source: Source) -> ShownImage:
    """Decode an image; ReadError if that is not possible."""
    path = source.path

    def make() -> tuple[ShownImage, int]:
        image = read_image(path, frame=source.frame, max_pixels=source.max_pixels)
        return ShownImage(image), image.pixels.nbytes

    shown = _opened.get((_version(path), "image", source.frame), path, make)
    assert isinstance(shown, ShownImage)
    return shown


def volume_of(source: Source) -> ShownVolume:
    """Decode a volume; ReadError if that is not possible."""
    from softfree.serving.display.volumes import ShownVolume
    from softfree_runtime.sources.channel_rules import ChannelRules
    from softfree_runtime.sources.volume_files import read_volume

    path, rules = source.path, source.rules

    def make() -> tuple[ShownVolume, int]:
        parsed = None if rules is None else ChannelRules.parse(rules)
        volume = read_volume(path, source.frame, parsed, max_voxels=source.max_pixels)
        return ShownVolume(volume), volume.voxels.nbytes

    shown = _opened.get((_version(path), "volume", source.frame, rules), path, make)
    assert isinstance(shown, ShownVolume)
    return shown


def slide_of(source: Source) -> Slide:
    """Open a slide; ReadError if that is not possible."""
    from softfree.data.slide_readers.slide import Slide, open_slide

    path = source.path
    slide = _opened.get((_version(path), "slide", source.mpp), path, lambda: (open_slide(path, source.mpp), 0))
    assert isinstance(slide, Slide)
    return slide


def map_of(path: Path) -> StoredMap:
    """Read a stored map."""
    from softfree.serving.display.map_file import StoredMap

    def make() -> tuple[StoredMap, int]:
        map_ = StoredMap.load(path)
        return map_, map_.values.nbytes

    map_ = _opened.get((_version(path), "map"), path, make)
    assert isinstance(map_, StoredMap)
    return map_


def _version(path: Path) -> tuple[str, int]:
    try:
        return str(path), path.stat().st_mtime_ns
    except OSError as error:
        raise ReadError("no longer there; upload it again", "missing", path=path) from error


def window_of(window: float | None, level: float | None) -> Window | None:
    """Return the window of a request; None for the file's own."""
    return None if window is None or level is None else Window(window, level)


def source_from(paths: Sequence[Path], source: dict[str, object]) -> Source:
    """Return the source of a task from the arguments of :func:`softfree.serving.viewing.Shown.source`."""
    return Source(tuple(paths), **source)  # type: ignore[arg-type]
