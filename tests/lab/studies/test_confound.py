import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from softfree.core.options import TrainOptions
from softfree.data.table import read_table
from softfree.training.loop import train
from softfree_lab.studies.confound import SizeStudy, _read_images, study_sizes
from softfree_lab.studies.options import SizeStudyOptions
from softfree_runtime.core.errors import UserError

pytestmark = pytest.mark.usefixtures("without_figures")

QUICK = {
    "model_options": {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 8},
    "size": 32,
    "epochs": 6,
    "batch_size": 4,
    "lr": 3e-3,
    "progress": False,
    "accelerator": "cpu",
    "augment": False,
}


@pytest.fixture
def sizes_only(tmp_path: Path) -> Path:
    """Images of pure noise; those of class "wide" are twice as wide."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(48):
        label = ("tall", "wide")[number % 2]
        shape = (48 + number % 5, 96 + number % 7) if label == "wide" else (96 + number % 5, 48 + number % 7)
        Image.fromarray(rng.integers(60, 200, shape, dtype=np.uint8)).save(tmp_path / f"{number}.png")
        rows.append((f"{number}.png", label, ("train", "train", "val", "test")[number // 2 % 4]))
    pd.DataFrame(rows, columns=["path", "label", "split"]).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def test_a_model_that_has_learned_the_shape_is_found_out(sizes_only, tmp_path):
    run = train(TrainOptions(table=sizes_only, out=tmp_path / "run", resize_mode="pad", **QUICK)).run
    result = study_sizes(SizeStudyOptions(progress=False), run.folder)
    assert result.auroc > 0.95, "padding shows the shape"
    assert result.auroc_equal < 0.85, "equal squares do not"
    assert result.rows.set_index("feature").loc["width", "AUROC alone"] == 1.0
    assert result.n == 12


def test_each_row_is_read_at_its_own_frame(tmp_path):
    frames = [np.full((20 + 4 * number, 30), 50 * number, np.uint8) for number in range(3)]
    tifffile.imwrite(tmp_path / "pages.tif", frames[0])
    for page in frames[1:]:
        tifffile.imwrite(tmp_path / "pages.tif", page, append=True)
    (tmp_path / "t.csv").write_text("path,frame,label,split\npages.tif,2,a,test\npages.tif,0,b,test\n")
    images = _read_images(read_table(tmp_path / "t.csv"))
    assert [image.pixels.shape[0] for image in images] == [28, 20]
    assert [int(image.pixels.max()) for image in images] == [100, 0]
    (tmp_path / "pages.tif").write_bytes(b"no image")
    with pytest.raises(UserError, match="2 of 2 test images cannot be read"):
        _read_images(read_table(tmp_path / "t.csv"))


def test_more_classes_are_refused(sizes_only, tmp_path):
    table = pd.read_csv(sizes_only)
    table["label"] = [f"class {n % 3}" for n in range(len(table))]
    table.to_csv(sizes_only, index=False)
    run = train(TrainOptions(table=sizes_only, out=tmp_path / "run", **(QUICK | {"epochs": 1}))).run
    with pytest.raises(UserError, match="needs a binary task"):
        study_sizes(SizeStudyOptions(progress=False), run.folder)


def test_the_study_as_markdown() -> None:
    rows = pd.DataFrame({"feature": ["width", "height"], "AUROC alone": [0.987, 0.5], "rho": [-0.25, math.nan]})
    text = SizeStudy(rows, auroc=0.9123, auroc_equal=0.6, side=48, n=12).to_markdown()
    assert "12 test images" in text
    assert next(line for line in text.splitlines() if "width" in line).count("0.99") == 1
    assert "0.912 on the original images" in text
    assert "0.600 on center squares of 48 x 48 pixels" in text
