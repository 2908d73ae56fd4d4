"""VinDr-CXR: chest radiographs with findings by radiologists.

Layout: https://physionet.org/content/vindr-cxr/1.0.0/: ``annotations/image_labels_train.csv`` (image_id, rad_id and one
0/1 column a finding; three radiologists an image), ``annotations/image_labels_test.csv`` (the consensus of five),
``train/ID.dicom`` and ``test/ID.dicom``. A finding of the training part is what most of its radiologists say; a draw is
unknown. The set names no patients; their sex and age are in the headers of the DICOM files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from pydicom import dcmread

from softfree.core.progress import tracked
from softfree.data.datasets.base import DRAWN_BESIDE_TEST, DataSet, DataSetRows, read_official
from softfree.data.datasets.options import PrepareOptions
from softfree_runtime.readers.quiet import quiet

SOURCE = "https://physionet.org/content/vindr-cxr/1.0.0/"
_SPELT = {"Other disease": "Other diseases"}  # the test file's spelling and the training file's


def _read(root: Path, chosen: PrepareOptions) -> DataSetRows:
    train, test = _consensus(root, "train"), _consensus(root, "test")
    findings = tuple(str(name) for name in train if name in test and name != "path")
    frame = pd.concat([train.assign(split=None), test.assign(split="test")], ignore_index=True)
    note = "the set names no patients: images are drawn into train and val, so a patient may be in both"
    frame = frame[["path", *findings, "split"]]
    shown = tracked(frame["path"], "Reading headers", shown=chosen.progress)
    about = pd.DataFrame([_about(root / path) for path in shown], columns=["sex", "age"])
    return DataSetRows(pd.concat([frame, about], axis=1), findings, DRAWN_BESIDE_TEST, notes=(note,))


def _consensus(root: Path, part: str) -> pd.DataFrame:
    """One row an image: 1 or 0 where most radiologists agree, NaN at a draw."""
    name = f"image_labels_{part}.csv"
    votes = read_official(root, [f"annotations/{name}", name], ["image_id", "No finding"], SOURCE)
    votes = votes.rename(columns=_SPELT).set_index("image_id").drop(columns="rad_id", errors="ignore")
    shares = votes.apply(pd.to_numeric, errors="coerce").groupby(level=0, sort=True).mean()
    consensus = (shares > 0.5).astype(float).mask((shares == 0.5) | shares.isna(), np.nan)
    consensus.insert(0, "path", [f"{part}/{image}.dicom" for image in consensus.index])
    return consensus.reset_index(drop=True)


def _about(path: Path) -> tuple[str | None, int | None]:
    """Return sex and age in years from the header, as far as it has them; a broken file is found by softfree check."""
    try:
        with quiet():
            header = dcmread(path, stop_before_pixels=True, specific_tags=["PatientSex", "PatientAge"])
        sex, age = str(header.get("PatientSex") or ""), str(header.get("PatientAge") or "")
    except Exception:  # pydicom raises many kinds
        return None, None
    years = age.removesuffix("Y")
    return sex or None, int(years) if years.isdigit() and int(years) > 0 else None


VINDR_CXR = DataSet(
    name="vindr-cxr",
    image="chest radiographs, DICOM",
    classes="28 findings and diagnoses, 'No finding' among them",
    source=SOURCE,
    terms="PhysioNet credentialed access: training in research with people, data use agreement",
    read=_read,
    train="--preset radiograph --size 1024",
)
