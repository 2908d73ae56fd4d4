import numpy as np
from PIL import Image

from softfree.saliency.overlay import Layer, draw_overlay


def test_red_speaks_for_and_blue_against(tmp_path):
    relevance = np.array([[1.0, 0.0], [0.0, -1.0]])
    draw_overlay(tmp_path / "map.png", np.full((64, 64), 0.5), [Layer(relevance)], title="title")
    pixels = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).astype(int)
    right = pixels[:, pixels.shape[1] // 2 : int(pixels.shape[1] * 0.85)]
    upper, lower = np.array_split(right, 2)
    assert (upper[..., 0] - upper[..., 2]).max() > 60
    assert (lower[..., 2] - lower[..., 0]).max() > 60


def test_a_map_of_zeros_is_drawn(tmp_path):
    draw_overlay(tmp_path / "map.png", np.zeros((20, 30, 3)), [Layer(np.zeros((2, 3)))], title="", caption="words")
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_each_map_has_its_panel_and_names_are_no_formulas(tmp_path):
    layers = [Layer(np.ones((2, 2)), "first $x_"), Layer(np.ones((2, 2)), "second", signed=False)]
    title = "predicted $ill_$, p($ill_$) = 0.98, " * 5
    draw_overlay(tmp_path / "two.png", np.full((64, 64), 0.5), layers, title=title, caption="a $b_")
    draw_overlay(tmp_path / "one.png", np.full((64, 64), 0.5), layers[:1], title="a")
    two, one = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("two.png", "one.png"))
    red = (two[..., 0] - two[..., 2] > 20).sum(axis=0) > 300
    assert two.shape[1] > one.shape[1] + 400
    assert two.shape[0] > one.shape[0], "the title takes more than a line"
    assert red.sum() >= 2 * 448
