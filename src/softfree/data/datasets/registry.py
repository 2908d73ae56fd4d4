"""All public data sets by name, and the table of one."""

from pathlib import Path

from softfree.data.datasets.aptos2019 import APTOS2019
from softfree.data.datasets.base import DataSet
from softfree.data.datasets.camelyon16 import CAMELYON16
from softfree.data.datasets.cbis_ddsm import CBIS_DDSM
from softfree.data.datasets.chexpert import CHEXPERT
from softfree.data.datasets.duke_breast_mri import DUKE_BREAST_MRI
from softfree.data.datasets.ham10000 import HAM10000
from softfree.data.datasets.isic2019 import ISIC2019
from softfree.data.datasets.medmnist import MEDMNIST
from softfree.data.datasets.mimic_cxr import MIMIC_CXR
from softfree.data.datasets.nih_chestxray14 import NIH_CHESTXRAY14
from softfree.data.datasets.options import PrepareOptions
from softfree.data.datasets.prepare import PreparedDataSet, prepare
from softfree.data.datasets.tcga import TCGA
from softfree.data.datasets.vindr_cxr import VINDR_CXR
from softfree.data.datasets.vindr_mammo import VINDR_MAMMO
from softfree_runtime.core.errors import unknown_name

SETS: dict[str, DataSet] = {
    data_set.name: data_set
    for data_set in (
        APTOS2019,
        ISIC2019,
        HAM10000,
        VINDR_CXR,
        CHEXPERT,
        MIMIC_CXR,
        NIH_CHESTXRAY14,
        VINDR_MAMMO,
        CBIS_DDSM,
        DUKE_BREAST_MRI,
        CAMELYON16,
        TCGA,
        MEDMNIST,
    )
}


def prepare_set(name: str, root: str | Path, options: PrepareOptions | None = None) -> PreparedDataSet:
    """Write the table of the public data set ``name`` in the folder ``root``; nothing is downloaded.

    Raises:
        UserError: Unknown name; see also :func:`softfree.data.datasets.prepare.prepare`.
    """
    if name not in SETS:
        raise unknown_name("data set", name, SETS)
    return prepare(SETS[name], Path(root), options or PrepareOptions())
