import pandas as pd
import pytest

from softfree_runtime.core.errors import UserError

PATIENTS = [f"Breast_MRI_{number:03}" for number in range(1, 17)]


def sheet():
    headings = [
        ["Patient Information", "MRI Technical Information", "Tumor Characteristics", None, "Demographics", None],
        ["Patient ID", "Manufacturer", "ER", "Mol Subtype", "Date of Birth (Days)", "Menopause (at diagnosis)"],
        [
            None,
            "GE = 0",
            "{0 = neg, 1 = pos}",
            "{0 = luminal-like, ...}",
            "(day 0 is diagnosis)",
            "{0 = pre, 1 = post}",
        ],
    ]
    return headings + [[name, 0, number % 2, 3 * (number % 2), -18262.5, 2] for number, name in enumerate(PATIENTS)]


@pytest.fixture
def root(tmp_path, image):
    pd.DataFrame(sheet()).to_excel(tmp_path / "Clinical_and_Other_Features.xlsx", header=False, index=False)
    for name in PATIENTS:
        study = tmp_path / "Duke-Breast-Cancer-MRI" / name / "01-01-1990-NA-MRI BREAST BILATERAL WWO-97538"
        for series in ("1.000000-ax dyn pre-1", "2.000000-ax dyn 1st pass-2"):
            image(study / series / "1-01.dcm")
    return tmp_path


RECURRENCE = [
    "Recurrence event(s)",
    "Days to local recurrence (from the date of diagnosis) ",
    "Days to distant recurrence(from the date of diagnosis) ",
    "Days to last local recurrence free assessment (from the date of diagnosis) ",
    "Days to last distant recurrence free assemssment(from the date of diagnosis) ",
    "Nottingham grade",
]


def test_recurrence_and_grade(root, prepared):
    rows = sheet()
    # With an event: the earlier recurrence. Without one: until then free of both kinds.
    added = {3: [1, 400, 300, 200, 250, 3], 4: [0, "NP", "NP", 900, 800, 1], 5: [0, "NP", "NP", 900, "NP", "NA"]}
    for number, row in enumerate(rows):
        row += RECURRENCE if number == 1 else [None] * 6 if number < 3 else added.get(number, [1, "NP", "NP", 5, 6, 2])
    pd.DataFrame(rows).to_excel(root / "Clinical_and_Other_Features.xlsx", header=False, index=False)
    done, read = prepared("duke-breast-mri", root, label="ER")
    found = read.frame.set_index("patient_id")[["time_to_event", "event", "nottingham_grade"]].loc[PATIENTS[:4]]
    assert found.fillna(-1).to_numpy().tolist() == [[300, 1, 3], [800, 0, 1], [-1, -1, -1], [-1, -1, 2]]
    assert "14 of 16 patients have no usable time: time_to_event and event are empty" in done.notes
    assert done.cases is None


@pytest.mark.parametrize("ending", ["xlsx", "csv"])
def test_one_row_a_patient_names_the_study(root, prepared, ending):
    if ending == "csv":
        (root / "Clinical_and_Other_Features.xlsx").unlink()
        pd.DataFrame(sheet()).to_csv(root / "Clinical_and_Other_Features.csv", header=False, index=False)
    done, read = prepared("duke-breast-mri", root, label="Mol Subtype")
    assert read.task.classes == ("luminal-like", "triple negative")
    assert len(read.frame) == done.patients == 16
    one = read.frame.set_index("patient_id").loc["Breast_MRI_002"]
    assert one["path"].endswith("Breast_MRI_002/01-01-1990-NA-MRI BREAST BILATERAL WWO-97538")
    assert (one["label"], one["age"]) == ("triple negative", 50.0)
    assert pd.isna(one["menopause"])


def test_the_label_has_to_be_named(root, prepared):
    with pytest.raises(UserError, match=r"name the column to predict with --label COLUMN; .* ER, Mol Subtype"):
        prepared("duke-breast-mri", root)
    with pytest.raises(UserError, match=r"no column 'er' .did you mean 'ER'"):
        prepared("duke-breast-mri", root, label="er")


def test_several_studies(root, prepared, image):
    image(root / "Duke-Breast-Cancer-MRI" / PATIENTS[0] / "another study" / "series" / "1-01.dcm")
    done, _ = prepared("duke-breast-mri", root, label="ER")
    assert done.left_out == ((PATIENTS[0], "several studies"),)


def test_no_workbook(root, prepared):
    (root / "Clinical_and_Other_Features.xlsx").write_bytes(b"PK\x03\x04 half of it")
    with pytest.raises(UserError, match="not an Excel workbook"):
        prepared("duke-breast-mri", root, label="ER")
