import pytest

from softfree_runtime.core.errors import UserError


@pytest.fixture
def root(tmp_path, image, table):
    rows = [(f"id{number:03}", number % 5) for number in range(30)]
    table(tmp_path / "train.csv", "id_code,diagnosis", rows)
    for name, _ in rows:
        image(tmp_path / "train_images" / f"{name}.png")
    return tmp_path


def test_grades_and_a_stratified_split(root, prepared):
    done, read = prepared("aptos2019", root)
    assert read.task.classes == ("0", "1", "2", "3", "4")
    assert sum(done.rows.values()) == 30
    assert min(done.rows.values()) >= 5  # one of each class at least
    assert read.frame.groupby("split")["label"].nunique().to_dict() == {"train": 5, "val": 5, "test": 5}
    assert read.frame.set_index("path").loc["train_images/id007.png", "label"] == "2"
    assert "has no patient ids" in done.notes[0]


def test_another_seed_is_another_split(root, prepared):
    first = prepared("aptos2019", root)[1].frame.set_index("path")["split"]
    again = prepared("aptos2019", root)[1].frame.set_index("path")["split"]
    other = prepared("aptos2019", root, seed=1)[1].frame.set_index("path")["split"]
    assert first.equals(again)
    assert not first.equals(other)


def test_missing_official_file(tmp_path, prepared):
    with pytest.raises(UserError, match=r"no train.csv; it comes with the official download \(https://www.kaggle"):
        prepared("aptos2019", tmp_path)


def test_a_table_of_something_else(tmp_path, table, prepared):
    table(tmp_path / "train.csv", "image,grade", [("a", 1)])
    with pytest.raises(UserError, match="no column 'id_code'"):
        prepared("aptos2019", tmp_path)


@pytest.mark.parametrize("grade", ["2.5", "5", "moderate"])
def test_a_grade_that_is_none(root, prepared, grade):
    path = root / "train.csv"
    path.write_text(path.read_text().replace("id007,2", f"id007,{grade}"))
    with pytest.raises(UserError, match=f"1 of 30 grades are not whole numbers from 0 to 4 .first: '{grade}'"):
        prepared("aptos2019", root)


def test_grades_are_whole_numbers_and_may_be_missing(root, prepared):
    path = root / "train.csv"
    path.write_text(path.read_text().replace("id007,2", "id007,2.0").replace("id008,3", "id008,"))
    done, _ = prepared("aptos2019", root)
    lines = done.table.read_text().splitlines()
    assert any(line.startswith("train_images/id007.png,2,") for line in lines)
    assert "train_images/id008.png,,extra" in lines
