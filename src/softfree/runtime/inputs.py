"""The samples that files, folders, CSV tables and arrays stand for, found without pandas."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from softfree.data.readers.picture import Picture
from softfree.data.sources import WITH_RESOLUTION, join_source, resolution
from softfree.errors import UserError

Input = str | Path | np.ndarray
Found = tuple[str, str | Picture, int | None]
TABLES = {".csv", ".tsv", ".parquet"}


def find_inputs(
    given: Sequence[Input], frame: int | None, kind: str, rows: Callable[[Path, int | None], Iterable[Found]]
) -> list[Found]:
    """Find the samples that files, folders, tables and arrays stand for.

    Args:
        given: the inputs; a folder stands for all samples below it, a table for its rows.
        frame: frame of multi-frame files where a table does not name one, counted from 0, or None.
        kind: of the samples; only a picture can be an array, and a volume can be a folder.
        rows: reads a table: a path and ``frame`` to its samples.

    Returns:
        For each sample its name, where it is read from, and its frame.

    Raises:
        UserError: nothing is found, or a table cannot be used.
    """
    found: list[Found] = []
    for number, item in enumerate(given):
        if isinstance(item, np.ndarray):
            if kind != "picture":
                raise UserError(f"got an array for a model of samples of kind {kind}; expected files")
            found.append((f"array {number}", as_picture(item), None))
        elif Path(item).is_dir():
            found += [(path, path, frame) for path in samples_in(Path(item), kind)]
        elif Path(item).suffix.lower() in TABLES:
            found += rows(Path(item), frame)
        else:
            found.append((str(item), str(item), frame))
    if not found:
        raise UserError("no sample given: expected files, folders with files, or a table with a column path")
    return found


def samples_in(folder: Path, kind: str) -> list[str]:
    """All samples below a folder: volumes as their reader finds them, else files but for hidden ones and tables."""
    if kind == "volume":
        from softfree.data.volume_files import volumes_in

        return volumes_in(folder)
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


def table_rows(path: Path, frame: int | None, kind: str, group: bool = False) -> list[Found]:
    """Read a CSV table: name, source and frame of each row that is not empty; paths are relative to the table.

    Args:
        path: the table, with a column ``path``; ``frame``, ``mpp`` and ``patient_id`` are known, too.
        frame: where the table has no such column.
        kind: of the samples; slides and bags have a resolution.
        group: join the rows of a patient.
    """
    text = _text(path)
    header = next(iter(text.splitlines()), "")
    separator = max(",;\t", key="".join(header.split('"')[::2]).count)
    cells = csv.reader(io.StringIO(text), delimiter=separator)
    names = [name.strip() for name in next(cells, [])]
    if "path" not in names:
        raise UserError(f"{path}: no column 'path'; it has {', '.join(names)}; expected one with the files, "
                        "relative to the table")  # fmt: skip
    try:
        found = list(_read_rows(path, names, cells, frame, kind in WITH_RESOLUTION))
    except csv.Error as error:
        raise UserError(f"{path}: not a table ({error}); expected CSV") from None
    return join_patients(found) if group else [one for one, _ in found]


def join_patients(rows: Iterable[tuple[Found, str]]) -> list[Found]:
    """Join the rows of each patient, named beside them, into one sample; a row without a patient is one by itself."""
    bags: dict[object, list[Found]] = {}
    for number, (row, patient) in enumerate(rows):
        bags.setdefault(patient or number, []).append(row)
    return [
        (";".join(name for name, _, _ in bag), ";".join(str(source) for _, source, _ in bag), None)
        for bag in bags.values()
    ]


def _read_rows(
    path: Path, names: list[str], rows: Iterable[list[str]], default: int | None, resolved: bool
) -> Iterator[tuple[Found, str]]:
    """Each row with its patient, empty where none is named."""
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
        source = join_source(str(path.parent / name), resolution(row.get("mpp", "")) if resolved else None)
        # With a column frame, an empty cell is the first frame, as in softfree predict.
        chosen = int(frame) if frame else None if "frame" in names else default
        yield (name, source, chosen), row.get("patient_id", "")


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
