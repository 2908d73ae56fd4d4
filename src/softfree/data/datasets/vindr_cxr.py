"""VinDr-CXR: chest radiographs with findings by radiologists.

Layout: https://physionet.org/content/vindr-cxr/1.0.0/: ``annotations/image_labels_train.csv`` (image_id, rad_id and one
0/1 column per finding; three radiologists per image), ``annotations/image_labels_test.csv`` (the consensus of five),
``train/ID.dicom`` and ``test/ID.dicom``. A training finding is the majority vote of its radiologists; a tie is unknown.
The data set has no patient ids, studies or dates, so each image is a sample; sex and age in years are in the headers of
the DICOM files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from softfree.core.progress import tracked
from softfree.data.datasets.base import TRAIN_VAL_FRACTIONS, DataSet, DataSetRows, read_official
from softfree.data.datasets.headers import header_text, years
from softfree.data.datasets.options import PrepareOptions

SOURCE = "https://physionet.org/content/vindr-cxr/1.0.0/"
_SPELLING = {"Other disease": "Other diseases"}  # spelling in the test file and in the training file


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    train, test = _consensus(root, "train"), _consensus(root, "test")
    findings = tuple(str(name) for name in train if name in test and name != "path")
    frame = pd.concat([train.assign(split=None), test.assign(split="test")], ignore_index=True)
    note = "the data set has no patient ids: images are split into train and val, so a patient may be in both"
    frame = frame[["path", *findings, "split"]]
    shown = tracked(frame["path"], "Reading headers", shown=options.progress)
    headers = [header_text(root / path, ("PatientSex", "PatientAge")) for path in shown]
    demographics = pd.DataFrame({"sex": [sex for sex, _ in headers]})
    demographics["age"] = pd.array([years(age) for _, age in headers], dtype="Int64")
    return DataSetRows(pd.concat([frame, demographics], axis=1), findings, TRAIN_VAL_FRACTIONS, notes=(note,))


def _consensus(root: Path, part: str) -> pd.DataFrame:
    """Return one row per image: the majority vote, 1 or 0, of the radiologists, NaN for a tie."""
    name = f"image_labels_{part}.csv"
    votes = read_official(root, [f"annotations/{name}", name], ["image_id", "No finding"], SOURCE)
    votes = votes.rename(columns=_SPELLING).set_index("image_id").drop(columns="rad_id", errors="ignore")
    shares = votes.apply(pd.to_numeric, errors="coerce").groupby(level=0, sort=True).mean()
    consensus = (shares > 0.5).astype(float).mask((shares == 0.5) | shares.isna(), np.nan)
    consensus.insert(0, "path", [f"{part}/{image}.dicom" for image in consensus.index])
    return consensus.reset_index(drop=True)


VINDR_CXR = DataSet(
    name="vindr-cxr",
    image="chest radiographs, DICOM",
    classes="28 findings and diagnoses, including 'No finding'",
    source=SOURCE,
    terms="PhysioNet credentialed access: training in research with people, data use agreement",
    read=_read,
    train="--preset radiograph --size 1024",
)
