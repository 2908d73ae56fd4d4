"""A writer of small DICOM files with any elements."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, generate_uid


@pytest.fixture
def write_dicom(tmp_path: Path) -> Callable[..., Path]:
    def write(
        pixels: np.ndarray,
        *,
        photometric: str = "MONOCHROME2",
        bits: int | None = None,
        frames: int | None = None,
        syntax: str = ExplicitVRLittleEndian,
        codes: list[bytes] | None = None,
        sop_class: str = CTImageStorage,
        name: str = "image.dcm",
        **elements: object,
    ) -> Path:
        """Write stored ``pixels`` (H, W), (H, W, 3) or with frames in front, or the encoded frames ``codes``."""
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.PatientName, dataset.PatientID = "Doe^Jane", "secret-4711"
        shape = pixels.shape[1:] if frames else pixels.shape
        dataset.Rows, dataset.Columns = shape[:2]
        dataset.SamplesPerPixel = 3 if len(shape) == 3 else 1
        if len(shape) == 3:
            dataset.PlanarConfiguration = 0
        if frames:
            dataset.NumberOfFrames = frames
        dataset.PhotometricInterpretation = photometric
        dataset.BitsAllocated = 8 * pixels.dtype.itemsize
        dataset.BitsStored = bits or dataset.BitsAllocated
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        content = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        if pixels.dtype.kind == "f":
            dataset.FloatPixelData = content
            del dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
        else:
            dataset.PixelData = content if codes is None else encapsulate(codes)
            dataset["PixelData"].VR = "OB" if codes is not None or dataset.BitsAllocated == 8 else "OW"
        path = tmp_path / name
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write


@pytest.fixture
def item() -> Callable[..., Sequence]:
    """A DICOM sequence of one item with the given elements."""

    def make(**elements: object) -> Sequence:
        dataset = Dataset()
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        return Sequence([dataset])

    return make
