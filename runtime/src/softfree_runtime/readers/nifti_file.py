"""Header and voxels of a NIfTI file, compressed or not, a single file or a pair."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from gzip import BadGzipFile, GzipFile
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from softfree_runtime.core.errors import ReadError

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header

ENDINGS = (".nii", ".nii.gz", ".hdr", ".hdr.gz")
GZIP = b"\x1f\x8b"
HEAD = 352  # bytes that identify any NIfTI file
_SWELLS = 1032  # maximum compression ratio of deflate
_BEHIND = 1 << 28  # maximum bytes after the voxels to unpack for the checksum
_MUCH = 4096  # bytes after the voxels beyond padding, if they make a slice
_WRONG_START = "vox_offset is wrong: the start of the voxels is derived from the file's length"
_PAIRS = {".hdr": ".img", ".img": ".hdr"}


def is_nifti(head: bytes) -> bool:
    """Return whether ``head``, the first bytes of an uncompressed file, are those of a NIfTI file."""
    return head[4:7] in (b"n+2", b"ni2") or head[344:347] in (b"n+1", b"ni1")


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading, through gzip if its content is compressed, whatever its name."""
    with path.open("rb") as file:
        if file.peek(len(GZIP)).startswith(GZIP):
            with GzipFile(fileobj=file) as stream:
                yield stream  # type: ignore[misc]
        else:
            yield file


def is_nifti_file(path: Path) -> bool:
    """Return whether a file is NIfTI by its content, or should be by its name."""
    if path.name.lower().endswith(ENDINGS):
        return True
    if not os.path.isfile(path):  # a pipe would block
        return False
    try:
        with unpacked(path) as stream:
            return is_nifti(stream.read(HEAD))
    except (OSError, EOFError, zlib.error):
        return False


def header_and_voxels(path: Path) -> tuple[Path, Path]:
    """Return the files of the header and of the voxels: the same file unless it is a pair of .hdr and .img.

    Raises:
        ReadError: One file of a pair is missing.
    """
    stem, packed = (path.with_suffix(""), ".gz") if path.suffix.lower() == ".gz" else (path, "")
    other = _PAIRS.get(stem.suffix.lower())
    if other is None:
        return path, path
    with unpacked(path) as stream:
        known = _known_by(stream.read(HEAD))
    if (known is not None and known[1]) or (known is None and other == ".img"):
        return path, path
    mates = [stem.with_suffix(suffix + end) for suffix in (other, other.upper()) for end in (packed, "", ".gz")]
    mate = next((file for file in mates if file.is_file()), None)
    if mate is None:
        raise ReadError(f"half of a NIfTI pair; its {other} file is not next to it", "missing", path=path)
    return (path, mate) if other == ".img" else (mate, path)


def read_header(path: Path, stream: IO[bytes]) -> tuple[Nifti1Header, tuple[str, ...]]:
    """Read the raw header, and return it with what was corrected.

    Raises:
        ReadError: Not NIfTI, or no valid number of dimensions in either byte order.
    """
    head = stream.read(HEAD)
    known = _known_by(head)
    if known is None:
        raise _no_nifti(path, head)
    kind = known[0]
    head += stream.read(max(0, kind.sizeof_hdr - len(head)))
    if len(head) < kind.sizeof_hdr:
        raise ReadError("damaged NIfTI, cut short within its header; copy it again", path=path)
    orders = [kind(head[: kind.sizeof_hdr], order, check=False) for order in "<>"]
    header = next((order for order in orders if 1 <= order["dim"][0] <= 7), None)
    if header is None:
        raise ReadError("damaged NIfTI: its number of dimensions is not 1 to 7; repair the header", path=path)
    wrong = int(header["sizeof_hdr"]) != kind.sizeof_hdr
    return header, ("sizeof_hdr is wrong: the header is identified by its magic",) if wrong else ()


