"""An image with its map as a DICOM secondary capture that refers to its source."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from softfree import __version__
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import replacing
from softfree_runtime.readers.dicom import frame_count
from softfree_runtime.readers.quiet import quiet

# Attributes of the patient and the study that highdicom would copy.
_IDENTITY = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber"),
    *("StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
)
_NEEDED = (*_IDENTITY, "StudyInstanceUID", "SOPClassUID", "SOPInstanceUID", "SpecificCharacterSet", "NumberOfFrames")
_SOURCE_IMAGE = ("121322", "DCM", "Source image for image processing operation")
_LONGEST = 64  # characters of a SeriesDescription
_UTF8 = "ISO_IR 192"  # names of classes may have any character, whatever the source's


def write_secondary_capture(
    path: Path,
    painted: np.ndarray,
    source: str,
    *,
    name: str,
    description: str,
    frame: int | None = None,
    spacing: tuple[float, float] | None = None,
    identity: bool = False,
    series_number: int = 1,
    seed: str | None = None,
    further: Sequence[str] = (),
) -> None:
    """Write a secondary capture in a new series of the source's study.

    The UIDs of the study and the source are always included, since the reference consists of them. Everything else that
    identifies the patient stays empty unless requested.

    Args:
        path: The file.
        painted: uint8 (H, W, 3).
        source: The DICOM file that was explained.
        name: Method and class, for the series.
        description: What the map means.
        frame: Frame of a multi-frame source, counted from 0.
        spacing: Millimeters between rows and between columns.
        identity: Copy the patient's name, id, birth date and sex, and the study's numbers and date.
        series_number: Of the new series.
        seed: The same seed and source give the same UIDs again; None: new ones.
        further: Other DICOM files that it was made from, such as the other slices of a volume.

    Raises:
        ReadError: The source has no UIDs to refer to, or an element that is copied is damaged.
        UserError: highdicom is not installed.
    """
    sc = _highdicom()
    try:
        with quiet():  # warnings may quote the patient's name
            header = _header(source, identity)
            capture = _capture(sc, painted, header, frame, spacing, name, description, series_number, seed)
            capture.SourceImageSequence.extend(_reference(_header(other, False), None) for other in further)
            with replacing(path) as temporary:
                capture.save_as(temporary, enforce_file_format=True)
    except UserError:
        raise
    except Exception:  # pydicom and highdicom raise almost any exception on damaged elements, and quote them
        fix = "leave out --dicom-identity" if identity else "use --format png"
        raise ReadError(f"an element of its patient or study is damaged; {fix}", "corrupt", source) from None


def _capture(
    sc: Any,
    painted: np.ndarray,
    header: Dataset,
    frame: int | None,
    spacing: tuple[float, float] | None,
    name: str,
    description: str,
    series_number: int,
    seed: str | None,
) -> Dataset:
    series, instance = (None if seed is None else [seed, header.SOPInstanceUID, part] for part in ("series", "map"))
    capture: Dataset = sc.SCImage.from_ref_dataset(
        header,
        np.ascontiguousarray(painted),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        pixel_spacing=spacing,
        series_instance_uid=generate_uid(entropy_srcs=series),
        series_number=series_number,
        sop_instance_uid=generate_uid(entropy_srcs=instance),
        instance_number=1,
        manufacturer="softfree",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        manufacturer_model_name="softfree explain",
        software_versions=__version__,
        series_description=name[:_LONGEST],
    )
    capture.PatientOrientation = capture.Laterality = None  # unknown
    capture.DerivationDescription = description
    capture.ImageComments = "For research. The colors are a map of a model's prediction, not a finding."
    capture.SourceImageSequence = [_reference(header, frame)]
    return capture


def _highdicom() -> Any:
    try:
        from highdicom import sc
    except ImportError:
        raise UserError("--format dicom needs highdicom: pip install 'highdicom>=0.28'") from None
    return sc


def _header(source: str, identity: bool) -> Dataset:
    header = dcmread(source, force=True, stop_before_pixels=True, specific_tags=list(_NEEDED))
    absent = [name for name in ("StudyInstanceUID", "SOPClassUID", "SOPInstanceUID") if not header.get(name)]
    if absent:
        raise ReadError(f"no {' and '.join(absent)} to refer to; use --format png", "unsupported", path=source)
    header = copy(header)
    header.decode()  # by the source's character set
    header.SpecificCharacterSet = _UTF8  # which the capture takes over
    for keyword in () if identity else _IDENTITY:
        setattr(header, keyword, None)
    return header


def _reference(header: Dataset, frame: int | None) -> Dataset:
    reference, purpose = Dataset(), Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = _SOURCE_IMAGE
    reference.ReferencedSOPClassUID = header.SOPClassUID
    reference.ReferencedSOPInstanceUID = header.SOPInstanceUID
    if frame_count(header) > 1:
        reference.ReferencedFrameNumber = (frame or 0) + 1
    reference.PurposeOfReferenceCodeSequence = [purpose]
    return reference
