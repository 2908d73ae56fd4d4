"""HAM10000: dermoscopy of pigmented skin lesions.

Layout: https://doi.org/10.7910/DVN/DBW86T: ``HAM10000_metadata`` (lesion_id, image_id, dx, dx_type, age, sex,
localization, dataset; as .csv or .tab) and the images of ``HAM10000_images_part_1.zip`` and ``..._part_2.zip``.
There are no patient ids; lesion ids are used instead. Ages are in years, in steps of five; there are no dates.

Each image is a sample, as in the papers on this set: the images of a lesion are repeats, not views that complement each
other. ``--case lesion`` makes a lesion with all its images a sample; its images have the same diagnosis.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import DataSet, DataSetRows, columns_of, index_files, numbers, read_official, without
from softfree.data.datasets.cases import with_cases
from softfree.data.datasets.options import PrepareOptions

SOURCE = "https://doi.org/10.7910/DVN/DBW86T"
_SUBGROUPS = {
    "lesion_id": "patient_id",
    "sex": "sex",
    "age": "age",
    "localization": "site",
    "dataset": "source",
    "dx_type": "confirmed_by",
}


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    names = ["HAM10000_metadata.csv", "HAM10000_metadata.tab", "HAM10000_metadata"]
    rows = read_official(root, names, ["lesion_id", "image_id", "dx"], SOURCE)
    files = index_files(root, ["HAM10000_images_part*", "HAM10000_images*", "."], (".jpg",))
    images = rows["image_id"] + ".jpg"
    paths = images.map(files).fillna("HAM10000_images_part_1/" + images)
    frame = pd.DataFrame({"path": paths, "label": rows["dx"]})
    frame = pd.concat([frame, columns_of(rows, _SUBGROUPS).apply(without, args=("unknown",))], axis=1)
    notes: list[str] = []
    if "age" in frame:
        frame["age"] = numbers(frame["age"], notes)
    if options.case == "lesion":
        frame = with_cases(frame, frame["patient_id"])
    return DataSetRows(frame, notes=tuple(notes))


HAM10000 = DataSet(
    name="ham10000",
    image="dermoscopy, JPEG",
    classes="7 kinds of pigmented skin lesion",
    source=SOURCE,
    terms="CC BY-NC 4.0",
    read=_read,
    train="--preset photo --size 448 --class-weights",
    cases=("image", "lesion"),
)
