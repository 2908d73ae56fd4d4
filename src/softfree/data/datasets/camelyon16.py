"""CAMELYON16: whole slides of lymph nodes, with or without metastases of breast cancer.

Layout: https://camelyon17.grand-challenge.org/Data/ (GigaDB, AWS): ``training/normal/normal_001.tif``,
``training/tumor/tumor_001.tif``, ``testing/images/test_001.tif`` and ``testing/reference.csv`` (no headings: slide,
Normal or Tumor, kind of tumor, kind of metastasis). There are no patient ids, but one slide per patient.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import TRAIN_VAL_FRACTIONS, DataSet, DataSetRows, official_file, read_sheet
from softfree.data.datasets.options import PrepareOptions
from softfree_runtime.core.errors import UserError

SOURCE = "https://camelyon17.grand-challenge.org/Data/"


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    rows = []
    for label in ("normal", "tumor"):
        slides = sorted((root / "training" / label).glob(f"{label}_*.tif"))
        if not slides:
            raise UserError(f"{root}: no training/{label}/{label}_001.tif; obtain the slides from {SOURCE}")
        rows += [(slide.relative_to(root).as_posix(), label) for slide in slides]
    training = pd.DataFrame(rows, columns=["path", "label"])
    frame = pd.concat([training, _testing(root)], ignore_index=True)
    return DataSetRows(frame, fractions=TRAIN_VAL_FRACTIONS)


def _testing(root: Path) -> pd.DataFrame:
    path = official_file(root, ["testing/reference.csv", "testing/images/reference.csv"], SOURCE)
    reference = read_sheet(path)
    reference = reference[reference[0].str.match(r"test_\d+")].reset_index(drop=True)
    labels = reference[1].str.strip().str.lower() if reference.shape[1] > 1 else pd.Series(dtype=str)
    if reference.empty or not labels.isin(["normal", "tumor"]).all():
        raise UserError(f"{path}: expected rows such as test_001,Tumor; obtain the file again ({SOURCE})")
    slides = "testing/images/" + reference[0].str.removesuffix(".tif") + ".tif"
    frame = pd.DataFrame({"path": slides, "label": labels, "split": "test"})
    return frame.assign(metastasis=reference[3].str.lower()) if reference.shape[1] > 3 else frame


CAMELYON16 = DataSet(
    name="camelyon16",
    image="whole slides, pyramidal TIFF",
    classes="normal, tumor",
    source=SOURCE,
    terms="CC0",
    read=_read,
    train="--mpp 8 --positive tumor",
)
