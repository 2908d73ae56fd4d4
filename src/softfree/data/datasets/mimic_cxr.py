"""MIMIC-CXR: chest radiographs with findings from reports, as JPEG (MIMIC-CXR-JPG) or as DICOM (MIMIC-CXR).

Layout: https://physionet.org/content/mimic-cxr-jpg/2.1.0/: ``mimic-cxr-2.0.0-chexpert.csv.gz`` (subject_id, study_id,
14 findings as in CheXpert), ``mimic-cxr-2.0.0-split.csv.gz`` (dicom_id, study_id, subject_id, split: train, validate,
test), ``mimic-cxr-2.0.0-metadata.csv.gz`` (dicom_id, ViewPosition, StudyDate as YYYYMMDD and more) and
``files/p10/p10000032/s50414267/DICOM_ID.jpg`` (``.dcm`` in MIMIC-CXR). The split is the official one, by patient.

A case is a study, ``study_id``: its findings come from one report. ``view`` is frontal (PA, AP) or lateral (LATERAL,
LL), and empty for the few other positions; ``projection`` keeps the position. ``time`` is in days after the patient's
first study: dates are shifted by patient, so only their differences are true. Age and sex are not in these files, but
in MIMIC-IV.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import DataSet, DataSetRows, read_official
from softfree.data.datasets.cases import with_cases
from softfree.data.datasets.chexpert import FINDINGS, read_findings
from softfree.data.datasets.options import PrepareOptions

SOURCE = "https://physionet.org/content/mimic-cxr-jpg/2.1.0/"
_VIEWS = {"PA": "frontal", "AP": "frontal", "LATERAL": "lateral", "LL": "lateral"}
_SPLITS = {"train": "train", "validate": "val", "test": "test"}


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    keys = ["subject_id", "study_id"]
    rows = _file(root, "split", ["dicom_id", *keys, "split"])
    rows = rows.merge(_file(root, "chexpert", [*keys, *FINDINGS]), on=keys, how="left")
    metadata = _file(root, "metadata", ["dicom_id", "ViewPosition", "StudyDate"])
    rows = rows.merge(metadata[["dicom_id", "ViewPosition", "StudyDate"]], on="dicom_id", how="left")
    subject = rows["subject_id"]
    study = "files/p" + subject.str[:2] + "/p" + subject + "/s" + rows["study_id"] + "/" + rows["dicom_id"]
    frame = pd.concat(
        [pd.DataFrame({"path": study.map(lambda name: _stored(root, name))}), read_findings(rows, options)], axis=1
    )
    frame = frame.assign(
        patient_id=subject,
        split=rows["split"].map(_SPLITS),
        view=rows["ViewPosition"].map(_VIEWS),
        time=_days(rows["StudyDate"], subject),
        projection=rows["ViewPosition"],
    )
    if options.case == "study":
        frame = with_cases(frame, rows["study_id"])
    listed = frame["split"].notna()
    left_out = tuple((path, "no official split") for path in frame["path"][~listed])
    return DataSetRows(frame[listed], FINDINGS, left_out=left_out)


def _days(dates: pd.Series, patients: pd.Series) -> pd.Series:
    """Return the days since the patient's first date; empty for what is not a date."""
    parsed = pd.to_datetime(dates, format="%Y%m%d", errors="coerce")
    return (parsed - parsed.groupby(patients).transform("min")).dt.days.astype("Int64")


def _file(root: Path, part: str, columns: list[str]) -> pd.DataFrame:
    name = f"mimic-cxr-2.0.0-{part}.csv"
    return read_official(root, [f"{name}.gz", name], columns, SOURCE)


def _stored(root: Path, name: str) -> str:
    jpeg, dicom = f"{name}.jpg", f"{name}.dcm"
    return dicom if not (root / jpeg).exists() and (root / dicom).exists() else jpeg


MIMIC_CXR = DataSet(
    name="mimic-cxr",
    image="chest radiographs, JPEG or DICOM",
    classes="14 findings",
    source=SOURCE,
    terms="PhysioNet credentialed access: training in research with people, data use agreement",
    read=_read,
    train="--preset radiograph --size 512",
    takes=("uncertain", "unmentioned"),
    cases=("study", "image"),
)
