"""What the readers give for every real sample file: ``python -m tests.corpus.shared_data FOLDER`` records it."""

from __future__ import annotations

import sys
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd

from softfree.data.slide_readers.slide import open_slide
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers import read_image
from softfree_runtime.sources.volume_files import read_volume

RECORD = Path(__file__).with_name("shared_data.csv")
_MANY = 12  # images of a set of equal files that are recorded


def find_files(folder: Path) -> list[Path]:
    """Return every odd file, and a few of each set of equal ones."""
    results = []
    for manifest in sorted(folder.glob("*/manifest.csv")):
        files = [manifest.parent / path for path in pd.read_csv(manifest)["path"]]
        alike = manifest.parent.name not in ("dicom", "nifti", "wsi", "misc2d")
        results += files[:: max(1, len(files) // _MANY)] if alike else files
    return results


def read(path: Path) -> tuple[str, str, str, str]:
    """Return status, shape, a digest of the values and of how they are shown, and what was corrected."""
    try:
        if path.parent.name == "wsi":
            with open_slide(path, mpp=0.5) as slide:
                values, shown = slide.thumbnail(8.0), f"{slide.size} {slide.mpp}"
                corrections = slide.corrections
        elif path.name.endswith((".nii", ".nii.gz", ".hdr", ".img", ".mgz")):
            volume = read_volume(path, None)
            values, shown = volume.voxels, f"{np.round(volume.affine, 6).tolist()} {volume.low:g} {volume.high:g}"
            corrections = volume.corrections
        else:
            image = read_image(path)
            values, shown = image.pixels, f"{image.low:g} {image.high:g} {image.spacing}"
            corrections = image.corrections
    except ReadError as error:
        return error.status, "", "", ""
    digest = blake2b(np.ascontiguousarray(values).tobytes(), digest_size=8)
    digest.update(f"{values.dtype} {shown}".encode())
    return "ok", "x".join(map(str, values.shape)), digest.hexdigest(), "; ".join(corrections)


def record(folder: Path) -> pd.DataFrame:
    """Return a row for each file."""
    rows = [(path.relative_to(folder).as_posix(), *read(path)) for path in find_files(folder)]
    return pd.DataFrame(rows, columns=["path", "status", "shape", "digest", "corrections"])


if __name__ == "__main__":
    record(Path(sys.argv[1])).to_csv(RECORD, index=False)
