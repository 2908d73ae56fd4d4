import numpy as np
from PIL import Image

from softfree.explain.overlay import draw_overlay


def test_red_speaks_for_and_blue_against(tmp_path):
    relevance = np.array([[1.0, 0.0], [0.0, -1.0]])
    draw_overlay(tmp_path / "map.png", np.full((64, 64), 0.5), relevance, title="title")
    pixels = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).astype(int)
    right = pixels[:, pixels.shape[1] // 2 : int(pixels.shape[1] * 0.85)]
    upper, lower = np.array_split(right, 2)
    assert (upper[..., 0] - upper[..., 2]).max() > 60
    assert (lower[..., 2] - lower[..., 0]).max() > 60


def test_a_map_of_zeros_is_drawn(tmp_path):
    draw_overlay(tmp_path / "map.png", np.zeros((20, 30, 3)), np.zeros((2, 3)), title="", caption="words")
    assert (tmp_path / "map.png").stat().st_size > 1000
