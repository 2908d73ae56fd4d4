from pathlib import Path

import pytest

from softfree.data.table import read_table
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.folder_names import split_named


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    return folder


def test_classes_are_folders(tmp_path: Path) -> None:
    names = [f"{label}/{number}.png" for label in ("dog", "cat") for number in range(10)]
    table = read_table(fill(tmp_path / "pets", *names, "cat/deeper/x.jpg", ".git/y", "dog/.hidden"))
    assert table.task.classes == ("cat", "dog")
    assert len(table.frame) == 21
    assert table.frame["file"].iloc[0] == str(tmp_path / "pets" / "cat" / "0.png")
    assert set(table.frame["split"]) == {"train", "val", "test"}


def test_splits_are_the_folders_above(tmp_path: Path) -> None:
    names = [f"{split}/{label}/{n}.png" for split in ("train", "Validation") for label in ("a", "b") for n in range(3)]
    table = read_table(fill(tmp_path / "set", *names))
    assert table.task.classes == ("a", "b")
    assert table.frame["split"].value_counts().to_dict() == {"train": 6, "val": 6}
    assert table.split_made is None


def test_another_image_is_another_table(tmp_path: Path) -> None:
    folder = fill(tmp_path / "pets", *[f"{label}/{n}.png" for label in ("a", "b") for n in range(5)])
    before = read_table(folder).digest
    assert read_table(folder).digest == before
    fill(folder, "a/new.png")
    assert read_table(folder).digest != before


@pytest.mark.parametrize("names", [[], ["loose.png"], ["train/loose.png"]], ids=str)
def test_a_folder_without_classes(tmp_path: Path, names: list[str]) -> None:
    folder = fill(tmp_path / "set", *names)
    folder.mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"expected .*/CLASS/image"):
        read_table(folder)


def test_a_split_is_known_among_other_words() -> None:
    names = ("train_pictures", "images_val2", "test-set", "photos")
    assert [split_named(name) for name in names] == ["train", "val", "test", None]
