"""Maps made by hand, over findings whose position is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.table_file import read_table_file
from softfree.demo.phantoms import write_phantoms
from softfree.saliency.geometry import TokenGrid
from softfree.saliency.samples.image import image_token_grid
from softfree_lab.studies.localization import localization_area, on_finding, pointing_game, visible_tokens
from softfree_runtime.readers import read_image

TOKEN_GRID = TokenGrid((0.0, 0.0), (10.0, 10.0), ((0.0, 80.0), (0.0, 120.0)), (80, 120))
GRID = (8, 12)


def test_a_finding_covers_the_tokens_around_it() -> None:
    finding = on_finding(TOKEN_GRID, GRID, x=95, y=25, radius=0)  # the center of a token, and no larger
    assert np.argwhere(finding).tolist() == [[2, 9]]
    finding = on_finding(TOKEN_GRID, GRID, x=95, y=25, radius=5)
    assert np.argwhere(finding).tolist() == [[1, 9], [2, 8], [2, 9], [2, 10], [3, 9]]
    assert on_finding(TOKEN_GRID, GRID, x=60, y=40, radius=100).all()


def test_pointing_game() -> None:
    finding = on_finding(TOKEN_GRID, GRID, x=95, y=25, radius=5)
    values = np.zeros(GRID)
    assert pointing_game(values, finding) == pytest.approx(5 / 96)  # a map that says nothing wins by chance
    values[2, 9] = 1
    assert pointing_game(values, finding) == 1
    values[9 - 2, 2] = 2
    assert pointing_game(values, finding) == 0
    values[2, 10] = 2
    assert pointing_game(values, finding) == 0.5


def test_area_under_the_localization_curve() -> None:
    finding = on_finding(TOKEN_GRID, GRID, x=95, y=25, radius=20)
    down, across = np.mgrid[:8, :12]
    near = -np.hypot(down - 2, across - 9)
    assert localization_area(near, finding) == 1
    assert localization_area(-near, finding) == 0
    assert localization_area(np.zeros(GRID), finding) == 0.5
    assert localization_area(near.T.reshape(GRID), finding) < 0.8  # rows taken for columns
    assert np.isnan(localization_area(near, np.ones(GRID, dtype=bool)))
    assert np.isnan(localization_area(near, np.zeros(GRID, dtype=bool)))


def test_what_lies_over_padding_does_not_count() -> None:
    steps = ImagePreprocessing.create("radiograph", 64, "pad")
    token_grid = image_token_grid(steps, read_image_of((20, 40)), 8)
    seen = visible_tokens(token_grid, (8, 8))
    assert seen.sum(axis=1).tolist() == [0, 0, 8, 8, 8, 8, 0, 0]
    finding = on_finding(token_grid, (8, 8), x=20, y=10, radius=4)
    values = np.where(finding, 1.0, 0.0)
    values[0, 0] = 5  # in the padding
    assert pointing_game(values, finding) == 0
    assert pointing_game(values, finding, seen) == 1
    assert localization_area(values, finding, seen) == 1


def read_image_of(shape: tuple[int, int]):
    from softfree_runtime.readers.image import DecodedImage

    return DecodedImage(np.zeros(shape, np.float32), 0.0, 1.0, None, (), "")


def test_the_cluster_of_a_phantom_is_where_its_table_says(tmp_path) -> None:
    """Sharp specks are what a second difference sees: its map, averaged over tokens, must point at the cluster."""
    table = write_phantoms(tmp_path, n_train=0, n_val=0, n_test=12, size=512, seed=3)
    rows = read_table_file(table, {"path", "label"}).frame
    steps = ImagePreprocessing.create("radiograph", 512, "pad")
    areas, hits = [], []
    for row in rows[rows["label"] == "calcified"].to_dict("records"):
        image = read_image(tmp_path / row["path"])
        pixels = torch.from_numpy(steps(image))[0]
        edges = pixels[1:-1, 1:-1] * 4 - pixels[:-2, 1:-1] - pixels[2:, 1:-1] - pixels[1:-1, :-2] - pixels[1:-1, 2:]
        map_ = torch.nn.functional.pad(edges**2, (1, 1, 1, 1)).reshape(32, 16, 32, 16).mean((1, 3)).numpy()
        finding = on_finding(image_token_grid(steps, image, 16), (32, 32), float(row["x"]), float(row["y"]), 44)
        areas.append(localization_area(map_, finding))
        hits.append(pointing_game(map_, finding))
    assert len(areas) == 6
    assert np.mean(areas) > 0.85
    assert np.mean(hits) > 0.8
