"""Maps of predictions as secondary captures in the study of their source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread

from softfree.saliency.dicom_file import write_secondary_capture
from softfree.serving.hospital.results import SERIES_NUMBER, copy_patient_and_study, read_header, short_text
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.quiet import quiet

_BAND = "Not a medical device"


@dataclass(frozen=True)
class MapImage:
    """A map over its image.

    Attributes:
        file: A file that Pillow reads.
        sources: Numbers of the files of the sample that it shows, counted from 0.
        note: Which part it shows; empty for a whole image.
    """

    file: Path
    sources: tuple[int, ...] = (0,)
    note: str = ""


def write_map(
    path: Path, map_image: MapImage, sources: Sequence[Path], *, model: str, predicted: str, seed: str
) -> None:
    """Write a map as a secondary capture, in a new series of its source's study and with its patient.

    A band below the map says in its pixels that it comes from no medical device, since viewers show few headers.

    Args:
        path: The DICOM file.
        map_image: The map over its image.
        sources: The DICOM files of the sample.
        model: Name of the model.
        predicted: What it predicted, for the description.
        seed: Makes the UIDs; the same source, model and seed give the same again.

    Raises:
        ReadError: The map cannot be read, or an element of the source's patient or study is damaged.
    """
    try:
        with Image.open(map_image.file) as opened:
            painted = _with_band(opened.convert("RGB"), f"softfree {model}")
    except (OSError, ValueError, Image.DecompressionBombError):
        raise ReadError("the map is no image that can be read") from None
    first, *others = (sources[number] for number in map_image.sources)
    name = short_text(f"softfree {model}: map")
    header = read_header(first)
    write_secondary_capture(
        path,
        np.asarray(painted),
        str(first),
        name=name,
        description=_BAND,
        series_number=SERIES_NUMBER + 1,
        seed=f"{model} {seed} {path.name}",
        further=list(map(str, others)),
    )
    with quiet():
        capture = dcmread(path)
        capture.decode()
        copy_patient_and_study(header, capture)
        capture.SeriesDescription = name
        capture.DerivationDescription = about_map(model, predicted, map_image.note)
        capture.save_as(path, enforce_file_format=True)


def about_map(model: str, predicted: str, more: str = "") -> str:
    """Say what a map is, in at most 1024 characters (value representation ST)."""
    about = f"Predicted: {predicted}. " if predicted else ""
    last = f" {more[0].upper()}{more[1:].rstrip('.')}." if more else ""
    return f"Map of a prediction of {model}. {about}{_BAND}.{last}"[:1024]


def _with_band(image: Image.Image, title: str) -> Image.Image:
    """Return the image with two lines of text below it, as large as its width allows."""
    width, height = max(image.width, 96), image.height
    lines = [title, _BAND]
    font = ImageFont.load_default(size=max(9, min(28, width // 24)))
    while len(lines[0]) > 9 and font.getlength(lines[0]) > width:
        lines[0] = lines[0][:-4] + "..."
    step = int(font.getbbox("Ag")[3] * 1.25)
    whole = Image.new("RGB", (width, height + 2 * step + 2))
    whole.paste(image)
    draw = ImageDraw.Draw(whole)
    for number, line in enumerate(lines):
        draw.text((2, height + 1 + number * step), line, fill=(255, 255, 255), font=font)
    return whole
