"""``softfree predict RUN INPUTS --out FOLDER``."""

from __future__ import annotations

from collections.abc import Sequence

from softfree.archive.bulk import Given, do_all
from softfree.archive.options import ArchiveOptions
from softfree.archive.tasks.predict import Predict


def predict_archive(model: str, inputs: Sequence[str], options: ArchiveOptions) -> int:
    """Predict all inputs, in a folder; return the exit status: 0, or 1 if some inputs failed or are left.

    Args:
        model: A run directory, a study, or an exported ONNX file.
        inputs: Files, folders, tables and addresses.
        options: All settings; ``out`` is the folder.

    Raises:
        UserError: Impossible options, or a folder that was begun with others.
    """
    given = Given(inputs, options.out, options.frame, options.image_root, options.progress)
    return do_all(Predict.create(model, options), given, options)
