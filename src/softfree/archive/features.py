"""``softfree features``: of slides their tiles, of images and volumes a vector for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from softfree.archive.bulk import Given, do_all
from softfree.archive.remote import is_remote
from softfree.archive.task import Resources
from softfree.archive.tasks.features import PooledFeatures
from softfree.features.options import FeatureOptions
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.inputs import TABLES

VOLUMES = 4  # per batch


def features_of(inputs: Sequence[str], options: FeatureOptions) -> int:
    """Extract features; return the exit status: 0, or 1 if some inputs failed or are left.

    Args:
        inputs: One table of slides; or files, folders, tables and addresses of images or volumes.
        options: All settings.

    Raises:
        UserError: Impossible options, or a folder that was begun with others.
    """
    kind = options.kind or _kind(inputs, options)
    if kind == "slide" and not _is_run_on("slide", options.encoder):
        from softfree.archive.slides import extract_features

        if len(inputs) != 1 or Path(inputs[0]).suffix.lower() not in TABLES:
            raise UserError(f"softfree features of slides: expected one table with a column path, got {inputs[0]}")
        return extract_features(Path(inputs[0]), options)
    if options.side < 8 or (options.batch_size is not None and options.batch_size < 1):
        raise UserError("--side and --batch-size: expected at least 8 pixels, and at least 1")
    task = PooledFeatures(
        options.encoder,
        kind,
        options.weights,
        options.side,
        options.batch_size or (VOLUMES if kind in ("volume", "slide") else 64),
        options.num_workers,
        Resources.of(options).threads,
        options.precision,
    )
    return do_all(task, Given(inputs, options.out, options.frame, options.image_root, options.progress), options)


def _kind(inputs: Sequence[str], options: FeatureOptions) -> str:
    """Tell what the inputs are: of a run on other samples than images its own, else as the first looks."""
    own = _kind_of_run(options.encoder)
    if own not in (None, "image"):
        return str(own)
    first = Path(inputs[0])
    if is_remote(inputs[0]):
        return "image"
    is_table = first.suffix.lower() in TABLES
    found = _first_of_table(first, options.image_root) if is_table else (first, False)
    return _looks_like(found[0], is_slide=found[1], in_table=is_table)


def _looks_like(file: Path, *, is_slide: bool, in_table: bool) -> str:
    from softfree.data.audit.probe import kind_of_source

    if is_slide:
        return "slide"
    if file.is_dir() and not in_table:  # of images, or of volumes: as its first file
        file = next((path for path in sorted(file.rglob("*")) if path.is_file() and path.name[0] != "."), file)
    kind = kind_of_source(str(file))
    if kind == "image" and in_table and file.suffix.lower() in (".tif", ".tiff", ".dcm", ""):
        return "slide" if file.suffix.lower() != ".dcm" or _is_slide_of_dicom(file) else "image"
    return kind


def _is_slide_of_dicom(file: Path) -> bool:
    from softfree_runtime.readers.dicom_file import open_dicom

    try:
        with open_dicom(file, ("SOPClassUID",)) as (header, _):
            return str(header.get("SOPClassUID")) == "1.2.840.10008.5.1.4.1.1.77.1.6"
    except Exception:  # its row will say why
        return False


def _first_of_table(table: Path, image_root: Path | None) -> tuple[Path, bool]:
    """Return the first file of a table, and whether it has a resolution there, which makes it a slide."""
    from softfree.data.table_file import read_table_file
    from softfree_runtime.sources.row_paths import base_folder

    frame = read_table_file(table, {"path", "mpp"}).frame
    if "path" not in frame or not len(frame):
        return table, True  # the reader of slides says what is missing
    first = frame.iloc[0]
    has_mpp = "mpp" in frame and str(first["mpp"]).strip() not in ("", "nan", "<NA>")
    return base_folder(table, image_root) / str(first["path"]), has_mpp


def _kind_of_run(encoder: str) -> str | None:
    from softfree.inference.run_directory import RunDirectory

    if not RunDirectory(encoder).is_run():
        return None
    from softfree.inference.run import Run

    return Run.load(encoder).preprocessing.kind


def _is_run_on(kind: str, encoder: str) -> bool:
    return _kind_of_run(encoder) == kind
