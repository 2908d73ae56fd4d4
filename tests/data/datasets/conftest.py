"""Tiny trees in the official layouts of public data sets."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from softfree.data.datasets.options import PrepareOptions
from softfree.data.datasets.registry import PreparedDataSet, prepare_set
from softfree.data.samples import join_cases
from softfree.data.table import Table, patients_across_splits, read_table


@pytest.fixture
def image() -> Callable[[Path], None]:
    """Write a small image, as PNG, JPEG, TIFF or DICOM by its ending."""

    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((8, 8), len(str(path)) % 256, np.uint8)
        if path.suffix in (".dcm", ".dicom"):
            _write_dicom(path, pixels)
        else:
            Image.fromarray(pixels).save(path, format="TIFF" if path.suffix in (".svs", ".tif") else None)

    return write


@pytest.fixture
def table() -> Callable[..., None]:
    """Write a table of the official download, comma or tab by its ending, compressed by .gz."""

    def write(path: Path, columns: str, rows: list[tuple]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        tabs = path.suffix in (".tsv", ".tab", ".txt")
        pd.DataFrame(rows, columns=columns.split(",")).to_csv(path, index=False, sep="\t" if tabs else ",")

    return write


@pytest.fixture
def prepared() -> Callable[..., tuple[PreparedDataSet, Table]]:
    """Prepare a set and read its table as training would.

    No patient may be in two splits, and the rows of cases must fit together.
    """

    def run(name: str, root: Path, **options: object) -> tuple[PreparedDataSet, Table]:
        done = prepare_set(name, root, PrepareOptions(progress=False, **options))
        read = read_table(done.table, labels=done.findings or None, image_root=root if root.is_dir() else root.parent)
        assert read.split_made is None
        assert patients_across_splits(read.frame).empty
        assert all(Path(path).exists() for path in read.frame["file"])
        assert {"train", "test"} <= set(done.rows)
        if "case_id" in read.frame:
            assert len(join_cases(read).frame) == read.frame["case_id"].nunique()
        return done, read

    return run


def _write_dicom(path: Path, pixels: np.ndarray) -> None:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = Dataset()
    file.file_meta = meta
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PixelRepresentation = 1, "MONOCHROME2", 0
    file.BitsAllocated, file.BitsStored, file.HighBit = 8, 8, 7
    file.PixelData = pixels.tobytes()
    file.save_as(path, enforce_file_format=True)
