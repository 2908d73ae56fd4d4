import numpy as np
import pytest

from softfree.data.datasets.chexpert import FINDINGS

COLUMNS = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(FINDINGS)}"


def row(part, patient, edema, effusion, prefix="CheXpert-v1.0-small"):
    values = dict.fromkeys(FINDINGS) | {"Edema": edema, "Pleural Effusion": effusion}
    path = f"{prefix}/{part}/patient{patient:05}/study1/view1_frontal.jpg"
    return (path, "Female", 60 + patient, "Frontal", "AP", *values.values())


@pytest.fixture
def rows():
    train = [row("train", number, number % 2, [-1, 0, 1][number % 3]) for number in range(1, 21)]
    second = (train[0][0].replace("view1_frontal", "view2_lateral"), "Unknown", 61, "Lateral", None, *train[0][5:])
    return {"train": [*train, second], "valid": [row("valid", 64541, 1, 0), row("valid", 64542, 0, 1)]}


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
