"""Endings of file names that readers look at."""

ENDINGS = (
    ".nii.gz", ".hdr.gz", ".img.gz", ".nii", ".hdr", ".img", ".dcm", ".dicom", ".ima", ".png", ".jpg", ".jpeg", ".bmp",
    ".gif", ".webp", ".tif", ".tiff", ".svs", ".ndpi", ".scn", ".bif", ".vms", ".mrxs", ".h5", ".hdf5",
)  # fmt: skip
"""Longer ones first; what follows another dot, as in UIDs and numbered files, is a part of the name."""


def ending_of(name: str) -> str:
    """Return the known ending of a file name in lower case; empty if it has none."""
    lower = name.lower()
    return next((ending for ending in ENDINGS if lower.endswith(ending)), "")
