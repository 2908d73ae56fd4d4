"""The writer of small DICOM files, shared with the tests of the readers."""

from tests.runtime.readers.conftest import write_dicom

__all__ = ["write_dicom"]
