import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from softfree_lab.needles import CLASSES, KINDS, NeedleRows, NeedleSlide
from softfree_runtime.core.errors import UserError

COLORINGS = [(one, other) for one in KINDS for other in KINDS]


def test_equal_seeds_give_equal_slides():
    one, again, other = NeedleSlide(5, 512), NeedleSlide(5, 512), NeedleSlide(6, 512)
    assert one.marks == again.marks
    assert one.marks != other.marks
    pixels = one.read(0, 0, 512, 512)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (512, 512, 3)
    np.testing.assert_array_equal(pixels, again.read(0, 0, 512, 512))
    assert (pixels != other.read(0, 0, 512, 512)).mean() > 0.3


@pytest.mark.parametrize("side", [300, 1000, 1024])
def test_a_crop_is_what_a_larger_read_has_there(side):
    slide = NeedleSlide(11, side)
    whole = slide.read(0, 0, side, side)
    rng = np.random.default_rng(side)
    positions = [(mark.y - 7, mark.x - 5) for mark in slide.marks] + list(rng.integers(0, side - 1, (40, 2)))
    for top, left in positions:
        height, width = (int(rng.integers(1, side - start + 1)) for start in (top, left))
        part = slide.read(int(top), int(left), height, width)
        np.testing.assert_array_equal(part, whole[top : top + height, left : left + width])


def test_a_slide_of_a_million_pixels_a_side_is_read_in_places():
    slide = NeedleSlide(2, 1_000_000)
    for mark in slide.marks:
        colors = slide.read(mark.y - 4, mark.x - 4, 8, 8).reshape(-1, 3).mean(0)
        assert (colors[2] > colors[0]) == (mark.kind == "blue")
    here = slide.read(500_000, 499_900, 64, 300)
    np.testing.assert_array_equal(slide.read(500_010, 499_950, 20, 200), here[10:30, 50:250])


@pytest.mark.parametrize("side", [256, 1024, 100_000])
def test_the_marks_lie_on_the_tissue_and_in_no_common_window(side):
    for seed in range(40):
        one, other = NeedleSlide(seed, side).marks
        assert max(abs(one.y - other.y), abs(one.x - other.x)) * 2 >= side
        for mark in (one, other):
            assert 16 <= mark.y <= side - 16
            assert 16 <= mark.x <= side - 16
    slide = NeedleSlide(0, side)
    beside = slide.read(slide.marks[0].y - 16, slide.marks[0].x - 16, 32, 32)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert beside[:, 1].mean() < 235  # stained, where the glass is 244


def test_the_marks_are_all_that_is_there_of_their_colors():
    slide = NeedleSlide(4, 1024)
    pixels = slide.read(0, 0, 1024, 1024).astype(int)
    brown, blue = pixels[..., 2] < 60, pixels[..., 0] < 60
    spots, number = ndimage.label(ndimage.binary_opening(brown | blue, iterations=2))
    assert number == 2
    result = sorted(ndimage.center_of_mass(spots > 0, spots, [1, 2]))
    expected = sorted((mark.y - 0.5, mark.x - 0.5) for mark in slide.marks)
    np.testing.assert_allclose(result, expected, atol=0.6)
    assert (spots > 0).sum() == pytest.approx(2 * np.pi * 16**2, rel=0.03)


def test_labels_are_balanced_and_say_whether_the_kinds_are_the_same():
    slides = [NeedleSlide(seed, 256) for seed in range(600)]
    kinds = [tuple(mark.kind for mark in slide.marks) for slide in slides]
    assert all(
        CLASSES[slide.label] == ("same" if one == other else "mixed")
        for slide, (one, other) in zip(slides, kinds, strict=True)
    )
    for coloring in COLORINGS:
        assert 110 < kinds.count(coloring) < 190  # 150 expected, deviation 10.6


def test_only_the_marks_change_with_their_kinds():
    plain = NeedleSlide(9, 512)
    there = [NeedleSlide(9, 512, kinds=kinds) for kinds in COLORINGS]
    pixels = [slide.read(0, 0, 512, 512) for slide in there]
    own = COLORINGS.index(tuple(mark.kind for mark in plain.marks))
    np.testing.assert_array_equal(pixels[own], plain.read(0, 0, 512, 512))
    changed = (pixels[0] != pixels[3]).any(-1)
    assert changed.sum() == pytest.approx(2 * np.pi * 16**2, rel=0.03)
    assert {(mark.y, mark.x) for slide in there for mark in slide.marks} == {(mark.y, mark.x) for mark in plain.marks}


def test_tiles_scored_alone_and_added_up_cannot_tell():
    """Any function of a tile and of its position: sums over a mixed pair of slides equal those over the equal pair."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((16, 3 * 32 * 32))
    for seed in range(5):
        scores = []
        for kinds in COLORINGS:
            pixels = NeedleSlide(seed, 256, kinds=kinds).read(0, 0, 256, 256) / 255
            tiles = pixels.reshape(8, 32, 8, 32, 3).transpose(0, 2, 1, 3, 4).reshape(64, -1)
            scores.append((np.tanh(tiles @ weights.T).sum(1) * np.sin(np.arange(64) + 1)).sum())
        assert len(set(np.round(scores, 6))) == 4
        assert scores[0] + scores[3] == pytest.approx(scores[1] + scores[2], abs=1e-9)


def test_a_regression_on_summed_marks_is_at_chance_and_one_on_their_product_is_not():
    slides = [NeedleSlide(seed, 256) for seed in range(800)]
    labels = np.array([slide.label for slide in slides])
    counts = np.array([[sum(mark.kind == kind for mark in slide.marks) for kind in KINDS] for slide in slides])
    texture = np.random.default_rng(1).standard_normal((800, 3))  # what else a sum may hold
    seen = np.hstack([counts, texture])
    half = slice(0, 400), slice(400, None)

    def fitted(features: np.ndarray) -> tuple[float, float]:
        model = LogisticRegression().fit(features[half[0]], labels[half[0]])
        p = model.predict_proba(features[half[1]])[:, 1]
        return roc_auc_score(labels[half[1]], p), log_loss(labels[half[1]], p)

    area, loss = fitted(seen)
    assert 0.4 < area < 0.6
    assert loss > 0.99 * np.log(2)
    area, loss = fitted(np.hstack([seen, counts.prod(1, keepdims=True)]))
    assert area > 0.99


def test_rows_are_the_pixels_prepared():
    slide = NeedleSlide(1, 300)
    rows = NeedleRows(slide, lambda pixels: pixels.float() / 255)
    assert rows.shape == (3, 300, 300)
    expected = torch.from_numpy(slide.read(40, 0, 30, 300).copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(rows.read(40, 70), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NeedleSlide(0, 255),
        lambda: NeedleSlide(0, 512, mark=0),
        lambda: NeedleSlide(0, 512, kinds=("brown", "green")),
        lambda: NeedleSlide(0, 512).read(-1, 0, 4, 4),
        lambda: NeedleSlide(0, 512).read(0, 0, 0, 4),
        lambda: NeedleSlide(0, 512).read(0, 500, 4, 13),
    ],
)
def test_what_cannot_be_is_refused(make):
    with pytest.raises(UserError, match="expected"):
        make()
