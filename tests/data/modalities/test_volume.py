import shutil

import monai
import nibabel
import numpy as np
import pytest
import torch
import yaml
from scipy.ndimage import gaussian_filter, map_coordinates

from softfree.data.modalities.registry import preprocessing_from_config, preprocessing_to_config
from softfree.data.modalities.volume import VolumeAugmentation, VolumePreprocessing
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.preprocessing.volume import NumpyVolumePreprocessing
from softfree_runtime.readers.volume import Volume
from softfree_runtime.sources.volume_files import read_volume, volumes_in

STRAIGHT = np.eye(3)
OBLIQUE = nibabel.eulerangles.euler2mat(z=0.3, y=-0.2, x=0.15)
RULES = {"series": {"pre": "pre", "post": "post"}, "channels": ["pre", {"subtract": ["post", "pre"]}]}


def volume_of(voxels, spacing=(1.0, 1.0, 1.0), axes=STRAIGHT):
    voxels = voxels if voxels.ndim == 4 else voxels[None]
    affine = np.eye(4)
    affine[:3, :3] = axes[:, ::-1] * spacing
    affine[:3, 3] = (-20, 10, 35)
    return Volume(voxels, spacing, affine, float(voxels.min()), float(voxels.max()), (), "")


def random_volume(shape=(9, 12, 10), spacing=(1.0, 1.0, 1.0), seed=0, **given):
    return volume_of(np.random.default_rng(seed).normal(100, 30, shape).astype(np.float32), spacing, **given)


