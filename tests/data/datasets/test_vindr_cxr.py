import numpy as np
import pydicom

FINDINGS = ["Cardiomegaly", "Pleural effusion", "No finding"]


def test_consensus_of_radiologists(tmp_path, image, table, prepared):
    votes = []
    for number in range(20):
        sick = number % 2
        # Two of three see the heart; the third sees an effusion as well.
        votes += [
            (f"a{number}", f"R{reader}", int(sick and reader < 3), int(sick and reader == 3), 1 - sick, 0)
            for reader in (1, 2, 3)
        ]
    votes += [("b", "R1", 1, 1, 0, 0), ("b", "R2", 0, 1, 0, 0)]
    columns = f"image_id,rad_id,{','.join(FINDINGS)},Other diseases"
    table(tmp_path / "annotations" / "image_labels_train.csv", columns, votes)
    test = [("t0", 1, 1, 0, 0), ("t1", 0, 0, 1, 0)]
    table(tmp_path / "annotations" / "image_labels_test.csv", f"image_id,{','.join(FINDINGS)},Other disease", test)
    for name in {vote[0] for vote in votes}:
        image(tmp_path / "train" / f"{name}.dicom")
    for name in ("t0", "t1"):
        image(tmp_path / "test" / f"{name}.dicom")
    header = pydicom.dcmread(tmp_path / "train" / "a0.dicom")
    header.PatientSex, header.PatientAge = "F", "061Y"
    header.save_as(tmp_path / "train" / "a0.dicom")
    (tmp_path / "train" / "a2.dicom").write_bytes(b"broken")  # softfree check says so; the row stays
    done, read = prepared("vindr-cxr", tmp_path)
    assert done.findings == tuple(FINDINGS)
    assert "Other diseases" in done.notes[-1]  # always 0
    rows = read.frame.assign(target=list(read.targets)).set_index("path")
    assert rows.loc["train/a1.dicom", "target"].tolist() == [1, 0, 0]
    assert rows.loc["train/a0.dicom", "target"].tolist() == [0, 0, 1]
    assert np.isnan(rows.loc["train/b.dicom", "target"][0])  # one against one
    assert rows.loc["train/b.dicom", "target"][1] == 1
    assert set(rows.index[rows["split"] == "test"]) == {"test/t0.dicom", "test/t1.dicom"}
    assert 2 <= done.rows["val"] < done.rows["train"]
    assert rows.loc["train/a0.dicom", ["sex", "age"]].tolist() == ["F", 61]
    assert rows.loc[["train/a1.dicom", "train/a2.dicom"], ["sex", "age"]].isna().all(axis=None)
