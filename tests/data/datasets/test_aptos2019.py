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
