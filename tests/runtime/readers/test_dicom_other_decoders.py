"""Real files against the decoders of GDCM (stored values) and DCMTK (what is shown), where those are installed.

GDCM is in ``python-gdcm``; DCMTK's ``dcmj2pnm`` and ``dcml2pnm`` are in Debian's package ``dcmtk``.
"""

import csv
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from softfree_runtime.readers.dicom import decode, read_dicom

pytestmark = pytest.mark.slow

# Where GDCM is wrong: each has a twin in another coding with the values that are ours, or pydicom's opinion.
NOT_BY_GDCM = (
    *("SC_rgb_rle_16bit.dcm", "SC_rgb_rle_32bit.dcm"),  # bytes of samples and planes mixed up
    "rtdose_expb.dcm",  # 32 bits, big-endian: bytes not swapped
    *("JLSL_16_15_1_1F.dcm", "J2K_pixelrep_mismatch.dcm"),  # signed values from codestreams without a sign
)
NOT_BY_DCMTK = ("rtdose_expb.dcm", "liver.dcm", "liver_1frame.dcm", "liver_expb_1frame.dcm")  # the last three: 1 bit
LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.91")
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")


def readable(folder):
    with (folder / "dicom" / "manifest.csv").open() as file:
        return [(folder / "dicom" / row["path"], row) for row in csv.DictReader(file) if row["expect"] == "ok"]


def stored_by_gdcm(gdcm, path):
    """Return the values of a file, and their colors; None where GDCM does not read it."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    if not reader.Read():
        return None
    image = reader.GetImage()
    form = image.GetPixelFormat()
    kinds = {"INT8": "i1", "UINT8": "u1", "INT16": "i2", "UINT16": "u2", "INT32": "i4", "UINT32": "u4"}
    kind, buffer = kinds.get(form.GetScalarTypeAsString()), image.GetBuffer()
    if kind is None or buffer is None:
        return None
    values = np.frombuffer(buffer.encode("utf-8", "surrogateescape"), kind)
    columns, rows, *frames = image.GetDimensions()
    if image.GetPlanarConfiguration() and form.GetSamplesPerPixel() == 3:
        values = np.moveaxis(values.reshape(*frames, 3, rows, columns), -3, -1)
    return values, str(image.GetPhotometricInterpretation())


def test_stored_values_are_those_of_gdcm(shared_data):
    gdcm = pytest.importorskip("gdcm")
    compared, different = 0, {}
    for path, row in readable(shared_data):
        result = None if path.name in NOT_BY_GDCM else stored_by_gdcm(gdcm, path)
        if result is None or result[1].startswith("YBR"):  # before the conversion to RGB
            continue
        pixels, _ = decode(path)
        off = np.abs(result[0].reshape(pixels.shape).astype(np.int64) - pixels.astype(np.int64)).max()
        compared += 1
        if off > (2 if row["transfer_syntax"] in LOSSY else 0):
            different[path.name] = int(off)
    assert compared > 80
    assert not different


def shown_by_dcmtk(path, row, steps, folder):
    """Return the image in 8 bits, with the window or table that ours was shown with; None where DCMTK has no image."""
    view = ["-W"]
    if any("VOI LUT" in step for step in steps):
        view = ["+Wl", "1"]
    elif any(step.startswith("window") for step in steps):
        view = ["+Wi", "1"]
    elif any("own" in step for step in steps):
        view = ["+Wm"]
    out = folder / "shown.pnm"
    out.unlink(missing_ok=True)
    tool = "dcml2pnm" if row["transfer_syntax"] in JPEG_LS else "dcmj2pnm"
    options = ["--write-raw-pnm", "--no-overlays", "--frame", "1", *view]
    subprocess.run([tool, *options, str(path), str(out)], capture_output=True, check=False)
    return np.array(Image.open(out), dtype=float) if out.exists() else None


def test_what_is_shown_is_what_dcmtk_shows(shared_data, tmp_path):
    if not shutil.which("dcmj2pnm"):
        pytest.skip("DCMTK is not installed")
    compared, different = 0, {}
    for path, row in readable(shared_data):
        if path.name in NOT_BY_DCMTK:
            continue
        image = read_dicom(path)
        theirs = shown_by_dcmtk(path, row, image.steps, tmp_path)
        if theirs is None:
            continue
        compared += 1
        off = np.abs(theirs.reshape(image.pixels.shape) - 255 * image.unit()).max()
        if off > 2.01:
            different[path.name] = float(off)
    assert compared > 60
    assert not different
