"""VinDr-CXR: chest radiographs with findings by radiologists.

Layout: https://physionet.org/content/vindr-cxr/1.0.0/: ``annotations/image_labels_train.csv`` (image_id, rad_id and one
0/1 column per finding; three radiologists per image), ``annotations/image_labels_test.csv`` (the consensus of five),
``train/ID.dicom`` and ``test/ID.dicom``. A training finding is the majority vote of its radiologists; a tie is unknown.
The data set has no patient ids; sex and age are in the headers of the DICOM files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pydicom import dcmread

from softfree.core.progress import tracked
from softfree.data.datasets.base import TRAIN_VAL_FRACTIONS, DataSet, DataSetRows, read_official
from softfree.data.datasets.options import PrepareOptions
from softfree_runtime.readers.quiet import quiet

SOURCE = "https://physionet.org/content/vindr-cxr/1.0.0/"
_SPELLING = {"Other disease": "Other diseases"}  # spelling in the test file and in the training file


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    train, test = _consensus(root, "train"), _consensus(root, "test")
    findings = tuple(str(name) for name in train if name in test and name != "path")
    frame = pd.concat([train.assign(split=None), test.assign(split="test")], ignore_index=True)
    note = "the data set has no patient ids: images are split into train and val, so a patient may be in both"
    frame = frame[["path", *findings, "split"]]
    shown = tracked(frame["path"], "Reading headers", shown=options.progress)
    demographics = pd.DataFrame([_demographics(root / path) for path in shown], columns=["sex", "age"])
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


def _demographics(path: Path) -> tuple[str | None, int | None]:
    """Return sex and age in years from the header, if present; softfree check reports broken files."""
    try:
        with quiet():
            header = dcmread(path, stop_before_pixels=True, specific_tags=["PatientSex", "PatientAge"])
        sex, age = str(header.get("PatientSex") or ""), str(header.get("PatientAge") or "")
    except Exception:  # pydicom raises many kinds of exceptions
        return None, None
    years = age.removesuffix("Y")
    return sex or None, int(years) if years.isdigit() and int(years) > 0 else None


VINDR_CXR = DataSet(
    name="vindr-cxr",
    image="chest radiographs, DICOM",
    classes="28 findings and diagnoses, including 'No finding'",
    source=SOURCE,
    terms="PhysioNet credentialed access: training in research with people, data use agreement",
    read=_read,
    train="--preset radiograph --size 1024",
)
