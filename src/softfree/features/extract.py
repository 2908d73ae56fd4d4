"""Tile features of the slides in a table."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from softfree.data.modalities.feature_files import write_features
from softfree.data.modalities.tiles import tile_centers
from softfree.data.modalities.tissue import find_tissue
from softfree.data.samples import parts_of, resolutions
from softfree.data.slide_readers.slide import open_slide
from softfree.data.table_file import no_column, read_table_file
from softfree.features.encoders import TileEncoder
from softfree.features.folder import FeatureFolder
from softfree.features.options import FeatureOptions
from softfree.features.tiles import TileDataset, encode_tiles
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import say
from softfree_runtime.sources.row_paths import base_folder, resolve_paths


@dataclass(frozen=True)
class SlideRow:
    """A slide of the table.

    Attributes:
        name: Its relative path, as in the table.
        path: Its location.
        mpp: Micrometers per pixel from the table, or None.
    """

    name: str
    path: str
    mpp: float | None

    def request(self) -> dict[str, Any]:
        """Return the attributes that identify the slide in its feature file: file size and resolution."""
        size = sum(file.stat().st_size for file in parts_of(Path(self.path)) if file.is_file())
        return {"slide_bytes": size, "slide_mpp_given": self.mpp or 0.0}


def extract_slide(slide: SlideRow, encoder: TileEncoder, folder: FeatureFolder, options: FeatureOptions) -> None:
    """Encode a slide, unless its features are complete; a failure is recorded in the folder and raised.

    Raises:
        ReadError: The slide gives no features.
        UserError: Its features were made with other settings, or cannot be written.
    """
    if folder.is_complete(slide.name, slide.request()):
        return
    folder.clean(slide.name)
    try:
        _extract(slide, encoder, folder, options)
    except ReadError as error:
        give_up_slide(slide.name, folder, error)
        raise


def give_up_slide(name: str, folder: FeatureFolder, error: ReadError) -> None:
    """Record why a slide has no features."""
    folder.file(name).unlink(missing_ok=True)  # of an older file of this name: it would be mistaken for this slide's
    folder.record_failure(name, error)


def _extract(slide: SlideRow, encoder: TileEncoder, folder: FeatureFolder, options: FeatureOptions) -> None:
    with open_slide(slide.path, slide.mpp) as image:
        image.refuse_finer(options.mpp)
        centers = tile_centers(
            image.size_mm,
            options.side,
            options.mpp,
            step=options.step,
            tissue=find_tissue(image) if options.tissue else None,
            share=options.share,
        )
        slide_mpp = image.mpp
    if not len(centers):
        raise ReadError(
            f"no tile has a tissue fraction of {options.share:g} or more; lower --share", "no_tissue", path=slide.path
        )
    tiles = TileDataset(slide.path, slide.mpp, centers, options.side, options.mpp, encoder.prepare)
    features = encode_tiles(
        tiles,
        encoder,
        batch_size=options.batch_size or 64,
        num_workers=options.num_workers,
        precision=options.precision,
    )
    attributes = folder.settings | slide.request() | {"slide_mpp_x": slide_mpp[0], "slide_mpp_y": slide_mpp[1]}
    write_features(folder.file(slide.name), features, centers, attributes)


def settings_of(encoder: TileEncoder, options: FeatureOptions) -> dict[str, Any]:
    """Return what the features of a slide depend on."""
    return {
        "encoder": encoder.name,
        "weights_sha256": encoder.digest,
        "mpp": options.mpp,
        "side": options.side,
        "step": options.step or options.side,
        "tissue": options.tissue,
        "share": options.share,
        "precision": options.precision,
    }


def read_slides(table: Path, image_root: Path | None) -> tuple[pd.DataFrame, list[SlideRow]]:
    """Read the table as text, and its slides without duplicates, in the table's order."""
    columns = [str(name) for name in read_table_file(table, {"path"}).frame.columns]
    if "path" not in columns:
        raise no_column(table, "path", columns, "expected one with the slides, relative to the table")
    source = read_table_file(table, set(columns))
    say(table, source.notes)
    frame, base = source.frame, base_folder(table, image_root)
    files = resolve_paths(table, frame["path"].fillna(""), source.rows, frame.index, base)
    names = [os.path.relpath(file, base) for file in files]
    frame = frame.assign(path=names)
    table_mpp = resolutions(frame["mpp"]) if "mpp" in frame else [None] * len(frame)
    slides = {name: SlideRow(name, str(base / name), mpp) for name, mpp in zip(names, table_mpp, strict=True)}
    return frame, list(slides.values())


def check_options(options: FeatureOptions) -> None:
    """Refuse impossible options; UserError names the first."""
    checks = {
        "mpp": (options.mpp > 0, "micrometers per pixel, such as 0.5"),
        "side": (options.side >= 8, "at least 8 pixels"),
        "step": (options.step is None or options.step >= 1, "at least 1 pixel"),
        "share": (0 <= options.share <= 1, "a number from 0 to 1"),
        "batch_size": (options.batch_size is None or options.batch_size >= 1, "at least 1 tile"),
        "num_workers": (options.num_workers >= 0, "0 or more"),
    }
    for name, (valid, expected) in checks.items():
        if not valid:
            raise UserError(f"--{name.replace('_', '-')} {getattr(options, name)}: expected {expected}")
