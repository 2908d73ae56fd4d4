"""Public data sets: from the official download, as it lies on the disk, to a table for ``softfree train``."""

from pathlib import Path

from softfree.data.sets.aptos2019 import APTOS2019
from softfree.data.sets.base import DataSet
from softfree.data.sets.camelyon16 import CAMELYON16
from softfree.data.sets.chexpert import CHEXPERT
from softfree.data.sets.duke_breast_mri import DUKE_BREAST_MRI
from softfree.data.sets.ham10000 import HAM10000
from softfree.data.sets.isic2019 import ISIC2019
from softfree.data.sets.medmnist import MEDMNIST
from softfree.data.sets.mimic_cxr import MIMIC_CXR
from softfree.data.sets.nih_chestxray14 import NIH_CHESTXRAY14
from softfree.data.sets.prepare import Prepared, prepare
from softfree.data.sets.tcga import TCGA
from softfree.data.sets.vindr_cxr import VINDR_CXR
from softfree.errors import unknown_name
from softfree.options.preparing import PrepareOptions

SETS: dict[str, DataSet] = {
    one.name: one
    for one in (
        APTOS2019,
        ISIC2019,
        HAM10000,
        VINDR_CXR,
        CHEXPERT,
        MIMIC_CXR,
        NIH_CHESTXRAY14,
        DUKE_BREAST_MRI,
        CAMELYON16,
        TCGA,
        MEDMNIST,
    )
}


def prepare_set(name: str, root: str | Path, options: PrepareOptions | None = None) -> Prepared:
    """Write the table of the public set ``name`` that lies in ``root``; nothing is downloaded.

    Raises:
        UserError: for an unknown name, and see :func:`softfree.data.sets.prepare.prepare`.
    """
    if name not in SETS:
        raise unknown_name("data set", name, SETS)
    return prepare(SETS[name], Path(root), options or PrepareOptions())


__all__ = ["SETS", "DataSet", "Prepared", "prepare_set"]
