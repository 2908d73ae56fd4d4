"""Received files as samples: what rules see of them, slides of several files, and cases in the order of their views."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from softfree.serving.hospital.incoming import short
from softfree.serving.hospital.results import own_result
from softfree.serving.hospital.routes import Rule
from softfree_runtime.readers.quiet import quiet

logger = logging.getLogger(__name__)

_TAGS = (
    *("Manufacturer", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "InstanceNumber", "Rows", "ImageType"),
    *("TotalPixelMatrixColumns", "TotalPixelMatrixRows"),
)


@dataclass(frozen=True)
class ReceivedFile:
    """A file of a series.

    Attributes:
        path: The file.
        routing: The elements for rules; of a slide those of its finest level, which decides for all of its files.
        view: Of an image of a case, if a rule says it.
        is_slide: Whether it is a level of a slide.
    """

    path: Path
    routing: Dataset
    view: str = ""
    is_slide: bool = False

    @property
    def series(self) -> str:
        """A short name of its series, which does not say whose it is."""
        return short(self.routing.get("SeriesInstanceUID"))


def read_received(folder: Path, keywords: Iterable[str]) -> list[ReceivedFile]:
    """Read what rules need of the files of a folder, in the order of their instance numbers.

    Left out are results of softfree, files without pixels, and the label, overview and thumbnail of a slide.

    Args:
        folder: Files of one series or study.
        keywords: Elements that the rules need.
    """
    files = []
    for path in sorted(folder.glob("*.dcm")):
        with quiet():
            try:
                header = dcmread(path, stop_before_pixels=True, force=True, specific_tags=[*keywords, *_TAGS])
                if own_result(header) or "Rows" not in header:
                    continue  # a result, or a document without pixels
                order = header.SeriesInstanceUID, int(header.get("InstanceNumber") or 0), path.name
            except Exception:  # pydicom raises almost any exception on damaged elements
                logger.warning("a file of a series was left alone: its header is damaged")
                continue
        files.append((order, ReceivedFile(path, header)))
    return _with_slides([file for _, file in sorted(files, key=lambda entry: entry[0])])


def _with_slides(files: list[ReceivedFile]) -> list[ReceivedFile]:
    """Make the levels of a slide, the finest first, go where the finest goes."""
    kept: list[ReceivedFile] = []
    by_series: dict[str, list[ReceivedFile]] = {}
    for file in files:
        is_slide = file.routing.get("SOPClassUID") == VLWholeSlideMicroscopyImageStorage
        (by_series.setdefault(file.series, []) if is_slide else kept).append(file)
    for name, slide in by_series.items():
        levels = sorted(filter(_is_level, slide), key=_pixels, reverse=True)
        if not levels:
            logger.info("series %s (%d files): left alone, the label or overview of a slide", name, len(slide))
        kept += [replace(level, routing=levels[0].routing, is_slide=True) for level in levels]
    return kept


def _is_level(file: ReceivedFile) -> bool:
    """Return whether a file of a slide is a level: the third value of the image type is its flavor (C.8.12.4)."""
    with quiet():
        flavor = list(map(str, file.routing.get("ImageType") or ()))[2:3]
    return flavor in ([], ["VOLUME"])


def _pixels(file: ReceivedFile) -> int:
    header = file.routing
    return int(header.get("TotalPixelMatrixColumns") or 0) * int(header.get("TotalPixelMatrixRows") or 0)


def in_order_of_views(files: Sequence[ReceivedFile], rule: Rule) -> list[ReceivedFile]:
    """Return the images of a case in the order in which the model has them, by view and file."""
    if rule.views:
        known = ((file, rule.view_of(file.routing)) for file in files)
        files = [replace(file, view=view) for file, view in known if view is not None]
    return sorted(files, key=lambda file: (file.view, file.path.name))


def label_of(files: Sequence[ReceivedFile]) -> str:
    """Name files for a log: so that its lines belong together, without saying whose they are."""
    count = len({file.series for file in files})
    if count == 1:
        return f"series {files[0].series} ({len(files)} files)"
    return f"study {short(files[0].routing.get('StudyInstanceUID'))} ({len(files)} files of {count} series)"
