"""NIfTI."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from tests.corpus.case import Made, case

VOXELS = np.random.default_rng(0).integers(-500, 500, (5, 6, 7), dtype=np.int16)
TURNED = VOXELS.transpose(2, 1, 0)[None]  # to slices, rows, columns: the axes of the files run to R, A and S
MIRRORED = TURNED[..., ::-1]
SPACING = np.array([4.0, 3.0, 2.0])
RIGHT = {"voxels": TURNED, "spacing": SPACING}
LENGTH = VOXELS.nbytes


def content(voxels: np.ndarray = VOXELS, kind: type = nibabel.Nifti1Image, order: str = "<", **fields: Any) -> bytes:
    """Make a file of 2 x 3 x 4 mm, both placements alike, with any fields of its header overwritten."""
    image = kind(voxels, np.diag([2.0, 3.0, 4.0, 1.0]), dtype=voxels.dtype)
    image.set_qform(image.affine, code=1)
    image.set_sform(image.affine, code=1)
    image.header.set_xyzt_units("mm")
    header = image.header.as_byteswapped(order)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"] = header.sizeof_hdr + 4
    for name, value in fields.items():
        header[name] = value
    body = voxels.astype(voxels.dtype.newbyteorder(order)).tobytes(order="F")
    return header.binaryblock + bytes(4) + body


def made(folder: Path, data: bytes, right: dict[str, Any] | None = None, name: str = "a.nii", **arguments: Any) -> Made:
    (folder / name).write_bytes(data)
    return Made(folder / name, RIGHT if right is None else right, arguments=arguments)


# --- where the voxels begin


for declared in (0, 348, 100, -16, np.nan, 352.5):

    @case("NIfTI", f"vox_offset {declared:g} in a single file", "volume", "corrected", says="vox_offset is wrong")
    def bad_offset(folder: Path, declared: float = declared) -> Made:
        return made(folder, content(vox_offset=declared))


@case("NIfTI", "vox_offset 0, compressed", "volume", "corrected", says="vox_offset is wrong")
def bad_offset_compressed(folder: Path) -> Made:
    return made(folder, gzip.compress(content(vox_offset=0)), name="a.nii.gz")


@case("NIfTI", "vox_offset 348, voxels at byte 348", "volume", "corrected", says="vox_offset is wrong")
def offset_without_extender(folder: Path) -> Made:
    whole = content(vox_offset=348)
    return made(folder, whole[:348] + whole[352:])


@case("NIfTI", "vox_offset 0 and extra bytes", "volume", "refused", says="vox_offset 0 is in doubt")
def undecidable_offset(folder: Path) -> Made:
    return made(folder, content(vox_offset=0) + bytes(10))


@case("NIfTI", "vox_offset beyond the file", "volume", "refused", says="cut short")
def offset_beyond(folder: Path) -> Made:
    return made(folder, content(vox_offset=100_000))


@case("NIfTI", "vox_offset 0 in NIfTI-2", "volume", "corrected", says="vox_offset is wrong")
def bad_offset_of_two(folder: Path) -> Made:
    return made(folder, content(kind=nibabel.Nifti2Image, vox_offset=0))


def extension(size: int, content: int) -> bytes:
    return b"\1\0\0\0" + struct.pack("<ii", size, 4) + b"x" * (content - 8)


@case("NIfTI", "a header extension", "volume", "read")
def extended(folder: Path) -> Made:
    whole = content(vox_offset=384)
    return made(folder, whole[:348] + extension(32, 32) + whole[352:])


@case("NIfTI", "vox_offset into a header extension", "volume", "corrected", says="vox_offset is wrong")
def offset_into_extension(folder: Path) -> Made:
    whole = content(vox_offset=352)
    return made(folder, whole[:348] + extension(32, 32) + whole[352:])


for size in (0, -5, 7, 1 << 30):

    @case("NIfTI", f"a header extension of size {size}", "volume", "corrected", says="damaged header extension")
    def damaged_extension(folder: Path, size: int = size) -> Made:
        whole = content(vox_offset=384)
        return made(folder, whole[:348] + extension(size, 32) + whole[352:])


# --- pairs


def pair(folder: Path, ending: str = "", **fields: Any) -> Path:
    whole = content(magic=b"ni1", **fields)
    pack = gzip.compress if ending else bytes
    (folder / f"a.hdr{ending}").write_bytes(pack(whole[:348]))
    (folder / f"a.img{ending}").write_bytes(pack(whole[352:]))
    return folder / f"a.hdr{ending}"


@case("NIfTI", "a pair of .hdr and .img", "volume", "read")
def plain_pair(folder: Path) -> Made:
    return Made(pair(folder, vox_offset=0), RIGHT)


@case("NIfTI", "a compressed pair, named by its .img.gz", "volume", "read")
def compressed_pair(folder: Path) -> Made:
    pair(folder, ".gz", vox_offset=0)
    return Made(folder / "a.img.gz", RIGHT)


@case("NIfTI", "vox_offset 352 in a pair", "volume", "corrected", says="vox_offset is wrong")
def pair_with_offset(folder: Path) -> Made:
    return Made(pair(folder, vox_offset=352), RIGHT)


@case("NIfTI", "a pair without its .img", "volume", "refused", status="missing", says=".img file is not next to it")
def half_pair(folder: Path) -> Made:
    path = pair(folder, vox_offset=0)
    (folder / "a.img").unlink()
    return Made(path)


@case("NIfTI", "the magic of a pair in a single file", "volume", "corrected", says="magic of a pair")
def pair_magic(folder: Path) -> Made:
    return made(folder, content(magic=b"ni1"))


@case("NIfTI", "ANALYZE 7.5", "volume", "refused", status="unsupported", says="left from right")
def analyze(folder: Path) -> Made:
    whole = content(magic=b"")
    (folder / "a.img").write_bytes(whole[352:])
    return made(folder, whole[:348], name="a.hdr")


# --- compression and names


@case("NIfTI", ".nii.gz that is not compressed", "volume", "read")
def named_compressed(folder: Path) -> Made:
    return made(folder, content(), name="a.nii.gz")


@case("NIfTI", ".nii that is compressed", "volume", "read")
def named_plain(folder: Path) -> Made:
    return made(folder, gzip.compress(content()), name="a.nii")


@case("NIfTI", "a name without an extension", "volume", "read")
def without_ending(folder: Path) -> Made:
    return made(folder, content(), name="scan")


@case("NIfTI", "compressed twice", "volume", "refused", says="compressed twice")
def compressed_twice(folder: Path) -> Made:
    return made(folder, gzip.compress(gzip.compress(content())), name="a.nii.gz")


@case("NIfTI", "compressed in several members", "volume", "read")
def members(folder: Path) -> Made:
    whole = content()
    return made(
        folder, b"".join(gzip.compress(whole[at : at + 300]) for at in range(0, len(whole), 300)), name="a.nii.gz"
    )


@case("NIfTI", "gzip of stored blocks, one bit of a voxel flipped", "volume", "refused", says="CRC")
def flipped_bit(folder: Path) -> Made:
    packed = bytearray(gzip.compress(content(), 0))
    packed[600] ^= 64
    return made(folder, bytes(packed), name="a.nii.gz")


@case("NIfTI", "a wrong length in gzip's trailer", "volume", "refused", says="length")
def wrong_length(folder: Path) -> Made:
    packed = bytearray(gzip.compress(content()))
    packed[-2] ^= 1
    return made(folder, bytes(packed), name="a.nii.gz")


@case("NIfTI", "gzip without its trailer", "volume", "refused", says="end-of-stream")
def without_trailer(folder: Path) -> Made:
    return made(folder, gzip.compress(content())[:-8], name="a.nii.gz")


@case("NIfTI", "a wrong checksum after the frame that is read", "volume", "refused", says="CRC")
def checksum_behind_a_frame(folder: Path) -> Made:
    packed = bytearray(gzip.compress(content(np.stack([VOXELS] * 3, axis=-1)), 0))
    packed[-20] ^= 1
    return made(folder, bytes(packed), name="a.nii.gz", frame=0)


@case("NIfTI", "other bytes after the gzip stream", "volume", "corrected", says="bytes after")
def garbage_behind_gzip(folder: Path) -> Made:
    return made(folder, gzip.compress(content()) + b"<html>", name="a.nii.gz")


@case("NIfTI", "an extra gzip member", "volume", "corrected", says="bytes after")
def member_too_many(folder: Path) -> Made:
    return made(folder, gzip.compress(content()) + gzip.compress(b"x" * 100), name="a.nii.gz")


@case("NIfTI", "bytes after the last voxel", "volume", "corrected", says="bytes after")
def bytes_behind(folder: Path) -> Made:
    return made(folder, content() + bytes(100))


@case("NIfTI", "zlib without a gzip header", "volume", "refused", says="no NIfTI header")
def bare_deflate(folder: Path) -> Made:
    return made(folder, zlib.compress(content()), name="a.nii.gz")


@case("NIfTI", "4D, truncated after the frame that is read", "volume", "corrected", says="cut short after")
def cut_behind(folder: Path) -> Made:
    return made(folder, content(np.stack([VOXELS] * 3, axis=-1))[:-10], frame=1)


@case("NIfTI", "4D, truncated within the frame that is read", "volume", "refused", says="cut short")
def cut_within(folder: Path) -> Made:
    return made(folder, content(np.stack([VOXELS] * 3, axis=-1))[:-10], frame=2)


# --- numbers


@case("NIfTI", "big-endian", "volume", "read")
def big_endian(folder: Path) -> Made:
    return made(folder, content(order=">"))


@case("NIfTI", "4D with one frame", "volume", "read")
def one_frame(folder: Path) -> Made:
    return made(folder, content(VOXELS[..., None]))


@case("NIfTI", "a wrong sizeof_hdr", "volume", "corrected", says="sizeof_hdr")
def header_size(folder: Path) -> Made:
    return made(folder, content(sizeof_hdr=0))


for dimensions in (0, 9, -1):

    @case("NIfTI", f"{dimensions} dimensions", "volume", "refused", says="number of dimensions")
    def no_dimensions(folder: Path, dimensions: int = dimensions) -> Made:
        return made(folder, content(dim=[dimensions, 5, 6, 7, 1, 1, 1, 1]))


@case("NIfTI", "dim[0] of 3 in a 4D file", "volume", "refused", says="more than its dimensions account for")
def dimension_unsaid(folder: Path) -> Made:
    return made(folder, content(np.stack([VOXELS] * 2, axis=-1), dim=[3, 5, 6, 7, 2, 1, 1, 1]))


@case("NIfTI", "many bytes after the last voxel", "volume", "refused", says="more than its dimensions account for")
def many_behind(folder: Path) -> Made:
    return made(folder, gzip.compress(content() + bytes(5000)), name="a.nii.gz")


@case("NIfTI", "4D with dim[4] of 0", "volume", "corrected", says="a dimension of 0")
def zero_frames(folder: Path) -> Made:
    return made(folder, content(dim=[4, 5, 6, 7, 0, 0, 0, 0]))


@case("NIfTI", "a negative dimension", "volume", "refused", status="unsupported", says="5 x -6 x 7")
def negative_dimension(folder: Path) -> Made:
    return made(folder, content(dim=[3, 5, -6, 7, 1, 1, 1, 1]))


@case("NIfTI", "a file too short for its dimensions", "volume", "refused", says="cut short")
def dimensions_too_large(folder: Path) -> Made:
    return made(folder, gzip.compress(content(dim=[3, 1000, 1000, 900, 1, 1, 1, 1])), name="a.nii.gz")


@case("NIfTI", "bitpix that contradicts the datatype", "volume", "corrected", says="bitpix")
def wrong_bitpix(folder: Path) -> Made:
    return made(folder, content(bitpix=8))


for code in (0, 1, 255, 7):

    @case("NIfTI", f"datatype {code}", "volume", "refused", status="unsupported", says=f"datatype {code}")
    def no_datatype(folder: Path, code: int = code) -> Made:
        return made(folder, content(datatype=code))


for code, name in ((128, "RGB"), (2304, "RGB"), (32, "complex64")):

    @case("NIfTI", f"datatype {code} ({name})", "volume", "refused", status="unsupported", says=name)
    def other_numbers(folder: Path, code: int = code) -> Made:
        return made(folder, content(datatype=code))


@case("NIfTI", "a vector at each voxel", "volume", "refused", status="unsupported", says="5 x 6 x 7 x 1 x 3")
def vectors(folder: Path) -> Made:
    return made(folder, content(np.stack([VOXELS] * 3, axis=-1)[..., None, :], intent_code=1007))


# --- slope and intercept


@case("NIfTI", "a slope and an intercept", "volume", "read")
def scaled(folder: Path) -> Made:
    return made(folder, content(scl_slope=0.5, scl_inter=-3), RIGHT | {"voxels": TURNED * 0.5 - 3})


@case("NIfTI", "scl_slope 0", "volume", "read")
def slope_zero(folder: Path) -> Made:
    return made(folder, content(scl_slope=0))


@case("NIfTI", "scl_slope 0 with an intercept", "volume", "corrected", says="scl_inter without scl_slope")
def intercept_alone(folder: Path) -> Made:
    return made(folder, content(scl_slope=0, scl_inter=5))


for slope in (np.nan, np.inf, -np.inf):

    @case("NIfTI", f"scl_slope {slope}", "volume", "corrected", says="scl_slope is not finite")
    def slope_not_finite(folder: Path, slope: float = slope) -> Made:
        return made(folder, content(scl_slope=slope, scl_inter=3))


for intercept in (np.nan, np.inf):

    @case("NIfTI", f"scl_inter {intercept}", "volume", "refused", says="scl_inter is not finite")
    def intercept_not_finite(folder: Path, intercept: float = intercept) -> Made:
        return made(folder, content(scl_slope=2, scl_inter=intercept))


# --- orientation and position

ZEROS = {f"srow_{axis}": [0, 0, 0, 0] for axis in "xyz"}
LEFT = {"srow_x": [-2, 0, 0, 0]}
BACK = {"srow_y": [0, -3, 0, 0]}


@case("NIfTI", "an sform of zeros, a good qform", "volume", "corrected", says="placed by the qform")
def sform_of_zeros(folder: Path) -> Made:
    return made(folder, content(**ZEROS))


@case("NIfTI", "an sform that is not finite, a good qform", "volume", "corrected", says="placed by the qform")
def sform_not_finite(folder: Path) -> Made:
    return made(folder, content(srow_y=[np.nan, 0, 0, 0]))


@case("NIfTI", "an sform with two collinear axes, a good qform", "volume", "corrected", says="placed by the qform")
def sform_flat(folder: Path) -> Made:
    return made(folder, content(srow_y=[0, 0, 0, 0], srow_x=[2, 3, 0, 0]))


@case("NIfTI", "a sheared sform, a good qform", "volume", "corrected", says="sheared: placed by the qform")
def sform_sheared(folder: Path) -> Made:
    return made(folder, content(srow_x=[2, 0.5, 0, 0]))


@case("NIfTI", "an sform of zeros and no qform", "volume", "refused", says="0 x 0 x 0 mm")
def sform_of_zeros_alone(folder: Path) -> Made:
    return made(folder, content(qform_code=0, **ZEROS))


for name, fields in {
    "an invalid quaternion": {"quatern_b": 2},
    "a quaternion that is not finite": {"quatern_c": np.nan},
    "a voxel size of 0": {"pixdim": [1, 0, 3, 4, 1, 1, 1, 1]},
}.items():

    @case("NIfTI", f"a good sform, a qform with {name}", "volume", "corrected", says="qform cannot be used")
    def qform_broken(folder: Path, fields: dict[str, Any] = fields) -> Made:
        return made(folder, content(**fields))

    @case("NIfTI", f"no sform, a qform with {name}", "volume", "refused", says="")
    def qform_broken_alone(folder: Path, fields: dict[str, Any] = fields) -> Made:
        return made(folder, content(sform_code=0, **fields))


@case("NIfTI", "sform and qform of opposite handedness", "volume", "refused", says="left and right may be exchanged")
def opposite_hands(folder: Path) -> Made:
    return made(folder, content(**LEFT))


@case("NIfTI", "pixdim[0] of -1 against the sform", "volume", "refused", says="left and right may be exchanged")
def opposite_factor(folder: Path) -> Made:
    return made(folder, content(pixdim=[-1, 2, 3, 4, 1, 1, 1, 1]))


@case("NIfTI", "a sheared sform of the other handedness", "volume", "refused", says="left and right may be exchanged")
def sheared_and_opposite(folder: Path) -> Made:
    return made(folder, content(srow_x=[-2, 0.5, 0, 0]))


@case("NIfTI", "sform and qform half a turn apart", "volume", "corrected", says="differ in the directions")
def half_a_turn(folder: Path) -> Made:
    turned = {"voxels": TURNED[..., ::-1, ::-1], "spacing": SPACING}
    return made(folder, content(sform_code=2, **LEFT, **BACK), turned)


@case("NIfTI", "sform and qform 10 degrees apart in one space", "volume", "corrected", says="differ in the directions")
def turned_a_little(folder: Path) -> Made:
    sine, cosine = np.sin(np.radians(10)), np.cos(np.radians(10))
    rows = {"srow_x": [2 * cosine, -3 * sine, 0, 0], "srow_y": [2 * sine, 3 * cosine, 0, 0]}
    return made(folder, content(**rows))


@case("NIfTI", "an sform to a template, 10 degrees from the scanner's qform", "volume", "read")
def to_a_template(folder: Path) -> Made:
    sine, cosine = np.sin(np.radians(10)), np.cos(np.radians(10))
    rows = {"srow_x": [2 * cosine, -3 * sine, 0, 0], "srow_y": [2 * sine, 3 * cosine, 0, 0]}
    return made(folder, content(sform_code=4, **rows))


@case("NIfTI", "an sform whose voxel sizes differ from pixdim", "volume", "corrected", says="differ from pixdim")
def other_sizes(folder: Path) -> Made:
    return made(folder, content(srow_x=[2.5, 0, 0, 0]), RIGHT | {"spacing": np.array([4.0, 3.0, 2.5])})


@case("NIfTI", "sform and qform codes 0", "volume", "corrected", says="axes taken as LAS")
def no_codes(folder: Path) -> Made:
    return made(folder, content(sform_code=0, qform_code=0), {"voxels": MIRRORED, "spacing": SPACING})


@case("NIfTI", "a qform alone", "volume", "read")
def qform_alone(folder: Path) -> Made:
    return made(folder, content(sform_code=0, **ZEROS))


@case("NIfTI", "a qform alone whose pixdim[0] is -1", "volume", "read")
def qform_of_the_left_hand(folder: Path) -> Made:
    data = content(sform_code=0, pixdim=[-1, 2, 3, 4, 1, 1, 1, 1])
    return made(folder, data, {"voxels": TURNED[:, ::-1], "spacing": SPACING})


@case("NIfTI", "a qform alone whose pixdim[0] is 0", "volume", "read")
def qform_without_factor(folder: Path) -> Made:
    return made(folder, content(sform_code=0, pixdim=[0, 2, 3, 4, 1, 1, 1, 1]))


@case("NIfTI", "a qform alone whose pixdim[0] is 4", "volume", "corrected", says="pixdim[0] is neither 1 nor -1")
def qform_of_another_factor(folder: Path) -> Made:
    return made(folder, content(sform_code=0, pixdim=[4, 2, 3, 4, 1, 1, 1, 1]))


@case("NIfTI", "a qform alone whose pixdim[0] is -3", "volume", "refused", says="the qform")
def qform_of_no_hand(folder: Path) -> Made:
    return made(folder, content(sform_code=0, pixdim=[-3, 2, 3, 4, 1, 1, 1, 1]))


@case("NIfTI", "negative voxel sizes", "volume", "corrected", says="negative voxel sizes")
def negative_sizes(folder: Path) -> Made:
    return made(folder, content(sform_code=0, pixdim=[1, 2, -3, 4, 1, 1, 1, 1]))


for unit, factor in ((1, 1000.0), (3, 1e-3)):

    @case("NIfTI", f"lengths in {'meters' if unit == 1 else 'microns'}", "volume", "read")
    def other_unit(folder: Path, unit: int = unit, factor: float = factor) -> Made:
        small = 1e-3 if unit == 1 else 1.0
        rows = {f"srow_{axis}": np.eye(4)[n] * (2, 3, 4)[n] * small for n, axis in enumerate("xyz")}
        data = content(xyzt_units=unit, pixdim=[1, 2 * small, 3 * small, 4 * small, 1, 1, 1, 1], **rows)
        return made(folder, data, {"voxels": TURNED, "spacing": SPACING * small * factor})


@case("NIfTI", "meter-sized voxels", "volume", "refused", says="repair xyzt_units")
def huge_voxels(folder: Path) -> Made:
    return made(folder, content(xyzt_units=1))


@case("NIfTI", "an unknown unit of length", "volume", "corrected", says="unknown unit of length")
def unknown_unit(folder: Path) -> Made:
    return made(folder, content(xyzt_units=5))


for size in (1e-7, 1e5):

    @case("NIfTI", f"voxels of {size:g} mm", "volume", "refused", says="which no body has")
    def impossible_size(folder: Path, size: float = size) -> Made:
        data = content(sform_code=0, pixdim=[1, size, 3, 4, 1, 1, 1, 1])
        return made(folder, data)
