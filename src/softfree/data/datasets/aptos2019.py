"""APTOS 2019: fundus photographs with grades of diabetic retinopathy.

Layout: https://www.kaggle.com/competitions/aptos2019-blindness-detection/data: ``train.csv`` (id_code, diagnosis) and
``train_images/ID.png``. The labels of ``test.csv`` are not public, and there are no patient ids.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import DataSet, DataSetRows, read_official
from softfree.data.datasets.options import PrepareOptions

SOURCE = "https://www.kaggle.com/competitions/aptos2019-blindness-detection/data"


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    rows = read_official(root, ["train.csv"], ["id_code", "diagnosis"], SOURCE)
    frame = pd.DataFrame({"path": "train_images/" + rows["id_code"] + ".png", "label": rows["diagnosis"]})
    note = "the data set has no patient ids and contains duplicate images: softfree check finds copies across splits"
    return DataSetRows(frame, notes=(note,))


APTOS2019 = DataSet(
    name="aptos2019",
    image="fundus photographs, PNG",
    classes="diabetic retinopathy, grades 0 to 4",
    source=SOURCE,
    terms="competition rules of Kaggle: research and education, no redistribution",
    read=_read,
    train="--preset photo --size 512 --class-weights",
)
