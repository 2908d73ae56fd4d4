"""What is fuzzed: a function for each kind of input, which has to return or to raise a UserError."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np


def read_image(path: Path) -> None:
    from softfree.data.audit.probe import probe
    from softfree_runtime.readers import read_image

    probe(str(path), None)
    read_image(path).unit()


def read_any_volume(path: Path) -> None:
    from softfree_runtime.sources.volume_files import read_volume

    read_volume(path).to_float32()


def read_slide(path: Path) -> None:
    from softfree.data.slide_readers.slide import open_slide

    with open_slide(path) as slide:
        slide.thumbnail(max(8.0, max(slide.size_mm) * 1000 / 512))


def read_feature_file(path: Path) -> None:
    from softfree.data.modalities.feature_files import read_attributes, read_features, read_header
    from softfree_runtime.core.errors import UserError

    for read in (read_header, read_attributes):
        with suppress(UserError):
            read(path)
    read_features(path, mpp=0.5)


def read_any_table(path: Path) -> None:
    from softfree.data.table import read_table

    read_table(path)


def load_run(path: Path) -> None:
    from softfree.inference.run import Run

    run = Run.load(path)
    rows = run.predict(np.zeros((32, 32), np.uint8))
    probabilities = rows.filter(like="p_").to_numpy(float)
    assert ((probabilities >= 0) & (probabilities <= 1)).all(), "probabilities outside 0 to 1"


def load_exported(path: Path) -> None:
    from softfree_runtime.prediction import predict

    predict(path, np.zeros((32, 32), np.uint8))


TARGETS: dict[str, Callable[[Path], None]] = {
    "image": read_image,
    "volume": read_any_volume,
    "slide": read_slide,
    "features": read_feature_file,
    "table": read_any_table,
    "run": load_run,
    "exported": load_exported,
}
