import numpy as np
import pandas as pd
import pytest

from softfree.data.datasets.chexpert import FINDINGS
from softfree_runtime.core.errors import UserError


@pytest.fixture
def root(tmp_path, table):
    splits, labels, metadata = [], [], []
    for number in range(12):
        subject, study, image = 10000000 + number, 50000000 + number, f"{number:08x}-0000"
        splits.append((image, study, subject, "train" if number < 8 else "validate" if number < 10 else "test"))
        values = dict.fromkeys(FINDINGS) | {"Edema": float(number % 2), "Pneumonia": -1.0 if number == 1 else 0.0}
        if number != 7:  # some studies have no report to take labels from
            labels.append((subject, study, *values.values()))
        metadata.append((image, subject, study, "AP" if number % 2 else "PA", 2500, 3000, 21800506 + number))
    table(tmp_path / "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,study_id,subject_id,split", splits)
    table(tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz", f"subject_id,study_id,{','.join(FINDINGS)}", labels)
    table(
        tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz",
        "dicom_id,subject_id,study_id,ViewPosition,Rows,Columns,StudyDate",
        metadata,
    )
    return tmp_path


@pytest.mark.parametrize("ending", ["jpg", "dcm"])
def test_official_split(root, image, prepared, ending):
    for number in range(12):
        image(root / f"files/p10/p{10000000 + number}/s{50000000 + number}/{number:08x}-0000.{ending}")
    done, read = prepared("mimic-cxr", root)
    assert done.rows == {"train": 8, "val": 2, "test": 2}
    assert done.findings == ("Edema",)
    assert read.left_out == {"no label": 1}
    one = read.frame.set_index("path").loc[f"files/p10/p10000003/s50000003/00000003-0000.{ending}"]
    assert (str(one["patient_id"]), one["view"], one["projection"], one["Edema"]) == ("10000003", "frontal", "AP", "1")
    assert (str(one["case_id"]), one["time"]) == ("50000003", 0)


def test_uncertain_makes_a_finding_usable(root, image, prepared):
    for number in range(12):
        image(root / f"files/p10/p{10000000 + number}/s{50000000 + number}/{number:08x}-0000.jpg")
    done, read = prepared("mimic-cxr", root, uncertain="positive")
    assert done.findings == ("Edema", "Pneumonia")
    assert np.nansum(read.targets[:, 1]) == 1


@pytest.fixture
def visits(root, image, table):
    """Two studies of one patient on two days, with four images of the second."""
    studies = [
        (1, 50000000, "PA", 21800506),
        *((number, 50009999, view, 21810601) for number, view in enumerate(["PA", "LATERAL", "LL", "AP AXIAL"], 2)),
    ]
    splits = [(f"v{number}", study, 10000000, "train") for number, study, *_ in studies]
    labels = [(10000000, 50009999, *(dict.fromkeys(FINDINGS) | {"Edema": 1.0}).values())]
    metadata = [(f"v{number}", 10000000, study, view, 8, 8, date) for number, study, view, date in studies]
    for part, rows in (("split", splits), ("chexpert", labels), ("metadata", metadata)):
        path = root / f"mimic-cxr-2.0.0-{part}.csv.gz"
        old = pd.read_csv(path, dtype=str)
        new = pd.DataFrame(rows, columns=old.columns)
        pd.concat([old, new]).to_csv(path, index=False)
    for number in range(12):
        image(root / f"files/p10/p{10000000 + number}/s{50000000 + number}/{number:08x}-0000.jpg")
    for number, study, *_ in studies:
        image(root / f"files/p10/p10000000/s{study}/v{number}.jpg")
    return root


def test_images_of_a_study_are_a_case(visits, prepared):
    done, read = prepared("mimic-cxr", visits)
    case = read.frame[read.frame["case_id"].astype(str) == "50009999"]
    assert case["view"].fillna("").tolist() == ["frontal", "lateral", "lateral-2", ""]
    assert case["projection"].tolist() == ["PA", "LATERAL", "LL", "AP AXIAL"]
    assert case["time"].tolist() == [391] * 4  # 6 May 2180 to 1 June 2181
    assert done.cases == 13
    first = read.frame[read.frame["case_id"].astype(str) == "50000000"]
    assert first["view"].tolist() == ["frontal", "frontal-2"]
    assert first["time"].tolist() == [0, 0]


def test_a_study_in_two_official_splits(visits, prepared):
    path = visits / "mimic-cxr-2.0.0-split.csv.gz"
    rows = pd.read_csv(path, dtype=str)
    rows.loc[rows["dicom_id"] == "v3", "split"] = "test"
    rows.to_csv(path, index=False)
    with pytest.raises(UserError, match=r"1 case has several values of split \(first: that of files/p10/p10000000/s5"):
        prepared("mimic-cxr", visits)


def test_another_header(visits, prepared):
    path = visits / "mimic-cxr-2.0.0-metadata.csv.gz"
    pd.read_csv(path, dtype=str).rename(columns={"StudyDate": "studydate"}).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"no column 'StudyDate' \(did you mean 'studydate'"):
        prepared("mimic-cxr", visits)
