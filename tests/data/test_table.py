import time

import numpy as np
import pandas as pd
import pytest

from softfree.data.table import patients_across_splits, read_table
from softfree_runtime.core.errors import UserError


@pytest.fixture
def write(tmp_path):
    def make(content, name="table.csv"):
        path = tmp_path / name
        if isinstance(content, pd.DataFrame):
            content.to_csv(path, index=False)
        else:
            path.write_text(content)
        return path

    return make


def mistake(path, **options):
    with pytest.raises(UserError) as error:
        read_table(path, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


def grown(rows=60, **columns):
    numbers = np.arange(rows)
    base = {"path": [f"{n}.png" for n in numbers], "label": np.where(numbers % 3, "no", "yes")}
    return pd.DataFrame(base | columns)


def test_the_real_radiographs(shared_data):
    folder = shared_data / "chest_xray"
    table = read_table(folder / "manifest.csv")
    assert (table.task.kind, table.task.classes) == ("binary", ("NORMAL", "PNEUMONIA"))
    assert len(table.frame) == len(table.targets) == 240
    assert table.targets.sum() == 120
    assert table.frame["patient"].nunique() == 204
    assert table.frame["row"].tolist() == list(range(240))
    assert table.split_made is None
    assert table.folder == folder
    assert all(name.startswith(str(folder)) for name in table.frame["file"])
    assert {name: len(table.where(name).frame) for name in ("train", "val", "test")} == {
        "train": 140,
        "val": 48,
        "test": 52,
    }
    three = read_table(folder / "manifest.csv", label="subtype")
    assert three.task.classes == ("bacteria", "normal", "virus")


def test_where_keeps_targets_with_their_rows(write):
    path = write("path,label,split\na,x,train\nb,y,val\nc,y,train\nd,x,test\n")
    part = read_table(path).where("train")
    assert part.frame["path"].tolist() == ["a", "c"]
    assert part.frame.index.tolist() == [0, 1]
    assert part.frame["row"].tolist() == [0, 2]
    assert part.targets.tolist() == [0, 1]
    assert len(read_table(path).where("extra").frame) == 0


def test_rows_of_no_task_are_counted(write):
    path = write("path,label,split\na,x,train\nb,y,train\nc,z,extra\nd,,train\ne,,extra\nf,,\n")
    table = read_table(path)
    assert table.frame["path"].tolist() == ["a", "b"]
    assert table.task.classes == ("x", "y")
    assert table.left_out == {"split is extra": 2, "no label": 2}


def test_patients_are_numbers_and_rows_without_id_stand_alone(write):
    path = write("path,label,patient_id,split\na,x,p7,train\nb,y,,train\nc,x,,val\nd,y,p7,train\ne,y, p9 ,val\n")
    numbers = read_table(path).frame["patient"]
    assert numbers.dtype == np.int64
    assert numbers[0] == numbers[3]
    assert numbers.nunique() == 4
    without = read_table(write("path,label,split\na,x,train\nb,y,train\n")).frame["patient"]
    assert without.tolist() == [0, 1]


def test_labels_are_read_from_several_columns(write):
    path = write("path,split,p,q\na,train,1,0\nb,train,0,\nc,val,,\nd,test,0,1\n")
    table = read_table(path, labels=["p", "q"])
    np.testing.assert_array_equal(table.targets, [[1, 0], [0, np.nan], [0, 1]])
    assert table.left_out == {"no label": 1}
    assert "positive" in mistake(path, labels=["p", "q"], positive="p")


def test_a_split_is_made_by_patient(write):
    patients = [f"p{n // 2}" for n in range(60)]
    table = read_table(write(grown(patient_id=patients, label=["no", "no", "yes", "yes"] * 15)))
    assert table.frame.groupby("patient")["split"].nunique().max() == 1
    counts = table.frame["split"].value_counts()
    assert counts["train"] > counts["val"] >= 6
    assert counts["test"] >= 6
    assert table.split_made == "patients drawn into train 60 %, val 20 %, test 20 %, stratified by class, seed 0"
    again = read_table(write(grown(patient_id=patients, label=["no", "no", "yes", "yes"] * 15)), seed=1)
    assert (again.frame["split"] != table.frame["split"]).any()
    assert again.split_made.endswith("seed 1")


def test_a_made_split_follows_the_image_not_the_row(write):
    frame = grown(patient_id=[f"p{n}" if n % 4 else "" for n in range(60)])
    first = read_table(write(frame)).frame.set_index("path")["split"]
    second = read_table(write(frame.sample(frac=1, random_state=3))).frame.set_index("path")["split"]
    assert first.to_dict() == second.to_dict()


def test_without_patients_the_split_says_so(write):
    assert "images drawn" in read_table(write(grown())).split_made
    assert "a patient may be in two splits" in read_table(write(grown(patient_id=""))).split_made


def test_everything_can_be_a_test_set(write):
    table = read_table(write("path,label\na,x\nb,y\n"), classes=["x", "y"], val_fraction=0, test_fraction=1)
    assert table.frame["split"].tolist() == ["test", "test"]
    assert "too few" in mistake(write("path,label\na,x\nb,y\n"))


def test_an_empty_split_column_counts_as_none(write):
    assert read_table(write(grown(split=""))).split_made is not None


def test_paths_start_from_the_table_or_from_images(write, tmp_path):
    path = write("path,label,split\nsub/./a.png,x,train\nb//c.png,y,train\n")
    assert read_table(path).frame["file"].tolist() == [f"{tmp_path}/sub/a.png", f"{tmp_path}/b/c.png"]
    images = tmp_path / "else where"
    images.mkdir()
    table = read_table(path, image_root=images)
    assert table.frame["file"].tolist() == [f"{images}/sub/a.png", f"{images}/b/c.png"]
    assert table.folder == images
    inside = write(f"path,label,split\n{images}/a.png,x,train\nb.png,y,train\n", name="absolute.csv")
    assert read_table(inside, image_root=images).frame["file"].tolist() == [f"{images}/a.png", f"{images}/b.png"]
    assert "no such folder" in mistake(path, image_root=tmp_path / "none")


@pytest.mark.parametrize("odd", ["../a.png", "/etc/passwd", "sub/../../a.png", "..", "."])
def test_paths_that_lead_out_are_refused(write, odd):
    message = mistake(write(f"path,label,split\nok.png,x,train\n{odd},y,train\n"))
    assert "line 3" in message
    assert "--image-root" in message


def test_a_sibling_folder_with_a_longer_name_is_outside(write, tmp_path):
    (tmp_path / "data").mkdir()
    path = write(f"path,label,split\n{tmp_path}/data2/a.png,x,train\nb.png,y,train\n")
    assert "line 2" in mistake(path, image_root=tmp_path / "data")


def test_frames_are_kept(write):
    table = read_table(write("path,label,split,frame\na,x,train,0\na,y,train,7\nb,x,val,\n"))
    assert table.frame["frame"].dtype == "Int64"
    assert table.frame["frame"].tolist()[:2] == [0, 7]
    assert pd.isna(table.frame["frame"][2])
    for odd in ("-1", "1.5", "axial"):
        message = mistake(write(f"path,label,split,frame\na,x,train,0\nb,y,train,{odd}\n"))
        assert f"frame '{odd}' in line 3" in message


def test_other_columns_stay(write):
    frame = read_table(write("path,label,split,age,site\na,x,train,31,north\nb,y,val,7,south\n")).frame
    assert frame["age"].tolist() == [31, 7]
    assert frame["site"].tolist() == ["north", "south"]


def test_parquet_is_read_like_csv(tmp_path):
    frame = grown(split="train", patient_id=[n // 2 for n in range(60)])
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    csv, parquet = read_table(tmp_path / "t.csv"), read_table(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(csv.frame.astype(str), parquet.frame.astype(str))
    np.testing.assert_array_equal(csv.targets, parquet.targets)


@pytest.mark.parametrize(
    ("content", "options", "parts"),
    [
        ("file,label\na,x\n", {}, ["no column 'path'", "file, label"]),
        ("Path,label\na,x\n", {}, ["did you mean 'Path'"]),
        ("path,Label\na,x\n", {}, ["no column 'label'", "did you mean 'Label'", "--label"]),
        ("path,a\nx,1\n", {"labels": ["a", "b"]}, ["no column 'b'", "--labels"]),
        ("path,label,split\na,x,train\nb,y,training\n", {}, ["'training'", "did you mean 'train'", "line 3"]),
        ("path,label,split\na,x,train\nb,y,valid\n", {}, ["did you mean 'val'"]),
        ("path,label,split\na,x,train\nb,y,\nc,y,test\n", {}, ["1 of 3 rows have no split", "line 3"]),
        ("path,label,split\na,x,extra\nb,,train\n", {}, ["no row belongs to the task", "1 without use (no label)"]),
        ("path,label,split\n,x,train\nb,y,train\n", {}, ["no path in line 2"]),
        ("path,label,split\na\\b,x,train\nb,y,train\n", {}, ["backslash", "line 2"]),
        ("path,label,patient\na,x,1\nb,y,2\n", {}, ["'patient' looks like patients", "rename it to patient_id"]),
        ("path,label,PatientID\na,x,1\nb,y,2\n", {}, ["'PatientID' looks like patients"]),
        ("path,label,row\na,x,1\nb,y,2\n", {}, ["'row'", "rename"]),
        ("path,label,split\na,x,train\nb,x,train\n", {}, ["only one class"]),
        ("path,label,split\na,x,train\nb,z,train\n", {"classes": ["x", "y"]}, ["'z' (line 3)"]),
    ],
)
def test_mistakes(write, content, options, parts):
    path = write(content)
    message = mistake(path, **options)
    assert str(path) in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ("a,x\nb,y\na,x", ["lines 2, 4", "the same label", "delete all but one"]),
        ("a,x\nb,y\n./a,x", ["lines 2, 4"]),
        ("a,x\nb,y\na,y", ["lines 2, 4", "different labels", "settle"]),
        ("a,x\nb,y\na,x\nb,y", ["lines 2, 4", "1 more such"]),
    ],
)
def test_duplicate_rows(write, rows, parts):
    message = mistake(write("path,label\n" + rows + "\n"))
    for part in parts:
        assert part in message


def test_the_same_frame_twice(write):
    assert "lines 2, 3 name the same image" in mistake(write("path,label,frame\na,x,\na,x,0\nb,y,1\n"))
    message = mistake(write("path,label,frame\na,x,1\na,x,2\na,y,1\nb,y,\n"))
    assert "lines 2, 4" in message


def test_a_patient_in_two_splits_is_refused_without_being_named(write):
    path = write("path,label,patient_id,split\na,x,Doe,train\nb,y,Roe,train\nc,x,Doe,test\nd,y,Poe,test\n")
    message = mistake(path)
    assert "1 patient is in more than one split (lines 2, 4)" in message
    assert "Doe" not in message
    table = read_table(path, strict_patients=False)
    assert patients_across_splits(table.frame)["path"].tolist() == ["a", "c"]


@pytest.mark.slow
def test_a_million_rows(tmp_path):
    rng = np.random.default_rng(0)
    numbers = np.arange(1_000_000)
    frame = pd.DataFrame(
        {"path": [f"images/{n}.png" for n in numbers], "label": rng.choice(list("abcde"), len(numbers))}
    )
    frame["patient_id"] = rng.integers(0, 400_000, len(numbers))
    frame["split"] = np.array(["train", "val", "test"])[frame["patient_id"] % 3]
    frame.to_parquet(tmp_path / "t.parquet")
    start = time.perf_counter()
    assert len(read_table(tmp_path / "t.parquet").frame) == 1_000_000
    assert time.perf_counter() - start < 30
