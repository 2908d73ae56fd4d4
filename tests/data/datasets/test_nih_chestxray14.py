import pytest

from softfree_runtime.core.errors import UserError

COLUMNS = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"


@pytest.fixture
def root(tmp_path, image, table):
    told = ["No Finding", "Effusion|Mass", "Mass", "Pleural_Thickening"]
    rows = [
        (
            f"{patient:08}_{scan:03}.png",
            told[(patient + scan) % 4],
            scan,
            patient,
            f"{40 + patient:03}Y",
            "MF"[patient % 2],
            "PA",
        )
        for patient in range(1, 13)
        for scan in range(2)
    ]
    table(tmp_path / "Data_Entry_2017.csv", COLUMNS, rows)
    for row in rows:
        folder = f"images_{1 + row[3] % 3:03}/images"
        image(tmp_path / folder / row[0])
    names = [row[0] for row in rows]
    (tmp_path / "train_val_list.txt").write_text("\n".join(names[:18]))
    (tmp_path / "test_list.txt").write_text("\n".join(names[18:23]) + "\n")
    return tmp_path


def test_official_lists_and_drawn_validation(root, prepared):
    done, read = prepared("nih-chestxray14", root)
    assert done.rows["test"] == 5
    assert done.rows["train"] + done.rows["val"] == 18
    assert done.left_out == (("00000012_001.png", "in no official list"),)
    assert "1 of 24 rows left out: 00000012_001.png" in done.warning()
    assert done.findings == ("Effusion", "Mass", "Pleural_Thickening")
    frame = read.frame.set_index("path")
    one = frame.loc["images_002/images/00000001_000.png"]
    assert (one["Effusion"], one["Mass"], one["Hernia"], one["sex"], one["age"]) == ("1", "1", 0, "F", 41)
    assert frame["follow_up"].tolist()[:4] == [0, 1, 0, 1]
    assert (frame.groupby("patient_id")["split"].nunique() == 1).all()
    assert "never both 0 and 1" in done.notes[-1]


def test_a_patient_in_two_official_splits(root, prepared):
    lists = root / "test_list.txt"
    lists.write_text(lists.read_text() + "00000012_001.png\n00000001_000.png\n")
    with pytest.raises(UserError, match="1 patient is in more than one official split"):
        prepared("nih-chestxray14", root)


def test_an_unknown_finding(root, prepared):
    path = root / "Data_Entry_2017.csv"
    path.write_text(path.read_text().replace("Effusion", "Effusions"))
    with pytest.raises(UserError, match="'Effusions' is not one"):
        prepared("nih-chestxray14", root)
