"""Files of tile features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from tests.corpus.case import Made, case

FEATURES = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
GRID = np.array([[x, y] for y in range(2) for x in range(3)])
HALF = 0.5 / 4  # as part of the four tiles of a millimeter
RIGHT = {"features": FEATURES, "coords_mm": GRID * 0.25 + HALF}  # tiles of 0.25 mm


def written(folder: Path, fill: Callable[[h5py.File], None]) -> Path:
    with h5py.File(folder / "a.h5", "w") as file:
        fill(file)
    return folder / "a.h5"


def bag(
    folder: Path,
    coords: Any = None,
    features: Any = FEATURES,
    name: str = "features",
    of_coords: dict[str, Any] | None = None,
    **of_file: Any,
) -> Path:
    def fill(file: h5py.File) -> None:
        file[name] = features
        if coords is not None:
            file["coords"] = coords
            file["coords"].attrs.update(of_coords or {})
        file.attrs.update(of_file)

    return written(folder, fill)


# --- units

PX = GRID * 1000  # of 0.25 um
SIZE = {"patch_size_level0": 1000}

for unit, size in {
    "mm": 0.25, "millimeters": 0.25, "um": 250, "µm": 250, "μm": 250, "microns": 250, "micrometer": 250, "nm": 250_000,
}.items():  # fmt: skip

    @case("Features", f"STAMP, unit {unit}", "features", "read")
    def stamp(folder: Path, unit: str = unit, size: float = size) -> Made:
        path = bag(folder, GRID * float(size), name="feats", unit=unit, tile_size=float(size))
        return Made(path, RIGHT, arguments={"mpp": 0.5})


for name, of_coords in {
    "as bytes": {"unit": np.bytes_("mm")},
    "as an array": {"units": np.array(["mm"], object)},
}.items():

    @case("Features", f"TRIDENT, coordinate unit {name}", "features", "read")
    def unit_of_coords(folder: Path, of_coords: dict[str, Any] = of_coords) -> Made:
        path = bag(folder, GRID * 0.25, of_coords={"tile_size": 0.25} | of_coords)
        return Made(path, RIGHT, arguments={"mpp": 0.5})


for unit in ("px", "pixels"):

    @case("Features", f"unit {unit}", "features", "read")
    def in_pixels(folder: Path, unit: str = unit) -> Made:
        return Made(bag(folder, PX, of_coords=SIZE, unit=unit), RIGHT, arguments={"mpp": 0.25})


@case("Features", "an unknown unit", "features", "refused", status="unsupported", says="unknown unit")
def unknown_unit(folder: Path) -> Made:
    return Made(bag(folder, PX, unit="furlong"), arguments={"mpp": 0.25})


@case("Features", "micrometers declared as mm", "features", "refused", says="more than any slide")
def impossible_unit(folder: Path) -> Made:
    return Made(bag(folder, PX, unit="mm"))


# --- STAMP before it said its unit

HISTORIC = {"features": FEATURES, "coords_mm": GRID * 0.256 + 0.128}

for name, attributes in {"": {}, ", tile_size 224": {"tile_size": 224}, ", unit px": {"unit": "px"}}.items():

    @case("Features", f"early STAMP, steps of 224{name}", "features", "corrected", says="256 um of early STAMP")
    def historic(folder: Path, attributes: dict[str, Any] = attributes) -> Made:
        path = bag(folder, GRID * 224, name="feats", extractor="ctp", **attributes)
        return Made(path, HISTORIC, arguments={"mpp": 0.25})


@case("Features", "early STAMP, with gaps between the tiles", "features", "corrected", says="256 um of early STAMP")
def historic_gaps(folder: Path) -> Made:
    positions = np.array([[0, 0], [672, 0], [896, 0], [0, 2240], [448, 448], [1120, 448]])
    right = {"features": FEATURES, "coords_mm": positions / 224 * 0.256 + 0.128}
    return Made(bag(folder, positions, name="feats"), right)


@case("Features", "TRIDENT, steps of 224", "features", "read")
def steps_of_trident(folder: Path) -> Made:
    path = bag(folder, GRID * 224, of_coords={"patch_size_level0": 224})
    return Made(path, {"coords_mm": GRID * 0.056 + 0.028}, arguments={"mpp": 0.25})


@case("Features", "STAMP, tile_size_um and steps of 224", "features", "read")
def steps_of_stamp(folder: Path) -> Made:
    path = bag(folder, GRID * 224.0, name="feats", tile_size_um=224.0)
    return Made(path, {"coords_mm": GRID * 0.224 + 0.112})


# --- attributes and coordinates of other types

for name, size in {
    "text": "1000", "bytes": np.bytes_("1000"), "an array": np.array([1000]), "a pair": [1000, 1000],
    "a floating-point number": 1000.0,
}.items():  # fmt: skip

    @case("Features", f"TRIDENT, patch_size_level0 as {name}", "features", "read")
    def size_of_a_type(folder: Path, size: Any = size) -> Made:
        return Made(bag(folder, PX, of_coords={"patch_size_level0": size}), RIGHT, arguments={"mpp": 0.25})


@case("Features", "TRIDENT, tiles that are not square", "features", "read")
def not_square(folder: Path) -> Made:
    path = bag(folder, PX, of_coords={"patch_size_level0": [1000, 500]})
    return Made(path, {"coords_mm": GRID * 0.25 + [HALF, HALF / 2]}, arguments={"mpp": 0.25})


for size in ("large", np.nan, -512, np.inf, [1, 2, 3]):

    @case(
        "Features",
        f"TRIDENT, patch_size_level0 {size}",
        "features",
        "refused",
        says="patch_size_level0 is not a length",
    )
    def impossible_size(folder: Path, size: Any = size) -> Made:
        return Made(bag(folder, PX, of_coords={"patch_size_level0": size}), arguments={"mpp": 0.25})


@case("Features", "the encoder's name as bytes", "features", "read")
def encoder_in_bytes(folder: Path) -> Made:
    path = bag(folder, GRID * 250.0, name="feats", unit="um", tile_size=250.0, extractor=np.bytes_("uni2"))
    return Made(path, RIGHT | {"encoder": "uni2"})


AS_TEXT = np.array([f"({x}, {y})" for x, y in PX], dtype="S")
COMPOUND = np.array([tuple(one) for one in PX], dtype=[("x", "<i4"), ("y", "<i4")])

for name, coords in {
    "text": AS_TEXT,
    "text of variable length": AS_TEXT.astype(object),
    "compound": COMPOUND,
    "complex numbers": PX[:, 0] + 1j * PX[:, 1],
    "Booleans": PX > 0,
}.items():

    @case("Features", f"coordinates that are {name}", "features", "refused", status="unsupported", says="no numbers")
    def coords_of_a_type(folder: Path, coords: Any = coords) -> Made:
        return Made(bag(folder, coords), arguments={"mpp": 0.25})


@case("Features", "coordinates that are a group", "features", "refused", status="unsupported", says="a group")
def coords_as_a_group(folder: Path) -> Made:
    def fill(file: h5py.File) -> None:
        file["features"] = FEATURES
        file["coords/x"], file["coords/y"] = PX.T

    return Made(written(folder, fill), arguments={"mpp": 0.25})


for name, coords in {
    "that are transposed": PX.T,
    "with a level": np.c_[PX, np.zeros(6)],
    "for fewer tiles": PX[:4],
    "that are one number": np.float64(3),
    "that are empty": h5py.Empty("f4"),
}.items():

    @case("Features", f"coordinates {name}", "features", "refused", says="")
    def coords_of_a_shape(folder: Path, coords: Any = coords) -> Made:
        return Made(bag(folder, coords), arguments={"mpp": 0.25})


@case("Features", "coordinates that are NaN", "features", "refused", says="NaN or infinite")
def coords_nan(folder: Path) -> Made:
    return Made(bag(folder, np.where(PX == 1000, np.nan, PX)), arguments={"mpp": 0.25})


@case("Features", "two tiles at one position", "features", "corrected", says="several tiles at one position")
def duplicates(folder: Path) -> Made:
    positions = PX.copy()
    positions[3] = positions[1]
    right = {"features": FEATURES, "coords_mm": positions * 0.25e-3 + HALF}
    return Made(bag(folder, positions, of_coords=SIZE), right, arguments={"mpp": 0.25})


# --- one vector per slide

for name, features, coords in (
    ("with the coordinates of its tiles", FEATURES[0], PX),
    ("as a row, with the coordinates of its tiles", FEATURES[:1], PX),
    ("as a row of a batch, with the coordinates of its tiles", FEATURES[None, :1], PX[None]),
    ("alone", FEATURES[0], None),
    ("as a row, alone", FEATURES[:1], None),
):

    @case(
        "Features", f"one vector {name}", "features", "refused", status="unsupported", says="one vector for the whole"
    )
    def of_a_slide(folder: Path, features: Any = features, coords: Any = coords) -> Made:
        return Made(bag(folder, coords, features), arguments={"mpp": 0.25})


@case("Features", "a bag of one tile", "features", "read")
def one_tile(folder: Path) -> Made:
    right = {"features": FEATURES[:1], "coords_mm": np.full((1, 2), HALF)}
    return Made(bag(folder, PX[:1], FEATURES[:1], of_coords=SIZE), right, arguments={"mpp": 0.25})


# --- features of other types, and incomplete files

for name, features in {
    "integers": np.ones((6, 8), np.int32),
    "text": np.full((6, 8), b"a"),
    "compound": np.zeros(6, [("a", "f4")]),
    "complex numbers": np.zeros((6, 8), np.complex64),
}.items():

    @case(
        "Features", f"features that are {name}", "features", "refused", status="unsupported", says="not floating-point"
    )
    def of_a_type(folder: Path, features: Any = features) -> Made:
        return Made(bag(folder, PX, features))


@case(
    "Features", "features that are references", "features", "refused", status="unsupported", says="not floating-point"
)
def references(folder: Path) -> Made:
    def fill(file: h5py.File) -> None:
        file["coords"] = PX
        file.create_dataset("features", (6,), dtype=h5py.ref_dtype)

    return Made(written(folder, fill))


@case("Features", "features without values", "features", "refused", says="")
def null_space(folder: Path) -> Made:
    return Made(bag(folder, PX, h5py.Empty("f4")))


@case("Features", "four-dimensional features", "features", "refused", status="unsupported", says="(tiles, features)")
def four_dimensions(folder: Path) -> Made:
    return Made(bag(folder, None, np.zeros((2, 3, 2, 8), np.float32)))


@case(
    "Features", "names that are not UTF-8", "features", "refused", status="unsupported", says="nothing of their names"
)
def names_in_bytes(folder: Path) -> Made:
    def fill(file: h5py.File) -> None:
        file[b"M\xfcller"] = FEATURES

    return Made(written(folder, fill))


@case("Features", "features behind a broken link", "features", "refused", says="damaged feature file")
def broken_link(folder: Path) -> Made:
    def fill(file: h5py.File) -> None:
        file["features"] = h5py.ExternalLink("other.h5", "/features")

    return Made(written(folder, fill))


@case("Features", "tiles that were never written", "features", "refused", says="never written")
def unwritten(folder: Path) -> Made:
    def fill(file: h5py.File) -> None:
        file["coords"] = PX
        features = file.create_dataset("features", (6, 8), "f4", chunks=(2, 8))
        features[:4] = FEATURES[:4]

    return Made(written(folder, fill))


@case("Features", "features that were never written", "features", "refused", says="never written")
def nothing_written(folder: Path) -> Made:
    return Made(written(folder, lambda file: file.create_dataset("features", (6, 8), "f4")))


@case("Features", "a virtual dataset without its source", "features", "refused", says="never written")
def virtual(folder: Path) -> Made:
    def fill(file: h5py.File) -> None:
        layout = h5py.VirtualLayout((6, 8), "f4")
        layout[:] = h5py.VirtualSource("gone.h5", "features", (6, 8))
        file.create_virtual_dataset("features", layout)

    return Made(written(folder, fill))


@case("Features", "a compressed dataset with one damaged byte", "features", "refused", says="damaged feature file")
def damaged_chunk(folder: Path) -> Made:
    def fill(file: h5py.File) -> None:
        file["coords"] = np.repeat(PX, 50, axis=0)
        file.create_dataset("features", data=np.repeat(FEATURES, 50, axis=0), compression="gzip", chunks=(300, 8))

    path = written(folder, fill)
    with h5py.File(path) as file:
        chunk = file["features"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0xFF
    path.write_bytes(content)
    return Made(path)


@case("Features", "a newer softfree layout", "features", "refused", status="unsupported", says="newer softfree")
def newer(folder: Path) -> Made:
    return Made(bag(folder, softfree_features=99, complete=True))
