"""Samples from files, folders, CSV tables and arrays, without pandas."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from softfree_runtime.core.errors import UserError, listed, shortened
from softfree_runtime.core.files import printable, say
from softfree_runtime.preprocessing.modalities import IMAGE, MODALITIES
from softfree_runtime.readers.image import DecodedImage, own_range
from softfree_runtime.sources.cases import CASE, TIME, VIEW, group_rows, make_case, parse_times
from softfree_runtime.sources.row_paths import base_folder, resolve_paths
from softfree_runtime.sources.sample_source import (
    CaseFile,
    SampleSource,
    SourceFile,
    file_of,
    resolution,
    sample_source,
)
from softfree_runtime.sources.table_text import FRAME, RowNamer, check_text, read_bytes
from softfree_runtime.sources.walk import Skipped, files_below

Input = str | Path | np.ndarray
NamedSource = tuple[str, SampleSource | DecodedImage, int | None]
TABLES = {".csv", ".tsv", ".parquet"}
COLUMNS = ("path", "frame", "mpp", CASE, VIEW, TIME)


def find_inputs(
    inputs: Sequence[Input], frame: int | None, kind: str, rows: Callable[[Path, int | None], Iterable[NamedSource]]
) -> list[NamedSource]:
    """List the samples that files, folders, tables and arrays stand for.

    Args:
        inputs: The inputs; a folder stands for all samples below it, a table for its rows.
        frame: Frame of multi-frame files if a table does not name one, counted from 0, or None.
        kind: Kind of the samples; only an image can be an array, and a volume can be a folder.
        rows: Function that lists the samples of a table, from its path and ``frame``.

    Returns:
        Name, source and frame of each sample.

    Raises:
        UserError: There are no samples, or a table cannot be used.
    """
    samples: list[NamedSource] = []
    for number, item in enumerate(inputs):
        if isinstance(item, np.ndarray):
            if kind != IMAGE:
                raise UserError(f"got an array for a model of samples of kind {kind}; expected files")
            samples.append((f"array {number}", as_image(item), None))
        elif Path(item).is_dir() and kind == "case":
            raise UserError(
                f"{item} is a folder, and the model takes cases of several images: expected a table with the columns"
                f" path and {CASE}"
            )
        elif Path(item).is_dir():
            samples += [(printable(path), path, frame) for path in samples_in(Path(item), kind)]
        elif Path(item).suffix.lower() in TABLES:
            samples += rows(Path(item), frame)
        else:
            samples.append((printable(str(item)), str(item), frame))
    if not samples:
        raise UserError("no sample given: expected files, folders with files, or a table with a column path")
    return samples


def samples_in(folder: Path, kind: str) -> list[str]:
    """List all samples below a folder: volumes as their reader finds them, else all files but hidden ones and tables.

    Linked folders are followed. A folder that cannot be listed is a sample whose row says why; skipped files are noted.
    """
    skipped = Skipped()
    if list_samples := MODALITIES[kind].list_samples():
        samples, tables = list_samples(folder, skipped), []
    else:
        files = files_below(folder, skipped)
        samples = [path for path in files if Path(path).suffix.lower() not in TABLES]
        tables = [Path(path).name for path in files if Path(path).suffix.lower() in TABLES]
    notes = {
        "tables below it are skipped; name them to read their rows": tables,
        "links to a folder around them are not followed": [os.path.relpath(path, folder) for path in skipped.loops],
        "hidden files and system files are skipped": sorted(skipped.left),
    }
    say(folder, [f"{note}: {listed(map(printable, names), 5)}" for note, names in notes.items() if names])
    return sorted([*samples, *skipped.closed], key=lambda path: Path(path).parts)


def as_image(array: np.ndarray) -> DecodedImage:
    """Convert an array (H, W) or (H, W, C), C = 1 or 3, as if it was read from a TIFF.

    Black and white are those of a file, see :func:`~softfree_runtime.readers.image.own_range`: 0 and 255 for uint8, 0
    and 65535 for colors of uint16, 0 and 1 for colors of floats within them, the array's own least and greatest value
    for everything else.

    Raises:
        UserError: Another shape, values that are not numbers, or values that are not finite.
    """
    pixels = array[..., None] if array.ndim == 2 else array
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise UserError(f"got an array of shape {array.shape}; expected (H, W), (H, W, 1) or (H, W, 3)")
    kind, bits = pixels.dtype.kind, 8 * pixels.dtype.itemsize
    native = {"b": np.uint8, "f": np.float32}.get(kind, pixels.dtype.newbyteorder("="))
    if kind in "buif":
        with np.errstate(over="ignore"):  # overflow in float32 is detected below
            pixels = np.ascontiguousarray(pixels.astype(native, copy=False))
    if kind not in "buif" or not np.isfinite(pixels).all():
        raise UserError(f"got an array of {array.dtype}; expected whole numbers, or finite floats")
    low, high, steps = own_range(pixels, 1 if kind == "b" else bits)
    return DecodedImage(pixels, low, high, None, steps, f"{array.dtype} array")


def table_rows(
    path: Path,
    frame: int | None,
    kind: str,
    image_root: str | Path | None = None,
    variables: Sequence[str] = (),
) -> list[NamedSource]:
    """Read a CSV table: name, source and frame of each row that is not empty.

    Args:
        path: The table, with a column ``path``; :data:`COLUMNS` are known, too.
        frame: Frame of multi-frame files if the table has no such column.
        kind: Kind of the samples; slides and bags have a resolution, and rows of bags and cases may be joined.
        image_root: Folder that the paths start from and must lie in; the table's by default.
        variables: Columns with clinical variables; the table may lack them.

    Raises:
        UserError: The table is not valid; names the line.
    """
    content = read_bytes(path, "a CSV file")
    if content.startswith(b"PAR1") or path.suffix.lower() == ".parquet":
        raise UserError(f"{path}: exported models take tables as CSV; save it as CSV")
    table = check_text(path, content, (*COLUMNS, *variables))
    if "path" not in table.columns:
        raise UserError(f"{path}: no column 'path'; it has {listed(table.columns)}; expected one with the files, "
                        "relative to the table")  # fmt: skip
    say(path, table.notes)
    return rows_as_samples(path, dict(table.cells()), table.rows, table.columns, frame, kind, image_root, variables)


def rows_as_samples(
    path: Path,
    cells: Mapping[int, Mapping[str, str]],
    rows: RowNamer,
    columns: Collection[str],
    frame: int | None,
    kind: str,
    image_root: str | Path | None,
    variables: Sequence[str] = (),
) -> list[NamedSource]:
    """List the samples of a table's rows, given as text cells; as :func:`table_rows`."""
    files = resolve_paths(path, [row["path"] for row in cells.values()], rows, cells, base_folder(path, image_root))
    samples = [
        row_as_sample(path, number, row, rows, file, frame, kind)
        for (number, row), file in zip(cells.items(), files, strict=True)
    ]
    joined = MODALITIES[kind].joined and CASE in columns
    if not joined and not variables:
        return samples
    return _rows_by_case(path, cells, rows, samples, [name for name in variables if name in columns], joined)


