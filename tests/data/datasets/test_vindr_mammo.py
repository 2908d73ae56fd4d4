import pydicom
import pytest

from softfree_runtime.core.errors import UserError

COLUMNS = (
    "study_id,series_id,image_id,laterality,view_position,height,width,breast_birads,breast_density,split"  # official
)
EXAMS = 24


def exam(number):
    """Four rows of an exam; the left breast has the higher assessment, the right one the higher density."""
    grades = {"L": 1 + number % 3, "R": 1}
    density = {"L": "B", "R": "C"}
    split = "test" if number % 4 == 3 else "training"
    return [
        (f"s{number:02}", "x", f"{side}{view}{number}", side, view, 8, 8, f"BI-RADS {grades[side]}",
         f"DENSITY {density[side]}", split)
        for side in "LR"
        for view in ("CC", "MLO")
    ]  # fmt: skip


@pytest.fixture
def rows():
    return [row for number in range(EXAMS) for row in exam(number)]


@pytest.fixture
def root(tmp_path, rows, image, table):
    table(tmp_path / "breast-level_annotations.csv", COLUMNS, rows)
    for row in rows:
        image(tmp_path / f"images/{row[0]}/{row[2]}.dicom")
    path = tmp_path / "images/s00/LCC0.dicom"
    header = pydicom.dcmread(path)
    header.PatientAge, header.ManufacturerModelName = "053Y", "Planmed Nuance"
    header.save_as(path)
    return tmp_path


def test_a_case_is_a_breast(root, prepared):
    done, read = prepared("vindr-mammo", root)
    assert done.rows["test"] == EXAMS
    assert (len(read.frame), done.cases, done.patients) == (4 * EXAMS, 2 * EXAMS, EXAMS)
    assert read.task.classes == ("1", "2", "3")
    case = read.frame[read.frame["case_id"] == "s01-L"]
    assert case["view"].tolist() == ["L-CC", "L-MLO"]
    assert case["label"].tolist() == ["2", "2"]
    assert case["density"].tolist() == [2, 2]
    assert read.frame.loc[read.frame["case_id"] == "s01-R", "label"].tolist() == ["1", "1"]
    one = read.frame.set_index("path").loc["images/s00/LCC0.dicom"]
    assert (one["age"], one["device"], one["patient_id"]) == (53, "Planmed Nuance", "s00")
    assert read.frame["age"].notna().sum() == 1
    assert set(read.frame.loc[read.frame["patient_id"] == "s03", "split"]) == {"test"}


def test_an_exam_has_the_higher_values_of_its_breasts(root, prepared):
    done, read = prepared("vindr-mammo", root, case="exam")
    assert done.cases == EXAMS
    case = read.frame[read.frame["case_id"] == "s02"]
    assert case["view"].tolist() == ["L-CC", "L-MLO", "R-CC", "R-MLO"]
    assert case["label"].tolist() == ["3"] * 4
    assert case["density"].tolist() == [3] * 4


def test_images(root, prepared):
    done, read = prepared("vindr-mammo", root, case="image")
    assert done.cases is None
    assert "case_id" not in read.frame
    assert read.frame["view"].tolist()[:4] == ["L-CC", "L-MLO", "R-CC", "R-MLO"]


def test_views_of_a_breast_that_disagree(root, rows, table, prepared):
    rows[0] = (*rows[0][:7], "BI-RADS 5", *rows[0][8:])
    table(root / "breast-level_annotations.csv", COLUMNS, rows)
    done, read = prepared("vindr-mammo", root)
    assert {path for path, _ in done.left_out} == {"images/s00/LCC0.dicom", "images/s00/LMLO0.dicom"}
    assert "s00-L" not in set(read.frame["case_id"])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("breast_birads", "BI-RADS 4A"),
        ("breast_density", "C"),
        ("split", "validation"),
        ("view_position", "ML"),
        ("split", None),
    ],
)
def test_a_value_that_is_not_official(root, rows, table, prepared, column, value):
    place = COLUMNS.split(",").index(column)
    rows[5] = (*rows[5][:place], value, *rows[5][place + 1 :])
    table(root / "breast-level_annotations.csv", COLUMNS, rows)
    message = rf"1 of 96 cells of '{column}' are not as expected \(first: '{value or ''}'\)"
    with pytest.raises(UserError, match=message):
        prepared("vindr-mammo", root)
    assert not (root / "softfree.csv").exists()


def test_an_unknown_density_is_empty(root, rows, table, prepared):
    rows[:2] = [(*row[:8], None, *row[9:]) for row in rows[:2]]
    table(root / "breast-level_annotations.csv", COLUMNS, rows)
    _, read = prepared("vindr-mammo", root)
    assert read.frame["density"].isna().sum() == 2


def test_an_exam_in_both_splits(root, rows, table, prepared):
    rows[2:4] = [(*row[:9], "test") for row in rows[2:4]]
    table(root / "breast-level_annotations.csv", COLUMNS, rows)
    with pytest.raises(UserError, match="1 patient is in more than one official split"):
        prepared("vindr-mammo", root)
    with pytest.raises(UserError, match="1 case has several values of split"):
        prepared("vindr-mammo", root, case="exam")


def test_missing_files(root, rows, table, prepared):
    (root / "images/s00/LCC0.dicom").unlink()
    done, read = prepared("vindr-mammo", root)
    assert done.left_out == (("images/s00/LCC0.dicom", "no such file"),)
    assert read.frame.loc[read.frame["case_id"] == "s00-L", "view"].tolist() == ["L-MLO"]
    table(root / "breast-level_annotations.csv", COLUMNS.replace("breast_birads", "birads"), rows)
    with pytest.raises(UserError, match="no column 'breast_birads'"):
        prepared("vindr-mammo", root)
    (root / "breast-level_annotations.csv").unlink()
    with pytest.raises(UserError, match=r"no breast-level_annotations.csv; it comes with the official download"):
        prepared("vindr-mammo", root)
