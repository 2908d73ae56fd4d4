"""``softfree cache TABLE --cache FOLDER``: the images of a training, prepared by many processes before it."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from softfree.archive.bulk import Given, do_all
from softfree.archive.options import CacheOptions
from softfree.archive.tasks.cache import FillCache, Part
from softfree.data.table import Table
from softfree.training.configuration import check_options, read_training_table
from softfree.training.modality import create_preprocessing, training_preprocessing
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import say
from softfree_runtime.sources.sample_source import SampleSource

NO_FOLDERS = ("auto", "memory", "none")


def fill_cache(options: CacheOptions) -> int:
    """Prepare all training and validation samples; return the exit status: 0, or 1 if some failed or are left.

    Args:
        options: Those of the training, and of the work; ``cache`` is a folder, with the rows in one of its subfolders.

    Raises:
        UserError: Anything that the user can fix.
    """
    if options.cache in NO_FOLDERS:
        raise UserError(f"--cache {options.cache}: softfree cache fills a folder; name it here and for softfree train")
    cache = Path(options.cache)
    if cache.exists() and not cache.is_dir():
        raise UserError(f"--cache {cache} is a file; name a folder")
    check_options(options)
    table = read_training_table(options)
    say(options.table, table.sentences)
    preprocessing = create_preprocessing(options, table.sources)
    training, _ = training_preprocessing(options, preprocessing)
    train, validation = (_sources(table.where(split)) for split in ("train", "val"))
    count = len(train) + len(validation)
    parts = (
        Part(train, training, range(len(train))),
        Part(validation, preprocessing, range(len(train), count)),
    )
    task = FillCache(parts, str(cache.absolute()))
    key = blake2b(task.identity()["samples_digest"].encode(), digest_size=4).hexdigest()
    given = Given([str(options.table)], cache / f"preparation-{key}", progress=options.progress)
    return do_all(task, given, options)


def _sources(table: Table) -> tuple[tuple[SampleSource, int | None], ...]:
    return tuple(zip(table.sources, table.frames, strict=True))
