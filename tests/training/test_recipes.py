"""The recipes that the project ships: each trains on a folder laid out as its own data set is."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from softfree.cli.main import main
from softfree.inference.run import Run

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SMALL = [
    "--epochs", "1", "--batch-size", "4", "--size", "64", "--accelerator", "cpu", "--precision", "fp32",
    "--num-workers", "0", "--progress", "false", "--ema", "null",
]  # fmt: skip

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Two classes in train and val, as the official folders lie."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 6), ("val", 3)):
        for name, shade in (("n01440764", 60), ("n01443537", 180)):
            folder = tmp_path / "imagenet" / split / name
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = rng.normal(shade, 20, (70 + 5 * index, 90, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}_{index}.JPEG")
    return tmp_path / "imagenet"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(recipe: Path, imagenet: Path, tmp_path: Path) -> None:
    small = {"soft": "{depths: [1, 1, 1, 1], embed_dims: [16, 32, 32, 32], num_heads: [1, 2, 2, 2]}"}
    model = yaml.safe_load(recipe.read_text())["model"]
    options = small.get(model.split("_")[0], "{depth: 1, embed_dim: 32, num_heads: 2}")
    arguments = ["train", str(imagenet), "--config", str(recipe), *SMALL, "--model-options", options]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    run = Run.load(tmp_path / "run")
    assert run.task.classes == ("n01440764", "n01443537")
    assert "rand-m9" in run.config["augmentation"]
    assert run.config["preprocessing"]["resize_mode"] == "crop"
