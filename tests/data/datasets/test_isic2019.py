import pytest

from softfree_runtime.core.errors import UserError

CLASSES = "MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


def write_part(root, part, labels, image, table, lesions=True):
    names = [f"ISIC_{part}_{number:07}" for number in range(len(labels))]
    marks = [[float(label == name) for name in CLASSES.split(",")] for label in labels]
    truth = [(name, *mark) for name, mark in zip(names, marks, strict=True)]
    table(root / f"ISIC_2019_{part}_GroundTruth.csv", f"image,{CLASSES}", truth)
    # The official file has its own order of rows.
    metadata = [(name, 50.0, "anterior torso", f"BCN_{number // 2}", "female") for number, name in enumerate(names)][
        ::-1
    ]
    columns = "image,age_approx,anatom_site_general,lesion_id,sex"
    metadata[0] = (metadata[0][0], None, None, None, None)
    if not lesions:
        columns, metadata = "image,age_approx,anatom_site_general,sex", [(*row[:3], row[4]) for row in metadata]
    table(root / f"ISIC_2019_{part}_Metadata.csv", columns, metadata)
    for name in names:
        image(root / f"ISIC_2019_{part}_Input" / f"{name}.jpg")


def test_lesions_stay_together(tmp_path, image, table, prepared):
    write_part(tmp_path, "Training", ["MEL", "MEL", "NV", "NV"] * 8, image, table)
    done, read = prepared("isic2019", tmp_path)
    assert read.task.classes == ("MEL", "NV")
    assert (read.frame.dropna(subset="patient_id").groupby("patient_id")["split"].nunique() == 1).all()
    first = read.frame.set_index("path").loc["ISIC_2019_Training_Input/ISIC_Training_0000002.jpg"]
    assert (first["label"], first["patient_id"], first["sex"], first["age"]) == ("NV", "BCN_1", "female", 50.0)
    assert first["site"] == "anterior torso"
    assert read.frame["patient_id"].isna().sum() == 1
    assert set(done.rows) == {"train", "val", "test"}


def test_official_test_set_and_its_unknown_class(tmp_path, image, table, prepared):
    write_part(tmp_path, "Training", ["MEL", "MEL", "NV", "NV"] * 5, image, table)
    write_part(tmp_path, "Test", ["MEL", "NV", "UNK"], image, table, lesions=False)
    done, read = prepared("isic2019", tmp_path)
    assert done.rows["extra"] == 1
    assert done.rows["test"] == 2
    assert read.task.classes == ("MEL", "NV")
    assert set(read.frame.loc[read.frame["path"].str.contains("_Test_"), "split"]) == {"test"}


def test_two_classes_in_a_row(tmp_path, image, table, prepared):
    write_part(tmp_path, "Training", ["MEL", "NV"], image, table)
    path = tmp_path / "ISIC_2019_Training_GroundTruth.csv"
    path.write_text(path.read_text().replace("0.0", "1.0", 1))
    with pytest.raises(UserError, match="has 2 classes"):
        prepared("isic2019", tmp_path)
