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
