"""CBIS-DDSM: digitized film mammograms of breasts with a mass or calcifications, benign or malignant by pathology.

Layout: https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY: ``mass_case_description_train_set.csv``, ``..._test_set.csv``,
``calc_case_description_train_set.csv`` and ``..._test_set.csv`` with a row per abnormality: patient_id (P_00001),
breast_density (in the files of calcifications: breast density), left or right breast (LEFT, RIGHT), image view (CC,
MLO), abnormality id, abnormality type, mass shape, mass margins (calc type, calc distribution), assessment (BI-RADS 0
to 5), pathology (MALIGNANT, BENIGN, BENIGN_WITHOUT_CALLBACK), subtlety, and image file path
(``Mass-Training_P_00001_LEFT_CC/STUDY_UID/SERIES_UID/000000.dcm``). The NBIA Data Retriever writes the whole mammogram
to ``CBIS-DDSM/Mass-Training_P_00001_LEFT_CC/07-20-2016-DDSM-NA-74994/1.000000-full mammogram images-24515/1-1.dcm``,
with the last five digits of the two UIDs. The folders of its crops and masks end in the number of the abnormality and
are not used, nor are the descriptions of single abnormalities. The dates are those of processing, and ages are not in
the files, so there are no columns ``time`` and ``age``.

A case is a breast with its two views, malignant if one of its abnormalities is. ``--case exam`` joins both breasts; it
lacks the views without an abnormality, which the set does not contain. A mammogram with a mass and calcifications is
in both tables, which number its abnormalities through; it becomes one row. ``density`` (1 to 4) and ``birads`` (1 to
5) are the highest values of the case; an assessment of 0, incomplete, is unknown.

Masses and calcifications were divided into training and test separately, so a patient can be in both. A case with
an image in an official test part is in ``test``; what else the patient has is ``extra``.

Lee et al., "A curated mammography data set for use in computer-aided detection and diagnosis research", Scientific
Data 4 (2017).
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from softfree.data.datasets.base import (
    TRAIN_VAL_FRACTIONS,
    DataSet,
    DataSetRows,
    checked,
    numbers,
    official_file,
    read_official,
)
from softfree.data.datasets.cases import with_cases
from softfree.data.datasets.options import PrepareOptions
from softfree.data.table_file import no_column

SOURCE = "https://doi.org/10.7937/K9/TCIA.2016.7O02S9CY"
_KINDS = {"mass": "mass", "calc": "calcification"}
_DENSITY = ("breast_density", "breast density")
_SIDE, _VIEW, _PATH = "left or right breast", "image view", "image file path"
_VALUES = {
    "patient_id": r"P_\d+",
    _SIDE: "LEFT|RIGHT",
    _VIEW: "CC|MLO",
    "pathology": "MALIGNANT|BENIGN|BENIGN_WITHOUT_CALLBACK",
    _PATH: r"(?:Mass|Calc)-(?:Training|Test)_P_\d+_(?:LEFT|RIGHT)_(?:CC|MLO)(?:/[^/]+){2,}",
}
_IMAGE = ["patient_id", _SIDE, _VIEW]
_CASES = {"image": _IMAGE, "breast": _IMAGE[:2], "exam": _IMAGE[:1]}


def _read(root: Path, options: PrepareOptions) -> DataSetRows:
    notes: list[str] = []
    found = pd.concat(
        [_abnormalities(root, kind, part) for kind in _KINDS for part in ("train", "test")], ignore_index=True
    )
    found["malignant"] = found["pathology"] == "MALIGNANT"
    density, assessment = (numbers(found[name], notes).astype(float) for name in ("density", "assessment"))
    found["density"] = density.where(density.between(1, 4))
    # An incomplete assessment outranks 1 to 3 and is outranked by 4 and 5, as in the BI-RADS atlas.
    found["birads"] = assessment.where(assessment.between(0, 5)).replace(0, 3.5)
    case = _CASES[str(options.case)]
    for name in ("malignant", "density", "birads", "test"):
        found[name] = found.groupby(case)[name].transform("max")
    images = found.drop_duplicates(_IMAGE).reset_index(drop=True)
    keys = images.set_index(_IMAGE).index
    listed = found.groupby(_IMAGE)[_PATH].agg(list).reindex(keys).tolist()
    folders = _folders(root)
    paths = [_mammogram(root, folders, official) for official in listed]
    unclear = [official[0].split("/")[0] for official, path in zip(listed, paths, strict=True) if path is None]
    frame = pd.DataFrame(
        {
            "path": paths,
            "label": images["malignant"].map({True: "malignant", False: "benign"}),
            "patient_id": images["patient_id"],
            "view": images[_SIDE].str[0] + "-" + images[_VIEW],
            "split": _splits(images, notes),
            "abnormality": found.groupby(_IMAGE)["kind"].agg(_joined).reindex(keys).to_numpy(),
            "density": images["density"].astype("Int64"),
            "birads": images["birads"].where(images["birads"] != 3.5).astype("Int64"),
        }
    )
    if options.case != "image":
        frame = with_cases(frame, images[case].agg("_".join, axis=1))
    left_out = tuple((subject, "several images") for subject in unclear)
    return DataSetRows(frame[frame["path"].notna()], (), TRAIN_VAL_FRACTIONS, left_out, tuple(notes))


def _abnormalities(root: Path, kind: str, part: str) -> pd.DataFrame:
    """Return the rows of an official file, with its ``kind``, ``density`` and ``test``."""
    name = f"{kind}_case_description_{part}_set.csv"
    path = official_file(root, [name, f"*/{name}"], SOURCE)
    rows = read_official(root, [name, f"*/{name}"], [*_VALUES, "assessment"], SOURCE)
    for column, pattern in _VALUES.items():
        rows[column] = checked(rows[column], pattern, path, SOURCE)
    density = next((column for column in _DENSITY if column in rows), None)
    if density is None:
        raise no_column(path, _DENSITY[0], list(rows.columns), f"expected the official file ({SOURCE})")
    return rows[[*_VALUES, "assessment"]].assign(kind=_KINDS[kind], density=rows[density], test=part == "test")


def _joined(kinds: pd.Series) -> str:
    return " and ".join(kinds.unique())


def _splits(images: pd.DataFrame, notes: list[str]) -> pd.Series:
    """Return ``test``, ``extra`` for other cases of its patients, None for training."""
    tested = images["patient_id"].isin(images["patient_id"][images["test"]])
    extra = tested & ~images["test"]
    if extra.any():
        notes.append(
            f"in an official test part and in a training part: {images['patient_id'][extra].nunique()} of"
            f" {images['patient_id'].nunique()} patients, so that {extra.sum()} images have the split 'extra'"
        )
    split = pd.Series(None, images.index, dtype=object).mask(images["test"], "test")
    return split.mask(extra, "extra")


def _folders(root: Path) -> dict[str, Path]:
    """Map the subjects of TCIA, such as Mass-Training_P_00001_LEFT_CC, to their folders."""
    for above in ("", "*/", "*/*/"):
        folders = [path for kind in ("Mass", "Calc") for path in sorted(root.glob(f"{above}{kind}-*_P_*"))]
        if folders:
            return {path.name: path for path in folders if path.is_dir()}
    return {}


def _mammogram(root: Path, folders: dict[str, Path], official: list[str]) -> str | None:
    """Return the whole mammogram of the first subject that is on the disk; None if it is unclear which file that is.

    Of several files, it is the one in the folder of the series, named by the UID or its last five digits. If there is
    none, the path is that of the table.
    """
    unclear = False
    for path in official:
        subject, *_, series, _ = path.split("/")
        images = sorted(folders[subject].glob("*/*/*.dcm")) if subject in folders else []
        if len(images) > 1:
            images = [image for image in images if image.parent.name.endswith(series[-5:])]
            unclear |= len(images) != 1
        if len(images) == 1:
            return images[0].relative_to(root).as_posix()
    return None if unclear else official[0]


CBIS_DDSM = DataSet(
    name="cbis-ddsm",
    image="digitized mammograms, DICOM, up to two views a breast",
    classes="benign, malignant",
    source=SOURCE,
    terms="CC BY 3.0, TCIA data usage policy",
    read=_read,
    train="--preset radiograph --size 1024",
    cases=("breast", "exam", "image"),
)
