"""CheXpert: chest radiographs with findings from reports.

Layout: https://stanfordaimi.azurewebsites.net/datasets/8cbd9ed4-2eb9-4565-affc-111cf4f7ebe2: ``train.csv`` and
``valid.csv`` (Path, Sex, Age, Frontal/Lateral, AP/PA, 14 findings: 1, 0, -1 uncertain, empty not mentioned), images
``train/patientNNNNN/studyN/viewN_frontal.jpg``; or the four folders ``CheXpert-v1.0 batch N (...)`` as unpacked.
The validation part, labeled by radiologists, is the test split, because the labels of the official test part are
published separately; the validation split is drawn from the training patients.

A case is a study, ``patientNNNNN/studyN``: its findings come from one report, and its images are frontal or lateral.
The files hold no dates and no times, so there is no column ``time``; ages are in years.

Irvin et al., "CheXpert: a large chest radiograph dataset with uncertainty labels and expert comparison", AAAI 2019.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import TRAIN_VAL_FRACTIONS, DataSet, DataSetRows, numbers, read_official, without
from softfree.data.datasets.cases import with_cases
from softfree.data.datasets.options import PrepareOptions

SOURCE = "https://stanfordaimi.azurewebsites.net/datasets/8cbd9ed4-2eb9-4565-affc-111cf4f7ebe2"
FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
_STUDY = r"(patient\d+)/(study\d+)/([^/]+)$"


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    columns = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FINDINGS]
    parts = []
    for part, split in (("train", None), ("valid", "test")):
        rows = read_official(root, [f"{part}.csv", f"CheXpert-v1.0*/{part}.csv"], columns, SOURCE)
        parts.append(rows.assign(split=split, part=part))
    rows = pd.concat(parts, ignore_index=True)
    studies = rows["Path"].str.extract(_STUDY)
    folders = studies[0].map(_folders(root)).fillna(rows["part"])
    study = studies[0] + "/" + studies[1]
    frame = pd.DataFrame({"path": folders + "/" + study + "/" + studies[2]})
    frame["path"] = frame["path"].fillna(rows["Path"])
    frame = pd.concat([frame, read_findings(rows, options)], axis=1)
    notes = ["valid.csv, labeled by radiologists, is the test split; validation is drawn from the training patients"]
    frame = frame.assign(
        patient_id=studies[0],
        split=rows["split"],
        sex=without(rows["Sex"], "unknown"),
        age=numbers(rows["Age"], notes),
        view=rows["Frontal/Lateral"].str.lower(),
        projection=rows["AP/PA"],
    )
    if options.case == "study":
        frame = with_cases(frame, study)
    return DataSetRows(frame, FINDINGS, TRAIN_VAL_FRACTIONS, notes=tuple(notes))


def read_findings(rows: pd.DataFrame, options: PrepareOptions) -> pd.DataFrame:
    """Return the 14 findings as 0, 1 and NaN, uncertain and unmentioned ones by ``options``."""
    values = rows[list(FINDINGS)].apply(pd.to_numeric, errors="coerce")
    if options.unmentioned == "negative":
        values = values.fillna(0.0)
    return values.replace(-1.0, {"empty": float("nan"), "positive": 1.0, "negative": 0.0}[options.uncertain])


def _folders(root: Path) -> dict[str, str]:
    """Map patients to the parents of their folders, relative to ``root``."""
    parents: dict[str, str] = {}
    for base in (root, *sorted(root.glob("CheXpert-v1.0*"))):
        for folder in (base / "train", base / "valid", base):
            if folder.is_dir():
                parent = folder.relative_to(root).as_posix()
                parents.update({path.name: parent for path in folder.iterdir() if path.name.startswith("patient")})
    return {patient: parent for patient, parent in parents.items() if parent != "."}


CHEXPERT = DataSet(
    name="chexpert",
    image="chest radiographs, JPEG",
    classes="14 findings",
    source=SOURCE,
    terms="Stanford research use agreement: no commercial use, no redistribution",
    read=_read,
    train="--preset radiograph --size 320",
    takes=("uncertain", "unmentioned"),
    cases=("study", "image"),
)