def in_millimeters(affine, shape):
    """Right, front, head of every voxel, (3, D, H, W)."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    return np.einsum("ij,jdhw->idhw", affine[:3, :3], index) + affine[:3, 3][:, None, None, None]


def field(positions):
    """A function of the position that linear interpolation keeps."""
    return (0.004 * positions[0] - 0.006 * positions[1] + 0.005 * positions[2]) * 1000


@pytest.mark.parametrize("preset", ["mr", "ct"])
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), (2.0, 0.7, 1.3)])
@pytest.mark.parametrize("shape", [(9, 12, 10), (4, 20, 15), (1, 40, 3)])
def test_every_volume_gets_the_asked_shape(preset, spacing, shape):
    prepared = VolumePreprocessing.create(preset, (8, 16, 12), spacing)(random_volume(shape, (3.0, 1.0, 1.0)))
    assert prepared.shape == (1, 8, 16, 12)
    assert prepared.dtype == np.float32
    assert prepared.flags.c_contiguous
    assert np.isfinite(prepared).all()


def test_mr_is_clipped_to_percentiles_and_standardized_channel_by_channel():
    voxels = np.random.default_rng(0).gamma(2, 50, (2, 9, 12, 10)).astype(np.float32)
    voxels[1] *= 7
    prepared = VolumePreprocessing.create("mr", (9, 12, 10), channels=2)(volume_of(voxels))
    for channel, given in zip(prepared, voxels.astype(np.float64), strict=True):
        clipped = np.clip(given, *np.percentile(given, (0.5, 99.5)))
        np.testing.assert_allclose(channel, (clipped - clipped.mean()) / clipped.std(), atol=1e-4)


def test_ct_is_a_window_of_hounsfield_units():
    voxels = np.array([-3000, -1000, -500, 0, 40, 1000, 3000], np.int16).reshape(1, 1, 7)
    prepared = VolumePreprocessing.create("ct", (1, 1, 7))(volume_of(voxels))
    np.testing.assert_allclose(prepared.ravel(), [-1, -1, -0.5, 0, 0.04, 1, 1], atol=1e-6)
    prepared = VolumePreprocessing.create("ct", (1, 1, 7), window=(-160, 240))(volume_of(voxels))
    np.testing.assert_allclose(prepared.ravel(), [-1, -1, -1, -0.2, 0, 1, 1], atol=1e-6)


@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), (1.0003, 1.0, 0.9997)])
def test_voxels_of_the_wanted_spacing_are_kept_as_they_are(spacing):
    given = volume_of(np.random.default_rng(0).uniform(-900, 900, (9, 12, 10)).astype(np.float32))
    prepared = VolumePreprocessing.create("ct", (6, 15, 10), spacing)(given)[0]
    kept = given.voxels[0, 1:7] / 1000
    np.testing.assert_allclose(prepared[:, 1:13], kept, atol=1e-6)
    assert (prepared[:, [0, 13, 14]] == -1).all()  # air


@pytest.mark.parametrize("name", ["hippocampus_014", "hippocampus_038", "hippocampus_026"])
def test_a_real_volume_of_1_mm_is_only_cropped_and_padded(shared_data, name):
    path = str(shared_data / "nifti" / "hippocampus" / f"{name}.nii.gz")
    prepared = VolumePreprocessing.create("mr", (64, 64, 64), (1, 1, 1)).load(path)[0]
    given = np.asarray(nibabel.load(path).dataobj, dtype=np.float64).transpose(2, 1, 0)
    clipped = np.clip(given, *np.percentile(given, (0.5, 99.5)))
    start = [(64 - side) // 2 for side in given.shape]
    where = tuple(slice(first, first + side) for first, side in zip(start, given.shape, strict=True))
    np.testing.assert_allclose(prepared[where], (clipped - clipped.mean()) / clipped.std(), atol=1e-4)
    prepared[where] = 0
    assert (prepared == 0).all()


def test_resampling_is_linear_interpolation():
    given = random_volume((9, 12, 10), (2.0, 1.0, 1.5))
    shape = (17, 23, 28)
    preprocessing = VolumePreprocessing.create("ct", shape, (1.0, 0.5, 0.5))
    to_source = np.linalg.inv(given.affine) @ preprocessing.affine(given).numpy()
    points = in_millimeters(to_source, shape)
    expected = map_coordinates(given.voxels[0].astype(np.float64) / 1000, points, order=1, mode="nearest")
    np.testing.assert_allclose(preprocessing(given)[0], expected, atol=2e-5)


def test_a_coarser_grid_is_smoothed_first():
    given = random_volume((20, 30, 24))
    shape = (9, 14, 23)
    preprocessing = VolumePreprocessing.create("ct", shape, (2.0, 2.0, 1.0))
    smooth = gaussian_filter(given.voxels[0].astype(np.float64) / 1000, (0.5, 0.5, 0), mode="nearest")
    points = in_millimeters(np.linalg.inv(given.affine) @ preprocessing.affine(given).numpy(), shape)
    np.testing.assert_allclose(preprocessing(given)[0], map_coordinates(smooth, points, order=1), atol=2e-5)


@pytest.mark.parametrize("axes", [STRAIGHT, OBLIQUE])
@pytest.mark.parametrize(("shape", "spacing"), [((10, 14, 12), (2, 1.5, 1.5)), ((17, 9, 14), (1, 1, 1))])
def test_the_affine_says_where_prepared_voxels_lie(axes, shape, spacing):
    given = random_volume((14, 30, 25), (2.5, 1.0, 0.9), axes=axes)
    given = volume_of(field(in_millimeters(given.affine, (14, 30, 25))).astype(np.float32), given.spacing, axes)
    preprocessing = VolumePreprocessing.create("ct", shape, spacing)
    affine = preprocessing.affine(given).numpy()
    prepared = preprocessing(given)[0]
    inside = (slice(1, -1), slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(prepared[inside], field(in_millimeters(affine, shape))[inside] / 1000, atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), spacing, rtol=1e-6)
    # The center stays the center, to a voxel.
    apart = [
        at[:3, :3] @ (np.array(n) - 1) / 2 + at[:3, 3] for at, n in ((affine, shape), (given.affine, (14, 30, 25)))
    ]
    assert np.linalg.norm(apart[0] - apart[1]) < np.linalg.norm(spacing)


@pytest.mark.parametrize("axes", [STRAIGHT, OBLIQUE])
def test_values_return_to_the_volumes_own_voxels(axes):
    given = random_volume((14, 30, 25), (2.5, 1.0, 0.9), axes=axes)
    preprocessing = VolumePreprocessing.create("ct", (20, 22, 40), (1.5, 1.2, 0.7))
    prepared = field(in_millimeters(preprocessing.affine(given).numpy(), (20, 22, 40))).astype(np.float32)
    back = preprocessing.to_source_grid(prepared, given)
    assert back.shape == (14, 30, 25)
    expected = field(in_millimeters(given.affine, (14, 30, 25)))
    seen = preprocessing.to_source_grid(np.ones((20, 22, 40), np.float32), given)
    inside = seen > 1 - 1e-5
    assert 0.5 < inside.mean() < 0.9  # rows were cropped
    np.testing.assert_allclose(back[inside], expected[inside], atol=0.02)
    np.testing.assert_allclose(back[seen < 1e-5], 0, atol=0.02)
    assert (seen[:, 0] < 1e-5).all()


def test_a_round_trip_without_resampling_is_exact():
    given = random_volume((9, 12, 10))
    preprocessing = VolumePreprocessing.create("ct", (12, 9, 10))
    back = preprocessing.to_source_grid(preprocessing(given)[0], given)
    np.testing.assert_allclose(back[:, 2:10], given.voxels[0, :, 2:10] / 1000, atol=1e-6)


def test_a_series_and_its_copy_as_nifti_prepare_alike(shared_data, tmp_path):
    volume = read_volume(shared_data / "dicom" / "series_t1")
    ras = nibabel.Nifti1Image(volume.voxels[0].transpose(2, 1, 0), volume.affine[:, [2, 1, 0, 3]])
    nibabel.as_closest_canonical(ras).to_filename(tmp_path / "copy.nii.gz")
    preprocessing = VolumePreprocessing.create("mr", (10, 96, 96), (1, 2, 2))
    one, other = (
        preprocessing.load(str(path)) for path in (shared_data / "dicom" / "series_t1", tmp_path / "copy.nii.gz")
    )
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_blank_volume_stays_finite():
    for value in (0, 1000.1):
        blank = volume_of(np.full((6, 7, 8), value, np.float32))
        np.testing.assert_array_equal(VolumePreprocessing.create("mr", (6, 7, 8), (2, 2, 2))(blank), 0)


def test_a_grid_far_coarser_than_the_volume_is_its_mean_and_not_the_work_of_a_day():
    volume = random_volume((16, 16, 16), (1e-5,) * 3)
    preprocessing = VolumePreprocessing.create("ct", (1, 1, 1), (1.0, 1.0, 1.0), window=(0, 200))
    light = NumpyVolumePreprocessing.from_dict(preprocessing.to_dict())
    expected = volume.voxels.mean() / 100 - 1
    np.testing.assert_allclose(preprocessing(volume), expected, atol=0.05)
    np.testing.assert_allclose(light.load(volume), preprocessing(volume), atol=1e-4)


def test_a_rare_signal_is_not_clipped_away():
    voxels = np.zeros((20, 20, 20), np.uint8)
    voxels[9:11, 9:11, 9:11] = 1
    prepared = VolumePreprocessing.create("mr", (20, 20, 20))(volume_of(voxels))
    assert prepared.max() > 10


def test_the_affine_is_known_where_a_program_switched_it_off():
    given = random_volume()
    preprocessing = VolumePreprocessing.create("mr", (8, 8, 8), (2, 1.5, 1.5))
    expected = preprocessing(given)
    monai.data.set_track_meta(False)
    try:
        np.testing.assert_array_equal(preprocessing(given), expected)
        assert not monai.data.get_track_meta()
    finally:
        monai.data.set_track_meta(True)


def test_the_input_is_not_changed():
    given = random_volume()
    before = given.voxels.copy()
    VolumePreprocessing.create("mr", (8, 8, 8), (2, 1.5, 1.5))(given)
    np.testing.assert_array_equal(given.voxels, before)


@pytest.mark.parametrize(
    "preprocessing",
    [
        VolumePreprocessing.create("mr", [8, 16, 12]),
        VolumePreprocessing.create("mr", [8, 16, 12], [1, 2.5, 1], rules=RULES),
        VolumePreprocessing.create("ct", (8, 16, 12), channels=2, window=[-160, 240]),
    ],
)
def test_the_configuration_of_a_run_restores_it(preprocessing):
    config = yaml.safe_load(yaml.safe_dump(preprocessing_to_config(preprocessing)))
    assert preprocessing_from_config(config) == preprocessing
    assert config["kind"] == "volume"
    assert preprocessing.sample_bytes() == preprocessing.channels * 8 * 16 * 12 * 4
    words = preprocessing.in_words()
    assert any("8 x 16 x 12" in word for word in words)
    assert all(word.endswith(".") for word in words)
    assert hash(preprocessing) == hash(preprocessing_from_config(config))


def test_what_a_model_must_be_told():
    preprocessing = VolumePreprocessing.create("mr", (8, 16, 12), (3, 1, 1), rules=RULES)
    arguments = {"img_size": [8, 16, 12], "in_chans": 2, "spacing": [3, 1, 1]}
    assert preprocessing.model_arguments() == arguments
    assert any("pre, post minus pre" in word for word in preprocessing.in_words())
    assert VolumePreprocessing.create("mr", (8, 16, 12)).model_arguments()["spacing"] == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"preset": "pet"}, "--modality pet"),
        ({"shape": (8, 8)}, "--shape"),
        ({"shape": (8, 8, 0)}, "--shape"),
        ({"shape": (8, 8, 2.5)}, "--shape"),
        ({"spacing": (1, 1)}, "--spacing"),
        ({"spacing": (1, 0, 1)}, "--spacing"),
        ({"spacing": (1, np.nan, 1)}, "--spacing"),
        ({"window": (0, 1)}, "--window is for --modality ct"),
        ({"preset": "ct", "window": (1, 0)}, "--window"),
        ({"preset": "ct", "window": (0,)}, "--window"),
        ({"rules": {}}, "--series"),
        ({"rules": RULES, "channels": 3}, "got channels 3"),
    ],
)
def test_options_that_cannot_work(arguments, words):
    with pytest.raises(UserError, match=words) as caught:
        VolumePreprocessing.create(**{"preset": "mr", "shape": (8, 8, 8)} | arguments)
    assert "\n" not in str(caught.value)


def test_a_volume_of_other_channels_is_refused(shared_data):
    path = str(shared_data / "nifti" / "other" / "anatomical.nii")
    with pytest.raises(ReadError, match=r"anatomical\.nii: volume of 1 channels; expected 2"):
        VolumePreprocessing.create("mr", (8, 8, 8), channels=2).load(path)


def test_a_frame_is_chosen_by_the_table(shared_data):
    preprocessing = VolumePreprocessing.create("mr", (3, 21, 17))
    path = str(shared_data / "nifti" / "other" / "functional.nii")
    assert not np.array_equal(preprocessing.load(path, 0), preprocessing.load(path, 1))
    with pytest.raises(ReadError, match="20 frames"):
        preprocessing.load(path)


def test_the_volumes_below_a_folder(shared_data, tmp_path):
    nifti = shared_data / "nifti" / "hippocampus"
    assert volumes_in(nifti) == sorted(str(path) for path in nifti.glob("*.nii.gz"))
    dicom = shared_data / "dicom"
    assert volumes_in(dicom / "series_t1") == [str(dicom / "series_t1")]
    mixed = tmp_path / "a" / "mixed"
    shutil.copytree(dicom / "series_t1", mixed)
    shutil.copy(dicom / "pydicom_data" / "emri_small.dcm", mixed)
    shutil.copytree(dicom / "series_t1", tmp_path / "b")
    (tmp_path / "b" / "cut.dcm").write_bytes((mixed / "N2D_0186.dcm").read_bytes()[:200])
    shutil.copy(dicom / "pydicom" / "rtplan.dcm", tmp_path)
    shutil.copy(shared_data / "nifti" / "other" / "anatomical.nii", tmp_path / "z.nii")
    names = ["a/mixed/N2D_0186.dcm", "a/mixed/emri_small.dcm", "b", "z.nii"]
    assert volumes_in(tmp_path) == [str(tmp_path / name) for name in names]
    assert read_volume(volumes_in(tmp_path)[0]).voxels.shape == (1, 10, 384, 274)
    with pytest.raises(ReadError, match=r"cut\.dcm: "):
        read_volume(tmp_path / "b")


def test_paths_that_name_no_volume(shared_data, tmp_path):
    (tmp_path / "empty.nii").touch()
    (tmp_path / "text.csv").write_text("path,label\n" * 50)
    (tmp_path / "folder").mkdir()
    expected = {
        "absent.nii": ("no such file", "missing"),
        "empty.nii": ("an empty file", "empty"),
        "text.csv": ("not a volume that softfree reads", "unsupported"),
        "folder": ("a folder without DICOM images", "no_pixels"),
    }
    for name, (words, status) in expected.items():
        with pytest.raises(ReadError) as caught:
            read_volume(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {words}")
        assert caught.value.status == status


@pytest.mark.parametrize("preset", ["mr", "ct"])
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0), (3.0, 1.0, 1.0)])
def test_augmentation_depends_on_volume_and_seed_alone(preset, spacing):
    change = VolumePreprocessing.create(preset, (8, 16, 12), spacing, channels=2).augmentation()
    voxels = torch.randn(2, 8, 16, 12)
    kept = voxels.clone()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = change(voxels, 7)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    state = torch.get_rng_state()
    again = VolumeAugmentation(preset, (8, 16, 12), spacing)
    again(voxels, 8)
    assert torch.equal(again(voxels, 7), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(voxels, kept)
    assert not torch.equal(change(voxels, 8), first)
    assert type(first) is torch.Tensor
    assert first.shape == voxels.shape
    assert first.dtype == torch.float32
    assert all(torch.isfinite(change(voxels, seed)).all() for seed in range(20))
    assert "rotation" in change.in_words()


def test_flat_voxels_are_turned_within_the_slices_only():
    """The thick slices of a volume that differs from slice to slice alone stay what they are under a rotation."""
    voxels = torch.arange(12.0).view(1, 12, 1, 1).expand(1, 12, 24, 24).contiguous()

    def spread(spacing):
        change = VolumeAugmentation("ct", (12, 24, 24), spacing)
        return max(float(change(voxels, seed)[0, 6].std()) for seed in range(12))

    assert spread((4.0, 1.0, 1.0)) < 0.05 < 0.3 < spread((1.0, 1.0, 1.0))


def test_only_mr_is_flipped_left_to_right():
    voxels = torch.linspace(-1, 1, 24).expand(1, 6, 12, 24).contiguous()

    def flipped(preset):
        change = VolumeAugmentation(preset, (6, 12, 24))
        return sum(bool((change(voxels, seed)[..., -1] < change(voxels, seed)[..., 0]).all()) for seed in range(30))

    assert 5 < flipped("mr") < 25
    assert flipped("ct") == 0
