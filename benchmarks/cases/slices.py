"""Write cases of three orthogonal slices, through the middle of each hippocampus volume, and their table.

python benchmarks/cases/slices.py DATA/nifti slices
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from PIL import Image

VIEWS = ("sagittal", "coronal", "axial")
SIDE = 64  # pixels of 1 mm, more than any of the volumes


def main() -> None:
    data, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    out.mkdir(parents=True)
    table = pd.read_csv(data / "manifest.csv").dropna(subset="mask")
    rows = [
        row for number, case in enumerate(table.itertuples()) for row in slices(data / case.path, out, number, case)
    ]
    pd.DataFrame(rows).to_csv(out / "slices.csv", index=False)


def slices(path: Path, out: Path, number: int, case: object) -> list[dict[str, str]]:
    """Write the three slices of a volume in the orientation of the patient, at one scale, and list them."""
    voxels = np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj, dtype=np.float64)
    low, high = np.percentile(voxels, (0.5, 99.5))
    rows = []
    for axis, view in enumerate(VIEWS):
        plane = np.take(voxels, voxels.shape[axis] // 2, axis=axis)
        pixels = np.rot90(255 * np.clip((plane - low) / (high - low), 0, 1)).astype(np.uint8)
        rows_before, columns_before = ((SIDE - side) // 2 for side in pixels.shape)
        canvas = np.zeros((SIDE, SIDE), np.uint8)
        canvas[rows_before:, columns_before:][: pixels.shape[0], : pixels.shape[1]] = pixels
        Image.fromarray(canvas).save(out / f"{number:02}_{view}.png")
        rows.append(
            {"path": f"{number:02}_{view}.png", "case_id": f"case{number:02}", "view": view}
            | {"label": case.label, "patient_id": case.patient_id}
        )
    return rows


main()
