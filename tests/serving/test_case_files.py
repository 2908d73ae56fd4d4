"""Which files stand for the images of a case."""

from __future__ import annotations

import shutil
from pathlib import Path

from softfree.serving.case_files import first_files

IMAGES, VOLUMES = {"image": {"kind": "image"}}, {"image": {"kind": "volume"}}
BOTH = IMAGES | {"others": [VOLUMES], "tokenizer_of": {"frontal": 0, "brain": 1}}


def test_slices_of_a_series_are_one_image(shared_data: Path, tmp_path: Path) -> None:
    slices = sorted((shared_data / "dicom" / "series_t1").iterdir())[:3]
    paths = [str(shutil.copy(path, tmp_path)) for path in slices]
    other = str(shutil.copy(shared_data / "dicom" / "pydicom" / "CT_small.dcm", tmp_path))
    nifti = str(tmp_path / "volume.nii.gz")
    Path(nifti).write_bytes(b"not read")
    assert first_files([*paths, other, nifti, nifti], [""] * 6, VOLUMES) == [0, 3, 4, 5]
    assert first_files(paths, [""] * 3, IMAGES) == [0, 1, 2]
    assert first_files([*paths, other], ["brain", "brain", "brain", "frontal"], BOTH) == [0, 3]
    assert first_files(paths, ["frontal", "brain", "brain"], BOTH) == [0, 1]


def test_files_of_several_frames_and_damaged_ones_stand_alone(shared_data: Path, tmp_path: Path) -> None:
    enhanced = str(shared_data / "dicom" / "pydicom_data" / "liver.dcm")
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(b"\0" * 200)
    assert first_files([enhanced, enhanced, str(damaged), str(damaged)], [""] * 4, VOLUMES) == [0, 1, 2, 3]
