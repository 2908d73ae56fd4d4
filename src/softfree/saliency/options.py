"""Options of explanation maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from softfree.core.options import Precision, StreamOptions

MapMethod = Literal["integrated", "occlusion", "split", "gradient", "gradcam", "rollout", "attention"]
MapFormat = Literal["png", "nifti", "geojson", "tiff", "dicom"]


@dataclass(kw_only=True)
class ExplainOptions(StreamOptions):
    """Explanation.

    Attributes:
        method: 'integrated' (gradients), 'occlusion', 'split' (exact decomposition of the logit in the last layer),
            'gradient' (times input), 'gradcam', 'rollout' or 'attention'; default: the first two and their agreement,
            or split and gradcam if the sample is streamed.
        target: Class to explain; default: the predicted one. Of a run of several targets: TARGET, or TARGET.CLASS.
        layer: Layer for attention, gradient and gradcam, from 0.
        head: Head for attention, from 0; default: the mean over heads.
        at: Position of the token whose attention is shown, as fractions of width, height (and
            depth), e.g. '[0.5, 0.5]'; default: the class token, or the center.
        out: Folder for the files.
        format: File format; default: png for images (reduced above 8192 pixels a side, unlike tiff), nifti in three
            dimensions, geojson and tiff for slides.
        dicom_identity: Copy the patient's name and ID, and the study's number and date, into the DICOM file.
        frame: Frame of multi-frame files, counted from 0; default: the first.
        image_root: Folder that the paths of tables start from and that must contain all files; default: each table's
            folder.
        quantile: Regions are connected tokens above this quantile of the map.
        precision: Arithmetic of matrix products.
        progress: Show a progress bar.
    """

    method: MapMethod | None = None
    target: str | None = None
    layer: int | None = None
    head: int | None = None
    at: list[float] | None = None
    out: Path = Path("maps")
    format: MapFormat | None = None
    dicom_identity: bool = False
    frame: int | None = None
    image_root: Path | None = None
    quantile: float = 0.9
    precision: Precision = "fp32"
    progress: bool = True
