"""The numbers of a map as a DICOM Parametric Map in the space of its source; runs in a worker.

Viewers lay such a map over its source and read its values. Volumes and single slices get 32-bit floats on the pixels of
each source slice: OHIF needs as many rows and columns as the source has, and dcmqi (3D Slicer) reads no integers.
Slides get 16-bit integers with a linear mapping on one of their own levels, in tiles: Slim aligns a map best with a
level of the same spacing and origin, and fetches frames, which Orthanc (1.10) sends of integers, but not of floats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence, VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import VLWholeSlideMicroscopyImageStorage, generate_uid

from softfree import __version__
from softfree.saliency.geometry import scaled
from softfree.serving.hospital.map_arrays import StoredMap
from softfree.serving.hospital.maps import about_map
from softfree.serving.hospital.results import BARE, SERIES_NUMBER, UTF8, copy_patient_and_study, read_header, short_text
from softfree.serving.records import RenderResult
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.dicom import frame_count
from softfree_runtime.readers.quiet import quiet
from softfree_runtime.readers.series_files import make_series, series_in
from softfree_runtime.readers.series_files import read_header as read_geometry
from softfree_runtime.readers.series_geometry import Slice

_LARGEST = 1 << 25  # pixels of a map of a slide: 64 MiB
_MIDDLE = 32767  # stored value of zero of a signed map of a slide
# Not TILED_FULL: dciodvfy and older viewers need the place of each frame.
_TILED = {"tile_pixel_array": True, "dimension_organization_type": "TILED_SPARSE"}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def write_parametric_map(
    paths: Sequence[Path], *, folder: Path, number: int, out: Path, model: str, version: str, predicted: str, seed: str
) -> RenderResult:
    """Write a map as a Parametric Map, in a new series of its source's study, with its frame of reference and patient.

    Outside the model's input it has zeros. It has the values of ``softfree explain`` in their own unit: of an image or
    volume as 32-bit floats, of a slide rounded to 1/32767 of the largest magnitude (1/65534 of maps that are never
    negative), which the Real World Value Mapping undoes.

    Args:
        paths: The files of the sample, of which the first is of the series to draw on, in a folder of their own.
        folder: Of :func:`softfree.serving.explaining.write_maps`.
        number: Of the image that it belongs to.
        out: The DICOM file.
        model: Name of the model.
        version: SHA-256 of its file.
        predicted: What it predicted, for the description.
        seed: Makes the UIDs; the same source, model and seed give the same again.

    Returns:
        Nothing but its header ``written``.

    Raises:
        ReadError: The source has no position in space, such as a radiograph, or a damaged element.
    """
    stored = StoredMap.read(folder, number)
    with quiet():  # warnings may quote the patient's name
        try:
            placed = _placed(paths, stored)
            made = _parametric_map(placed, stored, model, version, f"{model} {seed} {number}", number + 1)
            copy_patient_and_study(read_header(paths[0]), made)
            made.DerivationDescription = about_map(model, predicted, stored.description)
            made.save_as(out, enforce_file_format=True)
        except (ReadError, MemoryError):
            raise
        except Exception as error:  # pydicom and highdicom raise almost any exception on damaged elements
            raise ReadError(f"its header does not allow a parametric map ({type(error).__name__})") from None
    return RenderResult(b"", "application/dicom", {"written": out.name})


@dataclass(frozen=True)
class _Placed:
    """A map on pixels of its source.

    Attributes:
        sources: Headers of the source.
        values: float32 (N, rows, columns), for each source or its frames; (rows, columns) of a slide.
        how: Further arguments of the map: that it is tiled; and if it is coarser than any level, its place.
        tiled: Whether it is a slide.
    """

    sources: list[Dataset]
    values: np.ndarray
    how: dict[str, Any]
    tiled: bool = False


class _Map(ParametricMap):
    def copy_patient_and_study_information(self, dataset: Dataset) -> None:
        """Copy nothing: highdicom checks what it copies, quotes it in logs, and refuses much of what is in use."""


def _parametric_map(
    placed: _Placed, stored: StoredMap, model: str, digest: str, seed: str, instance: int
) -> ParametricMap:
    source = placed.sources[0]
    entropy = [seed, digest, source.StudyInstanceUID, source.SeriesInstanceUID, source.get("FrameOfReferenceUID", "")]
    pixels, mapping, window = _coded(placed, stored)
    made = _Map(
        source_images=placed.sources,
        pixel_array=pixels,
        series_instance_uid=generate_uid(entropy_srcs=[*entropy, "series of parametric maps"]),
        series_number=SERIES_NUMBER + 2,
        sop_instance_uid=generate_uid(entropy_srcs=[*entropy, source.SOPInstanceUID, "parametric map"]),
        instance_number=instance,
        manufacturer="softfree",
        manufacturer_model_name=short_text(model),
        software_versions=__version__,
        device_serial_number=digest[:64],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        content_label="HEATMAP",  # older versions of Slim show no other
        content_description="Map of a prediction, not of a finding",
        series_description=short_text(f"softfree {model}: map values"),
        specific_character_set=UTF8,
        **placed.how,
    )
    if not placed.tiled:
        made.Laterality = source.get("Laterality")
    _fix_dimension_uid(made, generate_uid(entropy_srcs=[*entropy, source.SOPInstanceUID, "dimensions"]))
    return made


def _coded(placed: _Placed, stored: StoredMap) -> tuple[np.ndarray, RealWorldValueMapping, VOILUTTransformation]:
    """Return the stored values, what they mean, and the window that shows all of them."""
    largest = float(np.abs(placed.values).max()) or 1.0
    steps = _MIDDLE if stored.signed else 2 * _MIDDLE
    value_range: tuple[Any, Any]
    if placed.tiled:
        pixels = (np.rint(placed.values * (steps / largest)) + (2 * _MIDDLE - steps)).astype(np.uint16)
        value_range, slope, intercept = (0, 2 * _MIDDLE), largest / steps, -largest if stored.signed else 0.0
    else:
        pixels = placed.values
        value_range, slope, intercept = (-largest if stored.signed else 0.0, largest), 1.0, 0.0
    mapping = RealWorldValueMapping(
        lut_label=stored.method[:16],
        lut_explanation=short_text(f"{stored.method}: {stored.target or 'any class'}"),
        unit=codes.UCUM.NoUnits,
        value_range=value_range,
        slope=slope,
        intercept=intercept,
        quantity_definition=_QUANTITIES.get(stored.method, codes.DCM.Saliency),
    )
    low, high = value_range
    window = VOILUTTransformation(
        window_center=(low + high) / 2, window_width=high - low, voi_lut_function="LINEAR_EXACT"
    )
    return pixels, mapping, window


_QUANTITIES = {"gradcam": codes.DCM.GradientWeightedClassActivation}


def _fix_dimension_uid(made: Dataset, uid: str) -> None:
    """Give the same file the same content each time; highdicom draws this UID at random."""
    for item in (*made.DimensionOrganizationSequence, *made.get("DimensionIndexSequence", ())):
        item.DimensionOrganizationUID = uid


def _placed(paths: Sequence[Path], stored: StoredMap) -> _Placed:
    first = _header(paths[0])
    if first.SOPClassUID == VLWholeSlideMicroscopyImageStorage:
        return _on_level([first, *map(_header, paths[1:])], stored)
    if "FrameOfReferenceUID" not in first:
        raise ReadError("it has no position in space, as most radiographs; its map can be an image only", "unsupported")
    if len(stored.grid.shape) == 2:
        return _on_image(first, stored)
    return _on_slices(paths[0], stored)


def _header(path: Path) -> Dataset:
    header = dcmread(path, stop_before_pixels=True, force=True)
    header.decode()
    for keyword in BARE:  # highdicom needs these and refuses much of what is in use; they are copied afterwards
        setattr(header, keyword, None)
    return header


def _on_image(header: Dataset, stored: StoredMap) -> _Placed:
    """Place the map of a single image; of a multi-frame file it is that of the first frame."""
    values = np.nan_to_num(stored.grid.spread(stored.values), nan=0.0)
    if values.shape != (header.Rows, header.Columns):
        raise ReadError("its map has other sides than its pixels", "unsupported")
    if frame_count(header) > 1:
        header.NumberOfFrames = 1
        if "PerFrameFunctionalGroupsSequence" in header:
            header.PerFrameFunctionalGroupsSequence = header.PerFrameFunctionalGroupsSequence[:1]
    return _Placed([header], values[None].astype(np.float32), {})


def _on_slices(path: Path, stored: StoredMap) -> _Placed:
    """Place the map of a volume on each slice of the series of a file."""
    geometry = read_geometry(path)
    assert geometry is not None
    series = make_series(path.parent, [(path, geometry)])
    if not series.multi_frame:
        series = next((one for one in series_in(path.parent) if path in one.files), series)
    frames = range(frame_count(geometry)) if series.multi_frame else [None] * len(series.files)
    headers = series.headers * (len(frames) if series.multi_frame else 1)
    slices = [Slice.parse(path, header, "slice", frame, []) for header, frame in zip(headers, frames, strict=True)]
    values = np.stack([_on_slice(slice_, stored) for slice_ in slices])
    return _Placed([_header(file) for file in series.files], values, {})


def _on_slice(slice_: Slice, stored: StoredMap) -> np.ndarray:
    """Return the values on the pixels of a slice, float32 (rows, columns): those of the token over each center."""
    grid = stored.grid
    assert grid.affine is not None
    to_voxels = np.linalg.inv(grid.affine)
    start = to_voxels[:3, :3] @ (_LPS_TO_RAS @ slice_.position) + to_voxels[:3, 3]
    down = to_voxels[:3, :3] @ (_LPS_TO_RAS @ slice_.along_column) * slice_.spacing[0]
    across = to_voxels[:3, :3] @ (_LPS_TO_RAS @ slice_.along_row) * slice_.spacing[1]
    rows, columns = np.arange(slice_.shape[0])[:, None], np.arange(slice_.shape[1])[None]
    known = np.ones(slice_.shape, bool)
    tokens = []
    for axis, count in enumerate(stored.values.shape):
        voxels = np.rint(start[axis] + rows * down[axis] + columns * across[axis]).astype(np.int64)
        of_voxel, covered = grid.tokens(axis, count)
        inside = (voxels >= 0) & (voxels < grid.shape[axis])
        voxels = voxels.clip(0, grid.shape[axis] - 1)
        known &= inside & covered[voxels]
        tokens.append(of_voxel[voxels])
    return np.where(known, stored.values[tuple(tokens)], 0).astype(np.float32)


def _on_level(headers: list[Dataset], stored: StoredMap) -> _Placed:
    """Place the map of a slide on the coarsest of its levels whose pixels are no larger than a token."""
    levels = sorted(headers, key=_pixels, reverse=True)
    if _sides(levels[0]) != stored.grid.shape:
        raise ReadError("the finest level of the slide is not the one that was read", "unsupported")
    fitting = [level for level in levels if _pixels(level) <= _LARGEST]
    if not fitting:
        return _on_coarser(levels[-1], stored)
    fine = [level for level in fitting if stored.grid.shape[0] / _sides(level)[0] <= min(stored.grid.step)]
    level = fine[-1] if fine else fitting[0]
    return _Placed([level], _spread(stored, _sides(level)), dict(_TILED), tiled=True)


def _on_coarser(level: Dataset, stored: StoredMap) -> _Placed:
    """Place the map of a slide without a small level on one that is coarser by a whole number of pixels."""
    factor = math.ceil(math.sqrt(_pixels(level) / _LARGEST))
    measures = level.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    origin = level.TotalPixelMatrixOriginSequence[0]
    offset = (float(origin.XOffsetInSlideCoordinateSystem), float(origin.YOffsetInSlideCoordinateSystem), 0.0)
    place = {
        "pixel_measures": PixelMeasuresSequence(
            [factor * float(side) for side in measures.PixelSpacing], float(measures.get("SliceThickness") or 0)
        ),
        "plane_orientation": PlaneOrientationSequence("SLIDE", [float(each) for each in level.ImageOrientationSlide]),
        "plane_positions": [PlanePositionSequence("SLIDE", offset, (1, 1))],
    }
    return _Placed([level], _spread(stored, _sides(level), factor), _TILED | place, tiled=True)


def _spread(stored: StoredMap, sides: tuple[int, int], factor: int = 1) -> np.ndarray:
    """Return the values on a level of a slide, or on every ``factor``-th of its pixels, float32 (rows, columns)."""
    height, width = (side / factor / whole for side, whole in zip(sides, stored.grid.shape, strict=True))
    own = scaled(stored.grid, (height, width), tuple(math.ceil(side / factor) for side in sides))
    return np.nan_to_num(own.spread(stored.values), nan=0.0)


def _pixels(header: Dataset) -> int:
    return math.prod(_sides(header))


def _sides(header: Dataset) -> tuple[int, int]:
    return int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns)
