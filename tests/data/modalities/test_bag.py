"""Bags of tiles, and cases of several slides."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from softfree.data.modalities.bag import BagPreprocessing
from softfree.data.modalities.feature_files import write_features
from softfree.data.modalities.registry import preprocessing_from_config, preprocessing_to_config
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.preprocessing.case import PARTIAL
from softfree_runtime.sources.sample_source import Case, CaseFile, SourceFile

RNG = np.random.default_rng(0)


def write(path: Path, tiles: int, width: int = 6, encoder: str = "a") -> tuple[np.ndarray, np.ndarray]:
    features, coords = RNG.normal(size=(tiles, width)).astype(np.float32), RNG.random((tiles, 2)) * 20
    write_features(path, features, coords, {"encoder": encoder})
    return features, coords


def write_clam(path: Path, tiles: int = 4) -> None:
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = (
            RNG.normal(size=(tiles, 6)).astype(np.float32),
            RNG.integers(0, 99, (tiles, 2)),
        )


def case(folder: Path, *names: str) -> Case:
    return Case(tuple(CaseFile(str(folder / name)) for name in names))


def test_features_then_places(tmp_path: Path) -> None:
    features, coords = write(tmp_path / "a.h5", 7)
    got = BagPreprocessing(6).load(str(tmp_path / "a.h5"))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, np.concatenate([features, coords, np.zeros((7, 1))], axis=1).astype(np.float32))


def test_several_slides_are_one_bag(tmp_path: Path) -> None:
    one, _ = write(tmp_path / "a.h5", 3)
    two, _ = write(tmp_path / "b.h5", 5)
    got = BagPreprocessing(6).load(case(tmp_path, "a.h5", "b.h5"))
    np.testing.assert_array_equal(got[:, :6], np.concatenate([one, two]))
    np.testing.assert_array_equal(got[:, -1], [0, 0, 0, 1, 1, 1, 1, 1])


def test_tiles_have_the_view_and_the_time_of_their_slide(tmp_path: Path) -> None:
    for name, tiles in (("a.h5", 2), ("b.h5", 3), ("c.h5", 1)):
        write(tmp_path / name, tiles)
    a, b, c = (str(tmp_path / f"{name}.h5") for name in "abc")
    training = [Case((CaseFile(a, view="biopsy", time=3), CaseFile(b, view="resection", time=7)))]
    preprocessing = BagPreprocessing.create(training, view_dropout=0.5)
    assert (preprocessing.views, preprocessing.time_scale) == (["biopsy", "resection"], 4)
    assert preprocessing.view_dropout == 0.5
    assert preprocessing.model_arguments() == {"in_features": 6, "views": 2, "timed": True}
    got = preprocessing.load(
        Case((CaseFile(a, view="other", time=1), CaseFile(b, view="resection", time=9), CaseFile(c)))
    )
    assert got.shape == (6, preprocessing.row_width) == (6, 11)
    np.testing.assert_array_equal(got[:, 6], [0, 0, 2, 2, 2, 0])
    np.testing.assert_array_equal(got[:, 7], [-2, -2, 0, 0, 0, np.nan])
    np.testing.assert_array_equal(got[:, -1], [0, 0, 1, 1, 1, 2])
    np.testing.assert_array_equal(preprocessing.load(a)[:, 6:8], [[0, np.nan]] * 2)
    plain = BagPreprocessing.create([case(tmp_path, "a.h5", "b.h5")])
    assert plain.model_arguments() == {"in_features": 6}
    np.testing.assert_array_equal(plain.load(training[0]), got[[0, 1, 2, 3, 4]][:, [*range(6), 8, 9, 10]])


def test_unreadable_slides_of_a_case_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "b.h5", 3)
    bag, error = BagPreprocessing(6).load_readable(case(tmp_path, "none.h5", "b.h5"))
    assert (len(bag), bag[:, -1].max()) == (3, 0)
    assert error is not None
    assert error.status == PARTIAL
    assert str(error).startswith(f"{tmp_path}/none.h5: 1 of 2 files of the case cannot be read: ")
    with pytest.raises(ReadError, match="2 of 2 files of the case cannot be read"):
        BagPreprocessing(6).load(case(tmp_path, "none.h5", "no.h5"))
    with pytest.raises(ReadError, match="got frame 2; a bag of tiles has no frames"):
        BagPreprocessing(6).load(Case((CaseFile(f"{tmp_path}/b.h5", frame=2),)))


def test_a_file_name_is_no_list_of_files(tmp_path: Path) -> None:
    path = tmp_path / "a.h5;b#mpp=0.5.h5"
    features, _ = write(path, 3)
    for source in (str(path), SourceFile(str(path), 0.25)):
        np.testing.assert_array_equal(BagPreprocessing(6).load(source)[:, :6], features)
    assert BagPreprocessing.create([str(path)]).in_features == 6
    write(tmp_path / "c.h5", 2)
    both = BagPreprocessing(6).load(case(tmp_path, path.name, "c.h5"))
    np.testing.assert_array_equal(both[:, -1], [0, 0, 0, 1, 1])


def test_positions_of_other_tools_need_the_resolution(tmp_path: Path) -> None:
    path = str(tmp_path / "clam.h5")
    write_clam(tmp_path / "clam.h5")
    with pytest.raises(ReadError, match=r"CLAM does not store them.*column mpp") as caught:
        BagPreprocessing(6).load(path)
    assert caught.value.status == "no_resolution"
    with h5py.File(path) as file:
        np.testing.assert_allclose(
            BagPreprocessing(6).load(SourceFile(path, 0.25))[:, 6:8], file["coords"][()] * 0.25e-3, rtol=1e-6
        )
    without = BagPreprocessing(6, positions=False)
    assert (without.load(path)[:, 6:] == 0).all()
    assert "without positions" in without.in_words()[0]


def test_a_file_without_positions_is_not_fixed_by_a_resolution(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = RNG.normal(size=(4, 6)).astype(np.float32)
    with pytest.raises(ReadError, match="no coordinates of its tiles") as caught:
        BagPreprocessing(6).load(SourceFile(str(tmp_path / "a.h5"), 0.25))
    assert caught.value.status == "unsupported"


def test_another_encoder(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", 3, encoder="uni")
    write(tmp_path / "wide.h5", 3, width=9, encoder="uni")
    with pytest.raises(ReadError, match="9 features per tile, expected 6") as caught:
        BagPreprocessing(6).load(str(tmp_path / "wide.h5"))
    assert caught.value.status == "unsupported"
    with pytest.raises(ReadError, match="encoder uni, expected conch"):
        BagPreprocessing(6, "conch").load(str(tmp_path / "a.h5"))
    write_clam(tmp_path / "clam.h5")  # says nothing of its encoder
    BagPreprocessing(6, "conch", positions=False).load(str(tmp_path / "clam.h5"))


def test_made_from_the_first_file_that_can_be_read(tmp_path: Path) -> None:
    write(tmp_path / "b.h5", 3, width=9, encoder="uni")
    assert BagPreprocessing.create([case(tmp_path, "none.h5", "b.h5")]) == BagPreprocessing(9, "uni")
    assert BagPreprocessing.create([SourceFile(f"{tmp_path}/b.h5", 0.5)]).in_features == 9
    with pytest.raises(UserError, match=r"no feature file .*none\.h5: no such file"):
        BagPreprocessing.create([str(tmp_path / "none.h5")])


def test_the_contract() -> None:
    preprocessing = BagPreprocessing(12, "uni", tile_dropout=0.25)
    assert preprocessing_from_config(preprocessing_to_config(preprocessing)) == preprocessing
    assert preprocessing.model_arguments() == {"in_features": 12}
    assert preprocessing.sample_bytes() is None


def test_augmentation_moves_each_slide_as_a_whole() -> None:
    bag = torch.randn(40, 9)
    bag[:, -1] = torch.arange(40) // 20
    change = BagPreprocessing(6).augmentation()
    got = change(bag, 3)
    torch.testing.assert_close(got, change(bag, 3), rtol=0, atol=0)
    torch.testing.assert_close(got[:, :6], bag[:, :6], rtol=0, atol=0)
    for number in (0, 1):
        own = bag[:, -1] == number
        before, after = bag[own, 6:8], got[own, 6:8]
        torch.testing.assert_close(torch.cdist(after, after), torch.cdist(before, before), rtol=1e-3, atol=1e-3)
        assert (after - before).abs().max() > 0.1
    areas = []  # signed: flips change the sign
    for seed in range(20):
        (a, b, c), (x, y, z) = bag[:3, 6:8], change(bag, seed)[:3, 6:8]
        areas.append(torch.det(torch.stack([y - x, z - x])) / torch.det(torch.stack([b - a, c - a])))
    signs = torch.stack(areas).round()
    assert set(signs.tolist()) == {-1.0, 1.0}


def test_dropout_of_tiles_is_off_unless_asked_for() -> None:
    bag = torch.randn(1000, 9)
    assert len(BagPreprocessing(6).augmentation()(bag, 0)) == 1000
    assert 650 < len(BagPreprocessing(6, tile_dropout=0.3).augmentation()(bag, 0)) < 750
    assert len(BagPreprocessing(6, tile_dropout=0.999999).augmentation()(bag[:3], 0)) == 1


def test_training_leaves_out_slides_and_hides_views() -> None:
    bag = torch.randn(40, 11)
    bag[:, -1] = torch.arange(40) // 10
    bag[:, 6] = 1 + torch.arange(40) // 10
    augmentation = BagPreprocessing(6, views=["a", "b", "c", "d"], view_dropout=0.2).augmentation()
    drawn = [augmentation(bag, seed) for seed in range(200)]
    assert torch.equal(drawn[5], augmentation(bag, 5))
    for one in drawn:
        slides = one[:, -1].unique()
        torch.testing.assert_close(slides, torch.arange(len(slides)).float())
        assert len(one) == 10 * len(slides) > 0
        assert all(one[one[:, -1] == slide, 6].unique().numel() == 1 for slide in slides)
    assert 0.82 < np.mean([len(one) for one in drawn]) / 40 < 0.88  # 20 % but for the slide that is always kept
    assert 0.05 < (torch.cat(drawn)[:, 6] == 0).float().mean() < 0.15
    assert "20 % of the slides of a case left out, 10 % of the views hidden" in augmentation.in_words()


def test_views_of_prediction_leave_nothing_out() -> None:
    bag = torch.randn(40, 11)
    bag[:, -1], bag[:, 6] = torch.arange(40) // 10, torch.arange(40) // 10 + 1
    bags = BagPreprocessing(6, views=["a", "b", "c", "d"], view_dropout=0.9, tile_dropout=0.9)
    change = bags.augmentation_of_views()
    for seed in range(30):
        augmented = change(bag, seed)
        torch.testing.assert_close(augmented[:, :8], bag[:, :8])  # all but the positions
    assert not torch.equal(augmented, bag)