def read_voxels(
    path: Path, stream: IO[bytes], header: Nifti1Header, shape: tuple[int, ...], frame: int, count: int, single: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read one volume as stored, and the file to its end, where gzip stores its checksum.

    Args:
        path: Path of the file, for messages.
        stream: File of the voxels.
        header: Header from :func:`read_header`.
        shape: Shape of one volume, ``(I, J, K)``.
        frame: Number of the volume.
        count: Number of volumes.
        single: Whether the header is in the same file.

    Returns:
        ``(I, J, K)`` in the file's byte order, and what was corrected.

    Raises:
        ReadError: The file is cut short or damaged, or the start of its voxels is unknown.
    """
    dtype = header.get_data_dtype()
    size = math.prod(shape) * dtype.itemsize
    largest = os.fstat(stream.fileno()).st_size * (_SWELLS if isinstance(stream, GzipFile) else 1)
    if size > largest:  # before memory is allocated for it
        raise ReadError(f"damaged NIfTI, cut short: expected {size} bytes of voxels; copy it again", path=path)
    find_start = _start_in_single if single else _start_in_pair
    start, corrections = find_start(path, stream, header, size * count)
    if start > largest:
        raise ReadError("damaged NIfTI, cut short before its voxels; copy it again", path=path)
    stream.seek(start + frame * size)
    raw = np.empty(size, np.uint8)
    if (got := stream.readinto(raw)) < size:  # type: ignore[attr-defined]
        raise ReadError(f"damaged NIfTI, cut short: {got} bytes of voxels, expected {size}; copy it again", path=path)
    expected = (count - 1 - frame) * size
    behind, sound = _read_to_end(path, stream, expected)
    _refuse_many_behind(path, header, behind - expected, size, count)
    if behind < expected:
        corrections += ("cut short after the frame that was read",)
    elif behind > expected or not sound:
        corrections += ("bytes after the last voxel, ignored",)
    return raw.view(dtype).reshape(shape, order="F"), corrections


def _no_nifti(path: Path, head: bytes) -> ReadError:
    if 348 in (int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")) and ".nii" not in path.name.lower():
        return ReadError(
            "ANALYZE 7.5, which does not distinguish left from right; convert it", "unsupported", path=path
        )
    why = "compressed twice, unpack it once" if head.startswith(GZIP) else "no NIfTI header, copy it again"
    return ReadError(f"damaged NIfTI, or another format: {why}", path=path)


def _known_by(head: bytes) -> tuple[type[Nifti1Header], bool] | None:
    """Return the kind of header and whether the voxels are in the same file; None if it is not NIfTI."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    for kind, magic in ((Nifti2Header, head[4:7]), (Nifti1Header, head[344:347])):
        if magic in (kind.single_magic[:3], kind.pair_magic[:3]):
            return kind, magic == kind.single_magic[:3]
    return None


def _start_in_pair(path: Path, stream: IO[bytes], header: Nifti1Header, size: int) -> tuple[int, tuple[str, ...]]:
    """Return the byte of the .img where ``size`` bytes of voxels begin, which is nearly always 0."""
    offset = float(header["vox_offset"])
    if offset == 0:
        return 0, ()
    right = _read_to_end(path, stream, size)[0] - size
    if right not in (0, offset):
        raise _in_doubt(path, offset)
    return right, () if right == offset else (_WRONG_START,)


def _start_in_single(path: Path, stream: IO[bytes], header: Nifti1Header, size: int) -> tuple[int, tuple[str, ...]]:
    """Return the byte where ``size`` bytes of voxels begin; if the header is doubtful, the file's length decides."""
    offset, first = float(header["vox_offset"]), header.sizeof_hdr + 4
    declared = int(offset) if offset >= first and offset.is_integer() else None
    stream.seek(header.sizeof_hdr)
    extended = stream.read(1) not in (b"", b"\0")
    sound = declared is not None and not (extended and not _extensions_end_at(stream, header, declared))
    of_pair = header["magic"].item().startswith(header.pair_magic[:3])
    if declared is not None and sound and not of_pair:
        return declared, ()
    stream.seek(0)
    right = _read_to_end(path, stream, size)[0] - size
    possible = (first, header.sizeof_hdr) if declared is None else (first, declared)
    if right not in possible and not (extended and _extensions_end_at(stream, header, right)):
        raise _in_doubt(path, offset)
    if right != declared:
        return right, (_WRONG_START,)
    return right, ("magic of a pair in a single file" if sound else "damaged header extension, ignored",)


def _refuse_many_behind(path: Path, header: Nifti1Header, behind: int, size: int, count: int) -> None:
    """Refuse a file with so many bytes after its voxels that its dimensions cannot be right."""
    dtype, dim = header.get_data_dtype(), [max(1, int(side)) for side in header["dim"][1:]]
    undeclared = math.prod(dim) * dtype.itemsize - size * count  # of dimensions beyond dim[0]
    if behind > 0 and (behind == undeclared or behind >= max(_MUCH, dim[0] * dim[1] * dtype.itemsize)):
        raise ReadError(
            f"damaged NIfTI: {behind} bytes more than its dimensions account for; repair dim in the header", path=path
        )


def _in_doubt(path: Path, offset: float) -> ReadError:
    return ReadError(
        f"damaged NIfTI: vox_offset {offset:g} is in doubt, and the file's length does not show where the"
        " voxels begin; repair the header",
        path=path,
    )


def _extensions_end_at(stream: IO[bytes], header: Nifti1Header, position: int) -> bool:
    """Return whether the header's extensions, by their sizes, end at ``position``."""
    first = end = header.sizeof_hdr + 4
    while end < position:
        stream.seek(end)
        size = int.from_bytes(stream.read(4), "little" if header.endianness == "<" else "big")
        if size == 0 and end > first:  # padding
            return True
        if size < 8:
            return False
        end += size
    return end == position > first


def _read_to_end(path: Path, stream: IO[bytes], expected: int) -> tuple[int, bool]:
    """Return how many bytes remain, and whether the stream ends properly."""
    if not isinstance(stream, GzipFile):
        return max(0, os.fstat(stream.fileno()).st_size - stream.tell()), True
    count = 0
    try:
        while piece := stream.read(1 << 20):
            count += len(piece)
            if count > expected + _BEHIND:
                raise ReadError("damaged NIfTI: far more bytes than its header accounts for; repair it", path=path)
    except BadGzipFile as error:
        if not str(error).startswith("Not a gzipped file"):  # a wrong checksum or length
            raise
        return count, False  # a complete member, followed by something else
    return count, True