def row_as_sample(
    path: Path, number: int, row: Mapping[str, str], rows: RowNamer, file: str, frame: int | None, kind: str
) -> NamedSource:
    """Return the sample of a row, whose ``path`` is that of ``file``; other arguments as for :func:`rows_as_samples`.

    Raises:
        UserError: Its frame or resolution is no number; names the line.
    """
    cell = row.get("frame", "")
    if cell and not re.fullmatch(FRAME, cell):
        raise UserError(
            f"{path}: frame {shortened(cell)} in {rows.name([number])}; expected 0, 1, 2, ... or an empty cell"
        )
    mpp = resolution(row.get("mpp", "")) if MODALITIES[kind].has_resolution else None
    # With a column frame, an empty cell is the first frame.
    row_frame = int(float(cell)) if cell else None if "frame" in row else frame
    return row["path"], sample_source(SourceFile(file, mpp)), row_frame


def _rows_by_case(
    path: Path,
    cells: Mapping[int, Mapping[str, str]],
    rows: RowNamer,
    samples: Sequence[NamedSource],
    variables: Sequence[str],
    joined: bool,
) -> list[NamedSource]:
    """Join the rows of each case, if they are ``joined``, else make each row one; the name is that of its files."""
    numbers, texts = list(cells), list(cells.values())

    def names_of(positions: Collection[int]) -> str:
        return rows.name([numbers[position] for position in positions])

    times = parse_times(row.get(TIME) for row in texts)
    found: list[NamedSource] = []
    own = [[number] for number in range(len(texts))]
    for group in group_rows(path, [row[CASE] for row in texts], names_of) if joined else own:
        files = [_case_file(samples[row], texts[row].get(VIEW, "").strip(), times[row]) for row in group]
        values = {name: [texts[row].get(name, "") for row in group] for name in variables}
        name = texts[group[0]][CASE] if joined else ""
        case = make_case(path, name, files, group, names_of, values)
        found.append((";".join(samples[row][0] for row in group), case, None))
    return found


def _case_file(sample: NamedSource, view: str, time: float | None) -> CaseFile:
    _, source, frame = sample
    assert not isinstance(source, DecodedImage)
    file = file_of(source)
    return CaseFile(file.path, file.mpp, frame, view, time)
