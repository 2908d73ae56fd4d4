"""The pictures that files, folders, CSV tables and arrays stand for, found without pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from softfree.data.readers.picture import Picture
from softfree.errors import UserError

Input = str | Path | np.ndarray
Found = tuple[str, str | Picture, int | None]
TABLES = {".csv", ".tsv", ".parquet"}


def find_inputs(given: Sequence[Input], frame: int | None) -> list[Found]:
    """Find the name, the source and the frame of each picture; UserError when there is none, or a table is no table."""
    found: list[Found] = []
    for number, item in enumerate(given):
        if isinstance(item, np.ndarray):
            found.append((f"array {number}", as_picture(item), None))
        elif Path(item).is_dir():
            found += [(path, path, frame) for path in files_in(Path(item))]
        elif Path(item).suffix.lower() in TABLES:
            found += _table_rows(Path(item), frame)
        else:
            found.append((str(item), str(item), frame))
    if not found:
        raise UserError("no sample given: expected files, folders with files, or a table with a column path")
    return found


def files_in(folder: Path) -> list[str]:
    """All files below a folder but for hidden ones and tables."""
    return [
        str(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix.lower() not in TABLES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def as_picture(array: np.ndarray) -> Picture:
    """An array (H, W) or (H, W, C) of uint8, uint16 or floats in [0, 1] as a picture; UserError for any other."""
    ranges = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0}
    pixels = array[..., None] if array.ndim == 2 else array
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise UserError(f"got an array of shape {array.shape}; expected (H, W), (H, W, 1) or (H, W, 3)")
    if pixels.dtype in ranges:
        high = ranges[pixels.dtype]
    elif np.issubdtype(pixels.dtype, np.floating) and pixels.min() >= 0 and pixels.max() <= 1:
        high = 1.0
    else:
        raise UserError(f"got an array of {array.dtype}; expected uint8, uint16, or finite floats between 0 and 1")
    return Picture(pixels, 0.0, high, None, (), f"{pixels.dtype} array")


def _table_rows(path: Path, default: int | None) -> Iterator[Found]:
    """Name, source and frame of each row that is not empty; paths are relative to the table."""
    text = _text(path)
    header = next(iter(text.splitlines()), "")
    separator = max(",;\t", key="".join(header.split('"')[::2]).count)
    rows = csv.reader(io.StringIO(text), delimiter=separator)
    names = [name.strip() for name in next(rows, [])]
    if "path" not in names:
        raise UserError(f"{path}: no column 'path'; it has {', '.join(names)}; expected one with the files, "
                        "relative to the table")  # fmt: skip
    try:
        yield from _read_rows(path, names, rows, default)
    except csv.Error as error:
        raise UserError(f"{path}: not a table ({error}); expected CSV") from None


def _read_rows(path: Path, names: list[str], rows: Iterable[list[str]], default: int | None) -> Iterator[Found]:
    number = -1
    for cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        number += 1
        if len(cells) > len(names):
            raise UserError(f"{path}: row {number} has {len(cells)} cells; expected {len(names)}, as the header")
        row = dict(zip(names, (cell.strip() for cell in cells), strict=False))
        name, frame = row.get("path", ""), row.get("frame", "")
        if not name:
            raise UserError(f"{path}: row {number} has no path; give one or remove the row")
        if frame and not frame.isdigit():
            raise UserError(f"{path}: row {number} has frame {frame!r}; expected a whole number from 0, or nothing")
        # With a column frame, an empty cell is the first frame, as in softfree predict.
        yield name, str(path.parent / name), int(frame) if frame else None if "frame" in names else default


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such table; name a CSV file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be opened ({error.strerror}); name a CSV file") from None
    if content.startswith(b"PAR1") or path.suffix.lower() == ".parquet":
        raise UserError(f"{path}: exported models take tables as CSV; save it as CSV")
    encodings = ("utf-16",) if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "latin-1")
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        return text
    raise UserError(f"{path}: not a table but a binary file; expected CSV")
