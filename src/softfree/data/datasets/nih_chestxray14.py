"""NIH ChestX-ray14: chest radiographs with findings from reports.

Layout: https://nihcc.app.box.com/v/ChestXray-NIHCC: ``Data_Entry_2017_v2020.csv`` or ``Data_Entry_2017.csv``
(Image Index, Finding Labels joined by ``|``, Follow-up #, Patient ID, Patient Age, Patient Gender or Patient Sex, View
Position), ``train_val_list.txt`` and ``test_list.txt`` (by patient), and the images of twelve archives
``images_001.tar.gz`` ..., unpacked to ``images/`` or to ``images_001/images/`` ....

Each image is a sample: all are frontal, AP or PA (``view``). ``follow_up`` is the number of the visit; the days between
visits are not in the files, so there is no column ``time``. Ages are in years, at the visit.

Wang et al., "ChestX-ray8", CVPR 2017; the labels were mined from reports and are often wrong.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import (
    TRAIN_VAL_FRACTIONS,
    DataSet,
    DataSetRows,
    columns_of,
    index_files,
    numbers,
    official_file,
    read_official,
)
from softfree.data.datasets.options import PrepareOptions
from softfree_runtime.core.errors import UserError

SOURCE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
_SUBGROUPS = {
    "Patient ID": "patient_id",
    "Patient Gender": "sex",
    "Patient Sex": "sex",
    "Patient Age": "age",
    "View Position": "view",
    "Follow-up #": "follow_up",
}


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    names = ["Data_Entry_2017_v2020.csv", "Data_Entry_2017*.csv"]
    rows = read_official(root, names, ["Image Index", "Finding Labels", "Patient ID"], SOURCE)
    labels = rows["Finding Labels"].fillna("").str.split("|").map(set)
    unknown = set().union(*labels) - {*FINDINGS, "No Finding", ""}
    if unknown:
        raise UserError(
            f"{root}: finding {min(unknown)!r} is not one of ChestX-ray14; obtain the table again ({SOURCE})"
        )
    files = index_files(root, ["images", "images_*/images", "images_*"], (".png",))
    frame = pd.DataFrame({"path": rows["Image Index"].map(files).fillna("images/" + rows["Image Index"])})
    present = pd.DataFrame({name: labels.map(lambda names, name=name: float(name in names)) for name in FINDINGS})
    present[rows["Finding Labels"].isna()] = float("nan")
    subgroups = columns_of(rows, _SUBGROUPS)
    notes: list[str] = []
    for name in subgroups.columns.intersection(["age", "follow_up"]):
        subgroups[name] = numbers(subgroups[name].str.removesuffix("Y"), notes)  # the first release writes 058Y
    part = _parts(root, rows["Image Index"])
    frame = pd.concat([frame, present, subgroups], axis=1).assign(split=part.replace({"train_val": None}))
    listed = part.notna()
    left_out = tuple((name, "in no official list") for name in rows["Image Index"][~listed])
    return DataSetRows(frame[listed], FINDINGS, TRAIN_VAL_FRACTIONS, left_out, tuple(notes))


def _parts(root: Path, images: pd.Series) -> pd.Series:
    """Return ``train_val``, ``test`` or None for each image, from the official lists."""
    parts: dict[str, str] = {}
    for name, part in (("train_val_list.txt", "train_val"), ("test_list.txt", "test")):
        lines = official_file(root, [name], SOURCE).read_text(encoding="utf-8").split()
        parts.update(dict.fromkeys(lines, part))
    return images.map(parts)


NIH_CHESTXRAY14 = DataSet(
    name="nih-chestxray14",
    image="chest radiographs, PNG",
    classes="14 findings",
    source=SOURCE,
    terms="free to use; cite the paper, name the NIH Clinical Center and link to the download",
    read=_read,
    train="--preset radiograph --size 512",
)
