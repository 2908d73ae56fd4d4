"""VinDr-Mammo: mammography exams of four views with BI-RADS assessments of each breast.

Layout: https://physionet.org/content/vindr-mammo/1.0.0/: ``breast-level_annotations.csv`` (a row per image: study_id,
series_id, image_id, laterality L or R, view_position CC or MLO, height, width, breast_birads 'BI-RADS 1' to 'BI-RADS
5', breast_density 'DENSITY A' to 'DENSITY D', split training or test) and ``images/STUDY_ID/IMAGE_ID.dicom``. The
headers keep the patient's age and the model of the device, but neither patient ids nor dates
(https://github.com/vinbigdata-medical/vindr-mammo, ``tags.csv`` and ``deidentification.py``), so exams take the place
of patients, and there is no column ``time``. ``finding_annotations.csv``, boxes around single findings, is not used.

A case is a breast with its two views, because the radiologists assessed each breast. ``--case exam`` joins the four
views: assessment and density of an exam are the higher ones of its breasts, as the BI-RADS atlas defines them for an
exam. ``label`` is the assessment, 1 to 5, and ``density`` 1 to 4 for A to D; both have an order.

Nguyen et al., "VinDr-Mammo: a large-scale benchmark dataset for computer-aided diagnosis in full-field digital
mammography", Scientific Data 10 (2023).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.core.progress import tracked
from softfree.data.datasets.base import TRAIN_VAL_FRACTIONS, DataSet, DataSetRows, checked, read_official
from softfree.data.datasets.cases import with_cases
from softfree.data.datasets.headers import header_text, years
from softfree.data.datasets.options import PrepareOptions

SOURCE = "https://physionet.org/content/vindr-mammo/1.0.0/"
_FILE = "breast-level_annotations.csv"
_VALUES: dict[str, dict[str, str | int]] = {
    "laterality": {"L": "L", "R": "R"},
    "view_position": {"CC": "CC", "MLO": "MLO"},
    "breast_birads": {f"BI-RADS {number}": number for number in range(1, 6)},
    "breast_density": {f"DENSITY {letter}": number for number, letter in enumerate("ABCD", 1)},
    "split": {"training": "train", "test": "test"},
}


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    rows = read_official(root, [_FILE], ["study_id", "image_id", *_VALUES], SOURCE)
    known = {name: _translated(rows[name], values, root / _FILE) for name, values in _VALUES.items()}
    study = rows["study_id"]
    frame = pd.DataFrame(
        {
            "path": "images/" + study + "/" + rows["image_id"] + ".dicom",
            "label": known["breast_birads"].astype("Int64"),
            "patient_id": study,
            "view": known["laterality"] + "-" + known["view_position"],
            "split": known["split"].replace({"train": None}),
            "density": known["breast_density"].astype("Int64"),
        }
    )
    if options.case == "exam":
        for name in ("label", "density"):
            frame[name] = frame[name].groupby(study).transform("max")
        frame = with_cases(frame, study)
    elif options.case == "breast":
        frame = with_cases(frame, study + "-" + known["laterality"])
    shown = tracked(frame["path"], "Reading headers", shown=options.progress)
    headers = [header_text(root / path, ("PatientAge", "ManufacturerModelName")) for path in shown]
    frame["age"] = pd.array([years(age) for age, _ in headers], dtype="Int64")
    frame["device"] = [device for _, device in headers]
    note = (
        "the data set has no patient ids: exams take their place, so a patient with two exams may be in train and val"
    )
    return DataSetRows(frame, fractions=TRAIN_VAL_FRACTIONS, notes=(note,))


def _translated(column: pd.Series, values: dict[str, str | int], path: Path) -> pd.Series:
    graded = column.name in ("breast_birads", "breast_density")  # an empty cell is an unknown grade
    return checked(column, "|".join(values), path, SOURCE, may_be_empty=graded).map(values)


VINDR_MAMMO = DataSet(
    name="vindr-mammo",
    image="mammograms, DICOM, four views an exam",
    classes="BI-RADS assessment 1 to 5 of a breast; also density 1 to 4",
    source=SOURCE,
    terms="PhysioNet restricted access: data use agreement",
    read=_read,
    train="--task ordinal --preset radiograph --size 1024 --class-weights",
    cases=("breast", "exam", "image"),
)
