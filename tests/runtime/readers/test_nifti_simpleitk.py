"""NIfTI against a second, independent reader."""

from pathlib import Path

import numpy as np
import pytest
from tests.corpus import CASES, Case

from softfree_runtime.readers.volume import Volume
from softfree_runtime.sources.volume_files import read_volume

simpleitk = pytest.importorskip("SimpleITK")
pytestmark = pytest.mark.slow
READ = [case for case in CASES if case.format == "NIfTI" and case.outcome == "read"]
OTHERWISE = {
    ".nii that is compressed": "SimpleITK goes by the name",
    "a name without an extension": "SimpleITK goes by the name",
    "an sform to a template, 10 degrees from the scanner's qform": "SimpleITK takes the scanner's space",
}


def assert_equal(path: Path, frame: int | None = None) -> Volume:
    image = simpleitk.ReadImage(str(path))
    if image.GetDimension() == 4:
        image = image[:, :, :, frame or 0]
    image = simpleitk.DICOMOrient(image, "RAS")
    volume = read_volume(path, frame)
    np.testing.assert_allclose(volume.voxels[0], simpleitk.GetArrayFromImage(image), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(volume.spacing, image.GetSpacing()[::-1], rtol=1e-5)
    to_left_back = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing() * [[-1], [-1], [1]]
    np.testing.assert_allclose(volume.affine[:3, 2::-1], to_left_back, atol=1e-4)
    return volume


def test_every_real_file(shared_data: Path) -> None:
    files = sorted((shared_data / "nifti").rglob("*.nii*")) + sorted((shared_data / "adrenal").rglob("*.nii.gz"))[::20]
    assert len(files) > 130
    for path in files:
        assert_equal(path, 0 if path.parent.name == "other" and path.name != "anatomical.nii" else None)


@pytest.mark.parametrize("case", READ, ids=lambda case: case.property)
def test_every_sound_file_of_the_corpus(case: Case, tmp_path: Path) -> None:
    if reason := OTHERWISE.get(case.property):
        pytest.skip(reason)
    made = case.make(tmp_path)
    assert_equal(made.path, made.arguments.get("frame"))
