"""ISIC 2019: dermoscopy of skin lesions.

Layout: https://challenge.isic-archive.com/data/#2019: ``ISIC_2019_Training_GroundTruth.csv`` (image and one 0/1 column
per class), ``ISIC_2019_Training_Metadata.csv`` (image, age_approx, anatom_site_general, lesion_id, sex) and
``ISIC_2019_Training_Input/IMAGE.jpg``. There are no patient ids; lesion ids are used instead. If the test
set with its ground truth is in the same folder, it is the test split; its class UNK, which the training set lacks, is
not used. Ages are in years, in steps of five; there are no dates.

Each image is a sample, as the challenge scores them; the files of the test set name no lesions.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import (
    FRACTIONS,
    TRAIN_VAL_FRACTIONS,
    DataSet,
    DataSetRows,
    columns_of,
    numbers,
    read_official,
)
from softfree.data.datasets.options import PrepareOptions
from softfree_runtime.core.errors import UserError

SOURCE = "https://challenge.isic-archive.com/data/#2019"
_CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
_SUBGROUPS = {"lesion_id": "patient_id", "sex": "sex", "age_approx": "age", "anatom_site_general": "site"}


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    frame, fractions = _part(root, "Training"), FRACTIONS
    if (root / "ISIC_2019_Test_GroundTruth.csv").is_file():
        test = _part(root, "Test")
        test["split"] = ["extra" if label == "UNK" else "test" for label in test["label"]]
        frame, fractions = pd.concat([frame, test], ignore_index=True), TRAIN_VAL_FRACTIONS
    notes: list[str] = []
    if "age" in frame:
        frame["age"] = numbers(frame["age"], notes)
    return DataSetRows(frame, fractions=fractions, notes=tuple(notes))


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
