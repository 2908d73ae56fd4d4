"""Duke Breast Cancer MRI: dynamic contrast-enhanced MRI before treatment, 922 patients.

Layout: https://doi.org/10.7937/TCIA.e3sv-re93: ``Clinical_and_Other_Features.xlsx`` (three rows of headings: group,
name, legend; then one row per patient, ``Breast_MRI_001`` ...), and one folder per patient,
``Duke-Breast-Cancer-MRI/Breast_MRI_001/STUDY/SERIES/*.dcm``. A row's path is the folder of the study, so a row is a
whole sample. There is one MRI of each patient, hence no column ``time``; ages are in years.

``event`` is a recurrence, local or distant (``Recurrence event(s)``; a death is none), and ``time_to_event`` its day
after the diagnosis: the earlier of the two days to a recurrence, or, without an event, the earlier of the days to the
last assessments as free of local and of distant recurrence, since until then both are known to be absent.

Saha et al., "A machine learning approach to radiogenomics of breast cancer", British Journal of Cancer 119 (2018).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import DataSet, DataSetRows, numbers, official_file, read_sheet, wanted_label
from softfree.data.datasets.options import PrepareOptions
from softfree.data.datasets.survival import survival
from softfree_runtime.core.errors import UserError

SOURCE = "https://doi.org/10.7937/TCIA.e3sv-re93"
# Names from the legends of the sheet; other columns keep their numbers.
_NAMES: dict[str, dict[str, str]] = {
    "Mol Subtype": {"0": "luminal-like", "1": "ER/PR pos, HER2 pos", "2": "HER2", "3": "triple negative"},
    "ER": {"0": "negative", "1": "positive"},
    "PR": {"0": "negative", "1": "positive"},
    "HER2": {"0": "negative", "1": "positive", "2": "borderline"},
    "Menopause (at diagnosis)": {"0": "pre", "1": "post", "2": ""},
}
_SUBGROUPS = {
    "Menopause (at diagnosis)": "menopause",
    "Race and Ethnicity": "race",
    "Manufacturer": "manufacturer",
    "Field Strength (Tesla)": "field_strength",
}
_EVENT = "Recurrence event(s)"
# Spelled as in the sheet.
_RECURRED = (
    "Days to local recurrence (from the date of diagnosis)",
    "Days to distant recurrence(from the date of diagnosis)",
)
_FREE = (
    "Days to last local recurrence free assessment (from the date of diagnosis)",
    "Days to last distant recurrence free assemssment(from the date of diagnosis)",
)
_GRADE = "Nottingham grade"
_BORN = "Date of Birth (Days)"  # with the day of the diagnosis as 0
_ABSENT = ("NA", "NP", "NC", "N/A", "NaN")


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    names = ["Clinical_and_Other_Features.xlsx", "Clinical_and_Other_Features.csv"]
    path = official_file(root, [*names, *(f"*/{name}" for name in names)], SOURCE)
    clinical = _clinical(path)
    patients = clinical["Patient ID"]
    label = wanted_label(path, [str(name) for name in clinical if name != "Patient ID"], options.label)
    studies = patients.map(_studies(root)).map(lambda folders: folders if isinstance(folders, list) else [])
    paths = studies.str[0].fillna(patients)
    frame = pd.DataFrame({"path": paths, "label": _named(clinical, label), "patient_id": patients})
    for column, ours in _SUBGROUPS.items():
        if column in clinical and column != label:
            frame[ours] = _named(clinical, column)
    notes: list[str] = []
    if _BORN in clinical:
        frame["age"] = (_number(clinical, _BORN, notes) / -365.25).round(1)
    if _GRADE in clinical and label != _GRADE:
        frame["nottingham_grade"] = _number(clinical, _GRADE, notes)
    if {_EVENT, *_RECURRED, *_FREE} <= set(clinical):
        times, note = _recurrence(clinical, notes)
        frame = pd.concat([frame, times], axis=1)
        notes += [note] if note else []
    several = studies.map(len) > 1
    left_out = tuple((patient, "several studies") for patient in patients[several])
    return DataSetRows(frame[~several], left_out=left_out, notes=tuple(notes))


def _number(clinical: pd.DataFrame, column: str, notes: list[str]) -> pd.Series:
    return numbers(clinical[column].mask(clinical[column].isin(_ABSENT)), notes)


def _recurrence(clinical: pd.DataFrame, notes: list[str]) -> tuple[pd.DataFrame, str | None]:
    event = _number(clinical, _EVENT, notes).astype(float)
    recurred = pd.concat([_number(clinical, name, notes).astype(float) for name in _RECURRED], axis=1).min(axis=1)
    free = pd.concat([_number(clinical, name, notes).astype(float) for name in _FREE], axis=1).min(axis=1, skipna=False)
    return survival(event.where(event.isin([0, 1])), recurred, free)


def _clinical(path: Path) -> pd.DataFrame:
    """Return one row per patient, with columns named by the row that starts with 'Patient ID'."""
    if path.suffix == ".xlsx":
        try:
            sheet = pd.read_excel(path, header=None, dtype=str)
        except ImportError:
            raise UserError(f"{path}: reading Excel needs openpyxl: pip install openpyxl, or save it as CSV") from None
        except Exception as error:  # openpyxl and zipfile raise many kinds of exceptions
            raise UserError(f"{path}: not an Excel workbook ({error}); obtain it again ({SOURCE})") from None
    else:
        sheet = read_sheet(path)
    first = sheet.iloc[:, 0].astype("string").str.strip()
    headings = first.index[first.eq("Patient ID").fillna(False)]
    if headings.empty:
        raise UserError(f"{path}: no heading 'Patient ID' in the first column; expected the official sheet ({SOURCE})")
    names = sheet.loc[headings[0]].astype("string").fillna("").str.split().str.join(" ").tolist()
    rows = sheet[first.str.fullmatch(r"Breast_MRI_\d+").fillna(False)].reset_index(drop=True)
    # Some headings occur twice, under different groups.
    repeats = [names[:column].count(name) for column, name in enumerate(names)]
    rows.columns = pd.Index([f"{name}.{count}" if count else name for name, count in zip(names, repeats, strict=True)])
    return rows.apply(lambda column: column.str.strip())


def _named(clinical: pd.DataFrame, column: str) -> pd.Series:
    """Return the text of a column, absent values empty, known codes replaced by the names of the legend."""
    values = clinical[column].str.removesuffix(".0")
    values = values.mask(values.isin(_ABSENT))
    return values.replace(_NAMES.get(column, {})).replace("", None)


def _studies(root: Path) -> dict[str, list[str]]:
    """Map patients to the folders of their studies, relative to ``root``."""
    studies: dict[str, list[str]] = {}
    for pattern in ("Breast_MRI_*", "*/Breast_MRI_*", "*/*/Breast_MRI_*"):
        for patient in root.glob(pattern):
            if patient.is_dir() and patient.name not in studies:
                folders = sorted(path for path in patient.iterdir() if path.is_dir())
                studies[patient.name] = [path.relative_to(root).as_posix() for path in folders]
    return studies


DUKE_BREAST_MRI = DataSet(
    name="duke-breast-mri",
    image="breast MRI, folders of DICOM series",
    classes="a column of the clinical sheet, such as --label ER or --label 'Mol Subtype'",
    source=SOURCE,
    terms="CC BY-NC 4.0, TCIA data usage policy",
    read=_read,
    train="--model seqnorm_vit3d_tiny --modality mr --series RULES.yaml",
    takes=("label",),
)
