"""Write a table of the hippocampus volumes with the volume of each mask, in mm3, and its thirds as grades.

python benchmarks/targets/volumes.py DATA/nifti hippocampus.csv
"""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

GRADES = ["small", "middle", "large"]


def main() -> None:
    folder, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    table = pd.read_csv(folder / "manifest.csv").dropna(subset="mask")
    volumes = [mask_volume(folder / mask) for mask in table["mask"]]
    frame = table.assign(volume=np.round(volumes, 1))
    frame["grade"] = pd.qcut(frame["volume"], 3, labels=GRADES)
    frame[["path", "volume", "grade", "patient_id"]].to_csv(out, index=False)


def mask_volume(path: Path) -> float:
    """Return the volume of all voxels that are not background, in mm3."""
    mask = nib.load(path)
    return float(np.count_nonzero(np.asarray(mask.dataobj)) * abs(np.linalg.det(mask.affine[:3, :3])))


main()
