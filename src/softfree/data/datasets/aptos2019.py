"""APTOS 2019: fundus photographs with grades of diabetic retinopathy.

Layout: https://www.kaggle.com/competitions/aptos2019-blindness-detection/data: ``train.csv`` (id_code, diagnosis) and
``train_images/ID.png``. The labels of ``test.csv`` are not public, and there are no patient ids. The label is the
grade, a whole number from 0 (no retinopathy) to 4 (proliferative), which has an order. There are no other variables.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import DataSet, DataSetRows, read_official
from softfree.data.datasets.options import PrepareOptions
from softfree_runtime.core.errors import UserError

SOURCE = "https://www.kaggle.com/competitions/aptos2019-blindness-detection/data"


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    rows = read_official(root, ["train.csv"], ["id_code", "diagnosis"], SOURCE)
    grades = pd.to_numeric(rows["diagnosis"], errors="coerce")
    if (wrong := rows["diagnosis"].notna() & ~grades.isin(range(5))).any():
        raise UserError(
            f"{root / 'train.csv'}: {wrong.sum()} of {len(rows)} grades are not whole numbers from 0 to 4 (first:"
            f" {rows['diagnosis'][wrong].iloc[0]!r}); obtain the file again ({SOURCE})"
        )
    paths = "train_images/" + rows["id_code"] + ".png"
    frame = pd.DataFrame({"path": paths, "label": grades.astype("Int64")})
    note = "the data set has no patient ids and contains duplicate images: softfree check finds copies across splits"
    return DataSetRows(frame, notes=(note,))


APTOS2019 = DataSet(
    name="aptos2019",
    image="fundus photographs, PNG",
    classes="diabetic retinopathy, grades 0 to 4",
    source=SOURCE,
    terms="competition rules of Kaggle: research and education, no redistribution",
    read=_read,
    train="--task ordinal --preset photo --size 512 --class-weights",
)
