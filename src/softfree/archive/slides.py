"""``softfree features`` of slides: a file with the features of its tiles for each, and tables of them."""

from __future__ import annotations

import sys
from pathlib import Path

from softfree.archive.bulk import Bulk, Given
from softfree.archive.inputs import InputList
from softfree.archive.task import Resources
from softfree.archive.tasks.slides import SlideFeatures
from softfree.core.shards import parse_shard
from softfree.features.encoders import create_encoder
from softfree.features.extract import check_options, give_up_slide, read_slides, settings_of
from softfree.features.folder import FAILED, TABLE, FeatureFolder
from softfree.features.options import FeatureOptions
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.row_paths import base_folder
from softfree_runtime.sources.sample_source import file_of


def extract_features(table: Path, options: FeatureOptions) -> int:
    """Encode the slides of a table; slides with complete features are skipped, and failed ones tried again.

    Args:
        table: CSV or Parquet file with a column ``path`` and, if the files lack it, ``mpp``; other columns are copied
            to the table of features.
        options: All settings.

    Returns:
        Exit status: 0, or 1 if some slides of this shard failed.

    Raises:
        UserError: Impossible options, or all slides of this shard failed.
    """
    check_options(options)
    shard, shards = parse_shard(options.shard)
    threads = Resources.of(options).threads
    frame, slides = read_slides(table, options.image_root)
    settings = settings_of(create_encoder(options.encoder, options.weights, options.side), options)
    folder = FeatureFolder(options.out, settings)
    base = str(base_folder(table, options.image_root))
    rows = tuple((slide.path, slide.mpp) for slide in slides)
    task = SlideFeatures(base, rows, options, tuple(settings.items()), threads)
    work = Bulk(task, Given([str(table)], options.out, progress=options.progress), options)
    try:
        work.run()
    finally:
        encoded, failed = _results(work, task, folder)
        folder.write_tables(frame)
    for reason in failed.values():
        print(f"softfree: {reason}", file=sys.stderr)
    own = sum(number // work.block % shards == shard for number in range(len(slides)))
    if own and len(failed) == own:
        raise UserError(f"none of the {own} slides could be encoded; the reasons are in {options.out / FAILED}")
    print(f"{encoded} of {own} slides encoded; table: {options.out / TABLE}", file=sys.stderr)
    return 1 if failed else 0


def _results(work: Bulk, task: SlideFeatures, folder: FeatureFolder) -> tuple[int, dict[str, str]]:
    """Return the number of encoded slides of a shard, and the reasons of failed ones by name.

    Those whose process died are recorded here.
    """
    failed: dict[str, str] = {}
    encoded = 0
    if not work.folder.inputs.is_file():
        return encoded, failed
    inputs = InputList(work.folder.inputs)
    for table in work.folder.rows():
        for row in table.select(["input", "path", "status", "reason"]).to_pylist():
            number = row["input"]
            if number // work.block % work.shards != work.shard:
                continue
            if row["status"] == "ok":
                encoded += 1
                continue
            failed[row["path"]] = row["reason"]
            if row["status"] == "crashed":
                ((_, source, _),) = inputs.read(number, number + 1)
                name = task.name_of(file_of(source).path)  # type: ignore[arg-type]
                give_up_slide(name, folder, ReadError(row["reason"], "crashed"))
    return encoded, failed
