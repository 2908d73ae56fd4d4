"""ISIC 2019: dermoscopy of skin lesions.

Layout: https://challenge.isic-archive.com/data/#2019: ``ISIC_2019_Training_GroundTruth.csv`` (image and one 0/1 column
a class), ``ISIC_2019_Training_Metadata.csv`` (image, age_approx, anatom_site_general, lesion_id, sex) and
``ISIC_2019_Training_Input/IMAGE.jpg``. Patients are not named; lesions are, and stand for them. Where the test set lies
beside, with its ground truth, it is the test split; its class UNK, which training has not, belongs to no task.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import DRAWN, DRAWN_BESIDE_TEST, DataSet, DataSetRows, columns_of, read_official
from softfree.data.datasets.options import PrepareOptions
from softfree_runtime.core.errors import UserError

SOURCE = "https://challenge.isic-archive.com/data/#2019"
_CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
_SUBGROUPS = {"lesion_id": "patient_id", "sex": "sex", "age_approx": "age", "anatom_site_general": "site"}


def _read(root: Path, chosen: PrepareOptions) -> DataSetRows:
    training = _part(root, "Training")
    if not (root / "ISIC_2019_Test_GroundTruth.csv").is_file():
        return DataSetRows(training, draw=DRAWN)
    test = _part(root, "Test")
    test["split"] = ["extra" if label == "UNK" else "test" for label in test["label"]]
    return DataSetRows(pd.concat([training, test], ignore_index=True), draw=DRAWN_BESIDE_TEST)


def _part(root: Path, part: str) -> pd.DataFrame:
    name = f"ISIC_2019_{part}_GroundTruth.csv"
    truth = read_official(root, [name], ["image", *_CLASSES], SOURCE)
    marks = truth[list(_CLASSES)].astype(float)
    if (wrong := marks.sum(axis=1) != 1).any():
        raise UserError(
            f"{root / name}: {truth['image'][wrong].iloc[0]} has {marks[wrong].iloc[0].sum():g} classes; expected one"
            f" in each row; obtain the file again ({SOURCE})"
        )
    metadata = read_official(root, [f"ISIC_2019_{part}_Metadata.csv"], ["image"], SOURCE).set_index("image")
    frame = pd.DataFrame({"path": f"ISIC_2019_{part}_Input/" + truth["image"] + ".jpg", "label": marks.idxmax(axis=1)})
    subgroups = columns_of(metadata, _SUBGROUPS).reindex(truth["image"]).reset_index(drop=True)
    return pd.concat([frame, subgroups], axis=1)


ISIC2019 = DataSet(
    name="isic2019",
    image="dermoscopy, JPEG",
    classes="8 kinds of skin lesion",
    source=SOURCE,
    terms="CC BY-NC 4.0",
    read=_read,
    train="--preset photo --size 448 --class-weights",
)
