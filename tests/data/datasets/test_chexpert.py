import numpy as np
import pytest

from softfree.data.datasets.chexpert import FINDINGS
from softfree_runtime.core.errors import UserError

COLUMNS = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(FINDINGS)}"


def row(part, patient, edema, effusion, prefix="CheXpert-v1.0-small"):
    values = dict.fromkeys(FINDINGS) | {"Edema": edema, "Pleural Effusion": effusion}
    path = f"{prefix}/{part}/patient{patient:05}/study1/view1_frontal.jpg"
    return (path, "Female", 60 + patient, "Frontal", "AP", *values.values())


@pytest.fixture
def rows():
    train = [row("train", number, number % 2, [-1, 0, 1][number % 3]) for number in range(1, 21)]
    second = (train[0][0].replace("view1_frontal", "view2_lateral"), "Unknown", 61, "Lateral", None, *train[0][5:])
    third = (train[0][0].replace("view1_frontal", "view3_frontal"), *train[0][1:])
    return {"train": [*train, second, third], "valid": [row("valid", 64541, 1, 0), row("valid", 64542, 0, 1)]}


@pytest.fixture
def root(tmp_path, rows, image, table):
    for part, listed in rows.items():
        table(tmp_path / f"{part}.csv", COLUMNS, listed)
        for one in listed:
            image(tmp_path / one[0].split("/", 1)[1])
    return tmp_path


def test_patients_splits_and_subgroups(root, prepared):
    done, read = prepared("chexpert", root)
    assert done.findings == ("Edema", "Pleural Effusion")
    assert done.patients == 22
    assert done.rows["test"] == 2
    frame = read.frame.set_index("path")
    one = frame.loc["train/patient00001/study1/view1_frontal.jpg"]
    assert (one["patient_id"], one["sex"], one["age"], one["view"]) == ("patient00001", "Female", 61, "frontal")
    assert one["split"] == frame.loc["train/patient00001/study1/view2_lateral.jpg", "split"]
    assert set(frame.index[frame["split"] == "test"]) == {
        f"valid/patient{number}/study1/view1_frontal.jpg" for number in (64541, 64542)
    }


@pytest.mark.parametrize(("uncertain", "value"), [("empty", None), ("positive", 1), ("negative", 0)])
def test_uncertain(root, prepared, uncertain, value):
    read = prepared("chexpert", root, uncertain=uncertain)[1]
    number = read.frame["path"].tolist().index("train/patient00003/study1/view1_frontal.jpg")
    target = read.targets[number, 1]
    assert np.isnan(target) if value is None else target == value


def test_unmentioned(root, prepared):
    done, read = prepared("chexpert", root, unmentioned="negative")
    assert not np.isnan(read.targets[:, 0]).any()
    assert "Fracture" in done.notes[-1]  # now always 0


def test_images_of_a_study_are_a_case(root, prepared):
    done, read = prepared("chexpert", root)
    case = read.frame[read.frame["case_id"] == "patient00001/study1"]
    assert case["view"].tolist() == ["frontal", "lateral", "frontal-2"]
    assert case["projection"].tolist()[::2] == ["AP", "AP"]
    assert done.cases == read.frame["case_id"].nunique() == 22
    assert read.frame["age"].dtype == np.int64


def test_each_image_is_a_sample_if_wanted(root, prepared):
    done, read = prepared("chexpert", root, case="image")
    assert done.cases is None
    assert "case_id" not in read.frame
    assert set(read.frame["view"]) == {"frontal", "lateral"}


def test_a_study_whose_findings_disagree(root, rows, table, prepared):
    listed = rows["train"]
    changed = list(listed[-1])
    changed[5 + FINDINGS.index("Fracture")] = 1
    table(root / "train.csv", COLUMNS, [*listed[:-1], tuple(changed)])
    done, _ = prepared("chexpert", root)
    assert [reason for _, reason in done.left_out] == ["the labels of its case disagree"] * 3
    assert {path.split("/")[1] for path, _ in done.left_out} == {"patient00001"}


def test_a_missing_view_leaves_the_others(root, prepared):
    (root / "train/patient00001/study1/view2_lateral.jpg").unlink()
    done, read = prepared("chexpert", root)
    assert read.frame.loc[read.frame["case_id"] == "patient00001/study1", "view"].tolist() == ["frontal", "frontal-2"]
    assert done.left_out == (("train/patient00001/study1/view2_lateral.jpg", "no such file"),)


def test_ages_that_are_not_numbers_are_empty_and_named(root, rows, table, prepared):
    listed = rows["train"]
    table(root / "train.csv", COLUMNS, [(*listed[0][:2], "90+", *listed[0][3:]), *listed[1:]])
    done, read = prepared("chexpert", root)
    assert "column 'Age': 1 of 24 cells are not numbers and left empty (first: '90+')" in done.notes
    assert read.frame["age"].isna().sum() == 1


def test_a_patient_in_train_and_valid(root, rows, image, table, prepared):
    valid = [*rows["valid"], row("valid", 1, 1, 0)]
    table(root / "valid.csv", COLUMNS, valid)
    with pytest.raises(UserError, match="1 case has several values of split"):
        prepared("chexpert", root)
    with pytest.raises(UserError, match="1 patient is in more than one official split"):
        prepared("chexpert", root, case="image")


def test_folders_of_the_batches(tmp_path, rows, image, table, prepared):
    first = tmp_path / "CheXpert-v1.0 batch 1 (validate & csv)"
    homes = {
        "train": [tmp_path / f"CheXpert-v1.0 batch {n} (train {n - 1})" for n in (2, 3)],
        "valid": [first / "valid"] * 2,
    }
    for part, listed in rows.items():
        table(first / f"{part}.csv", COLUMNS, listed)
        for one in listed:
            path = one[0].split("/", 2)[2]
            image(homes[part][int(path[7:12]) % 2] / path)
    done, read = prepared("chexpert", tmp_path)
    assert not done.left_out
    assert "CheXpert-v1.0 batch 3 (train 2)/patient00001/study1/view1_frontal.jpg" in set(read.frame["path"])
