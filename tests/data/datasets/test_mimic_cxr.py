import numpy as np
import pytest

from softfree.data.datasets.chexpert import FINDINGS


@pytest.fixture
def root(tmp_path, table):
    splits, labels, metadata = [], [], []
    for number in range(12):
        subject, study, image = 10000000 + number, 50000000 + number, f"{number:08x}-0000"
        splits.append((image, study, subject, "train" if number < 8 else "validate" if number < 10 else "test"))
        values = dict.fromkeys(FINDINGS) | {"Edema": float(number % 2), "Pneumonia": -1.0 if number == 1 else 0.0}
        if number != 7:  # some studies have no report to take labels from
            labels.append((subject, study, *values.values()))
        metadata.append((image, subject, study, "AP" if number % 2 else "PA", 2500, 3000))
    table(tmp_path / "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,study_id,subject_id,split", splits)
    table(tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz", f"subject_id,study_id,{','.join(FINDINGS)}", labels)
    table(
        tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz", "dicom_id,subject_id,study_id,ViewPosition,Rows,Columns", metadata
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
    assert (str(one["patient_id"]), one["view"], one["Edema"]) == ("10000003", "AP", "1")


def test_uncertain_makes_a_finding_usable(root, image, prepared):
    for number in range(12):
        image(root / f"files/p10/p{10000000 + number}/s{50000000 + number}/{number:08x}-0000.jpg")
    done, read = prepared("mimic-cxr", root, uncertain="positive")
    assert done.findings == ("Edema", "Pneumonia")
    assert np.nansum(read.targets[:, 1]) == 1
