"""Write cases of the four quarters of each blood cell image, and their table, with the split of the images.

python benchmarks/cases/quarters.py DATA/blood_cells quarters
"""

import sys
from pathlib import Path

import pandas as pd
from PIL import Image

CORNERS = {"upper left": (0, 0), "upper right": (1, 0), "lower left": (0, 1), "lower right": (1, 1)}


def main() -> None:
    data, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    out.mkdir(parents=True)
    rows = []
    for number, image in enumerate(pd.read_csv(data / "manifest.csv").itertuples()):
        with Image.open(data / image.path) as whole:
            width, height = whole.width // 2, whole.height // 2
            for view, (column, row) in CORNERS.items():
                name = f"{number:03}_{view.replace(' ', '_')}.png"
                left, upper = column * width, row * height
                whole.crop((left, upper, left + width, upper + height)).save(out / name)
                rows.append({"path": name, "case_id": f"cell{number:03}", "view": view}
                            | {"label": image.label, "split": image.split})  # fmt: skip
    pd.DataFrame(rows).to_csv(out / "quarters.csv", index=False)


main()
