from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from softfree.conversion.calibration import labeled_table, read_batches
from softfree.conversion.options import ConvertOptions
from softfree.data.modalities.image import ImagePreprocessing
from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError

PREPROCESSING = ImagePreprocessing.create("radiograph", 16, "stretch")
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten images whose left half is the brighter the later they come."""
    (tmp_path / "images").mkdir()
    for number in range(10):
        image = Image.new("L", (20, 20), 0)
        image.paste(20 * number + 30, (0, 0, 2 * (number + 1), 20))
        image.save(tmp_path / "images" / f"{number}.png")
    return tmp_path / "images"


def options(*images: Path, **changes) -> ConvertOptions:
    return ConvertOptions(images=[str(p) for p in images], out=Path("o.safetensors"), progress=False, **changes)


def read(given: ConvertOptions, table=None):
    batches, failed = read_batches(given, PREPROCESSING, table, CPU)
    return batches, failed


def test_images_are_taken_evenly_and_in_batches(folder):
    batches, failed = read(options(folder, count=4, batch_size=3))
    assert [tuple(batch.shape) for batch in batches] == [(3, 1, 16, 16), (1, 1, 16, 16)]
    assert failed == {}
    singles = [read(options(folder / f"{number}.png"))[0][0] for number in (0, 3, 6, 9)]
    torch.testing.assert_close(torch.cat(batches), torch.cat(singles))


def test_fewer_than_wanted_are_all_used_once(folder):
    assert sum(len(batch) for batch in read(options(folder, count=64))[0]) == 10


def test_of_a_table_only_training_rows_are_used(folder):
    splits = ["train", "test", "val", "train", "extra", *["test"] * 5]
    names = [f"{number}.png" for number in range(10)]
    pd.DataFrame({"path": names, "split": splits}).to_csv(folder / "table.csv", index=False)
    (batch,) = read(options(folder / "table.csv"))[0]
    wanted = [read(options(folder / name))[0][0] for name in ("0.png", "3.png")]
    torch.testing.assert_close(batch, torch.cat(wanted))


def test_of_a_table_without_splits_all_rows_are_used(folder):
    pd.DataFrame({"path": ["0.png", "1.png"]}).to_csv(folder / "table.csv", index=False)
    assert len(read(options(folder / "table.csv"))[0][0]) == 2


def test_unreadable_images_are_told_and_left_out(folder):
    (folder / "5.png").write_bytes(b"nothing")
    batches, failed = read(options(folder))
    assert sum(len(batch) for batch in batches) == 9
    assert list(failed) == [str(folder / "5.png")]
    (folder / "alone").mkdir()
    (folder / "alone" / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="none of the 1 images can be read"):
        read(options(folder / "alone"))


def test_the_split_made_for_a_run_is_kept(softmax_run):
    run = Run.load(softmax_run)
    table = labeled_table(run, [run.config["options"]["table"]])
    assert len(table.where("test").frame) == 8
    batches, _ = read(options(Path(run.config["options"]["table"])), table)
    assert sum(len(batch) for batch in batches) == len(table.where("train").frame) == 16


def test_images_without_labels_are_no_labeled_table(softmax_run, folder):
    with pytest.raises(UserError, match="have no labels"):
        labeled_table(Run.load(softmax_run), [str(folder)])
