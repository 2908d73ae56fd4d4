"""TCGA: whole slides with a clinical table.

Layout: https://portal.gdc.cancer.gov/: slides ``TCGA-XX-XXXX-01Z-00-DX1.UUID.svs`` in any folders (the GDC client makes
one each), and next to them one clinical table: the portal's ``clinical.tsv``, cBioPortal's
``data_clinical_patient.txt``, or another one with the patients in a column named below. A patient is the first 12
characters of the barcode (https://docs.gdc.cancer.gov/Encyclopedia/pages/TCGA_Barcode/), the tissue source site the 6th
and 7th, the kind of sample the 14th and 15th. All rows of a patient must have the same label.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import DataSet, DataSetRows, read_text, wanted_label, without
from softfree.data.datasets.options import PrepareOptions
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
_BARCODE = r"^(TCGA-([A-Z0-9]{2})-[A-Z0-9]{4})-(\d{2})[A-Z]?-\d{2}-([A-Z]{2})"


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    path, clinical, patients = _clinical(root)
    label = wanted_label(path, [str(name) for name in clinical if name != patients], options.label)
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
    values = known[label].groupby(level=0).agg(["nunique", "first"])
    several = values.index[values["nunique"] > 1]
    reasons[frame["patient_id"].isin(several)] = f"several values of {label!r}"
    frame["label"] = frame["patient_id"].map(values["first"])
    for ours, names in (("sex", _SEX), ("age", _AGE)):
        if column := next((name for name in names if name in known and name != label), None):
            frame[ours] = frame["patient_id"].map(known[column].groupby(level=0).first())
    left_out = tuple(zip(frame["path"][reasons.notna()], reasons.dropna(), strict=True))
    return DataSetRows(frame[reasons.isna()], left_out=left_out)


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
)
