"""TCGA: whole slides with a clinical table.

Layout: https://portal.gdc.cancer.gov/: slides ``TCGA-XX-XXXX-01Z-00-DX1.UUID.svs`` in any folders (the GDC client makes
one each), and next to them one clinical table: the portal's ``clinical.tsv``, cBioPortal's
``data_clinical_patient.txt``, or another one with the patients in a column named below. A patient is the first 12
characters of the barcode (https://docs.gdc.cancer.gov/Encyclopedia/pages/TCGA_Barcode/), the tissue source site the 6th
and 7th, the kind of sample the 14th and 15th. All rows of a patient must have the same label.

Each slide is a row. With ``--case patient`` those of a patient, whom the clinical table describes, are a case, for
training on the features of their tiles. ``slide_type`` (DX, TS, BS, MS) and ``sample_type`` (01 primary tumor, 11
normal tissue) tell slides apart. Ages are in years.

``event`` (1 dead, 0 alive) and ``time_to_event`` (days after the diagnosis) come from vital_status, days_to_death and
days_to_last_follow_up of the portal, with or without the prefixes ``demographic.`` and ``diagnoses.``, or from
vital_status, death_days_to and last_contact_days_to of the older tables with bcr_patient_barcode. Of several days to a
last follow-up, the last counts. ``--label time_to_event`` prepares the table for them: the label is the event, so that
splits share it, and the printed command trains a model of survival. cBioPortal gives months instead of days, which are
not converted.
https://docs.gdc.cancer.gov/Data_Dictionary/viewer/#?view=table-definition-view&id=diagnosis
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import DataSet, DataSetRows, numbers, read_text, wanted_label, without
from softfree.data.datasets.cases import with_cases
from softfree.data.datasets.options import PrepareOptions
from softfree.data.datasets.survival import EVENT, TIME, TRAIN, survival
from softfree_runtime.core.errors import UserError

SOURCE = "https://portal.gdc.cancer.gov/"
_PATIENTS = (
    "case_submitter_id",
    "cases.submitter_id",
    "bcr_patient_barcode",
    "PATIENT_ID",
    "Patient ID",
    "submitter_id",
    "patient_id",
)
_UNKNOWN: tuple[str, ...] = (
    "'--",
    "--",
    "",
    "[not available]",
    "[not applicable]",
    "[unknown]",
    "[not evaluated]",
    "[discrepancy]",
)
_UNKNOWN += ("not reported", "unknown", "na")
_SEX = ("gender", "demographic.gender", "SEX", "Sex", "sex")
_AGE = ("age_at_index", "demographic.age_at_index", "AGE", "Diagnosis Age", "age")
_STATUS = ("vital_status", "demographic.vital_status")
_DEATH = ("days_to_death", "demographic.days_to_death", "death_days_to")
_FOLLOW_UP = ("days_to_last_follow_up", "diagnoses.days_to_last_follow_up", "last_contact_days_to")
_BARCODE = r"^(TCGA-([A-Z0-9]{2})-[A-Z0-9]{4})-(\d{2})[A-Z]?-\d{2}-([A-Z]{2})"


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    path, clinical, patients = _clinical(root)
    columns = [str(name) for name in clinical if name != patients]
    label = TIME if options.label == TIME else wanted_label(path, columns, options.label)
    slides = sorted(slide.relative_to(root).as_posix() for slide in root.rglob("TCGA-*.svs"))
    if not slides:
        raise UserError(f"{root}: no slide TCGA-*.svs in it; obtain some from {SOURCE}")
    frame = pd.DataFrame({"path": slides})
    parts = frame["path"].str.rsplit("/", n=1).str[-1].str.extract(_BARCODE)
    frame = frame.assign(patient_id=parts[0], site=parts[1], sample_type=parts[2], slide_type=parts[3])
    known = clinical.set_index(patients)
    reasons = pd.Series(None, frame.index, dtype=object)
    reasons[~frame["patient_id"].isin(known.index)] = "patient not in the clinical table"
    reasons[frame["patient_id"].isna()] = "no TCGA barcode in its name"
    notes: list[str] = []
    if label != TIME:
        values = known[label].groupby(level=0).agg(["nunique", "first"])
        several = values.index[values["nunique"] > 1]
        reasons[frame["patient_id"].isin(several)] = f"several values of {label!r}"
        frame["label"] = frame["patient_id"].map(values["first"])
    for ours, names in (("sex", _SEX), ("age", _AGE)):
        if (column := _first(known, names)) and column != label:
            frame[ours] = frame["patient_id"].map(known[column].groupby(level=0).first())
    if "age" in frame:
        frame["age"] = numbers(frame["age"], notes)
    slides_of = known[known.index.isin(frame["patient_id"])]
    for name, of_patient in _survival(slides_of, notes).items():
        frame[str(name)] = frame["patient_id"].map(of_patient).astype("Int64")
    if label == TIME:
        if TIME not in frame:
            needed = "; ".join(" or ".join(names) for names in (_STATUS, _DEATH, _FOLLOW_UP))
            raise UserError(f"{path}: --label {TIME} needs the columns {needed}")
        frame["label"] = frame[EVENT]
    if options.case == "patient":
        frame = with_cases(frame, frame["patient_id"])
    left_out = tuple(zip(frame["path"][reasons.notna()], reasons.dropna(), strict=True))
    train = TRAIN if label == TIME else ""
    return DataSetRows(frame[reasons.isna()], left_out=left_out, notes=tuple(notes), train=train)


def _first(clinical: pd.DataFrame, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in clinical), None)


def _survival(known: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Return ``time_to_event`` and ``event`` by patient; no columns if the table lacks one of the three it takes."""
    status, death, follow_up = (_first(known, names) for names in (_STATUS, _DEATH, _FOLLOW_UP))
    if not (status and death and follow_up):
        return pd.DataFrame()
    dead = known[status].str.strip().str.casefold().map({"dead": 1.0, "alive": 0.0}).groupby(level=0)
    died = numbers(known[death], notes).groupby(level=0)
    agreed = (dead.nunique() == 1) & (died.nunique() <= 1)
    last = numbers(known[follow_up], notes).astype(float).groupby(level=0).max()
    frame, note = survival(dead.first().where(agreed), died.first().astype(float), last)
    notes += [note] if note else []
    return frame


def _clinical(root: Path) -> tuple[Path, pd.DataFrame, str]:
    """Return the clinical table, with empty cells for all words that mean unknown, and its column of patients."""
    files = [path for ending in ("tsv", "csv", "txt") for path in sorted(root.glob(f"*clinical*.{ending}"))]
    if exact := [path for path in files if path.stem == "clinical"]:
        files = exact
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "none"
        raise UserError(f"{root}: expected one clinical table, such as clinical.tsv from {SOURCE}; found {names}")
    clinical = read_text(files[0])
    patients = next((name for name in _PATIENTS if name in clinical), None)
    if patients is None:
        raise UserError(f"{files[0]}: no column with patients; expected one of {', '.join(_PATIENTS)}")
    # Other rows are additional headings, as in tables of the old data portal.
    clinical = clinical[clinical[patients].str.fullmatch(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}").fillna(False).astype(bool)]
    return files[0], clinical.apply(without, args=_UNKNOWN), patients


TCGA = DataSet(
    name="tcga",
    image="whole slides, SVS",
    classes="a column of the clinical table, named by --label",
    source=SOURCE,
    terms="open access slides: NIH genomic data sharing policy; no attempt to identify people",
    read=_read,
    train="--mpp 8",
    takes=("label",),
    cases=("slide", "patient"),
    train_cases="--model seqnorm_bag_tiny",
)
