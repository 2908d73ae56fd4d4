"""Predictions from an exported file: one row for each input, readable or not."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from softfree_runtime.core.batching import of_equal_shape
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.files import printable, replacing
from softfree_runtime.core.outputs import distance_columns
from softfree_runtime.preprocessing.case import (
    PARTIAL,
    case_ids,
    load_sample,
    missing_variables,
    note_unknown,
    variables_of,
)
from softfree_runtime.readers.image import DecodedImage
from softfree_runtime.session import Model
from softfree_runtime.sources.inputs import Input, NamedSource, find_inputs, table_rows
from softfree_runtime.sources.sample_source import name_of

Row = dict[str, Any]


def predict(
    model: str | Path | Model,
    inputs: Input | Sequence[Input],
    *,
    frame: int | None = None,
    image_root: str | Path | None = None,
    batch_size: int = 16,
    threads: int | None = None,
) -> list[Row]:
    """Predict files, folders, CSV tables or arrays with an exported file.

    Args:
        model: The file, or an open model.
        inputs: Paths, or for images arrays (H, W) or (H, W, C), which are treated like a TIFF of the same values.
        frame: Frame of multi-frame files, counted from 0; default: the first.
        image_root: Folder that paths in tables are relative to and must lie in; default: each table's folder.
        batch_size: Samples per batch; only samples of equal shape share a batch.
        threads: Threads of onnxruntime; default: all processors.

    Returns:
        One row per input, as from :meth:`softfree.inference.run.Run.predict`: ``path``, ``status`` (``ok`` or why not),
        ``reason``, ``p_<class>`` (calibrated), ``raw_<class>``, ``predicted``, ``set`` (for findings
        ``set_<finding>``), ``abstain``, ``distance`` and ``unusual``; None for missing numbers. Files of
        earlier versions lack the last four.

    Raises:
        UserError: The file cannot be used, or there is no input.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: expected at least 1")
    opened = model if isinstance(model, Model) else Model(model, threads=threads)
    sequence: Sequence[Input] = [inputs] if isinstance(inputs, (str, Path, np.ndarray)) else list(inputs)
    metadata = opened.metadata
    kind = metadata.preprocessing.kind
    variables = variables_of(metadata.preprocessing)
    in_table = partial(table_rows, kind=kind, image_root=image_root, variables=variables)
    samples = find_inputs(sequence, frame, kind, in_table)
    sources = [source for _, source, _ in samples]
    note_unknown(metadata.preprocessing, sources)
    return predict_sources(opened, samples, batch_size=batch_size)


def predict_sources(
    model: Model,
    samples: Sequence[NamedSource],
    *,
    batch_size: int = 16,
    on_sample: Callable[[int, np.ndarray], None] | None = None,
) -> list[Row]:
    """Predict samples that are found already; see :func:`predict`.

    Args:
        model: An open model.
        samples: Name, source and frame of each.
        batch_size: Samples per batch.
        on_sample: Called with the number of each sample that was read and what the graph will get; a ReadError that it
            raises leaves the sample out, with its reason.
    """
    metadata, sources = model.metadata, [source for _, source, _ in samples]
    logits, distances, failed = _outputs(model, samples, batch_size, on_sample)
    cases, missing = case_ids(sources), missing_variables(metadata.preprocessing, sources)
    rows = []
    for number, (name, _, _) in enumerate(samples):
        error = failed.get(number)
        status = error.status if error and error.status != PARTIAL else "ok"
        head: Row = {"path": name} | ({"case_id": cases[number]} if cases else {})
        head |= {"status": status, "reason": printable(str(error)) if error else ""}
        head |= {"missing_variables": missing[number]} if missing else {}
        head |= metadata.columns(logits[number])
        rows.append(head | ({} if metadata.unusual_rate is None else distance_columns(distances[number])))
    return rows


def _outputs(
    model: Model,
    samples: Sequence[NamedSource],
    batch_size: int,
    on_sample: Callable[[int, np.ndarray], None] | None,
) -> tuple[np.ndarray, np.ndarray, dict[int, ReadError]]:
    """Return logits (n, K) and distances (n,), NaN for samples that give none, and all errors, those of parts too."""
    values = np.full((len(samples), len(model.metadata.task.outputs)), np.nan)
    distances = np.full(len(samples), np.nan)
    failed: dict[int, ReadError] = {}

    def readable() -> Iterator[tuple[int, np.ndarray]]:
        for number, (name, source, frame) in enumerate(samples):
            try:
                sample, unread = load_sample(model.metadata.preprocessing, source, frame)
                model.check(name if isinstance(source, DecodedImage) else name_of(source), sample)
                if on_sample is not None:
                    on_sample(number, sample)
            except ReadError as error:
                failed[number] = error
            else:
                if unread is not None:
                    failed[number] = unread
                yield number, sample

    for numbers, batch in of_equal_shape(readable(), batch_size):
        values[numbers], distance = model.outputs(np.stack(batch))
        if distance is not None:
            distances[numbers] = distance
    unread = {number for number, error in failed.items() if error.status != PARTIAL}
    for number in set(np.flatnonzero(~np.isfinite(values).all(axis=1)).tolist()) - unread:
        values[number] = distances[number] = np.nan
        failed[number] = _not_finite(model, samples[number][0])
    return values, distances, failed


def _not_finite(model: Model, name: str) -> ReadError:
    whole = model.metadata.precision == "fp32" and not model.metadata.quantized
    fix = "" if whole else "; use a file exported with --precision fp32"
    return ReadError(f"the model gave NaN or infinite numbers{fix}", "not_finite", path=name)


def predict_to_file(
    model: str | Path,
    inputs: Sequence[str],
    out: Path,
    *,
    frame: int | None = None,
    image_root: str | Path | None = None,
    batch_size: int = 16,
    threads: int | None = None,
    as_json: bool = False,
) -> int:
    """Predict, write the CSV file ``out``, and return the exit status: 0, or 1 if some inputs failed.

    Raises:
        UserError: All inputs failed.
    """
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out}: expected a name that ends in .csv, the only kind for exported models")
    rows = predict(model, list(inputs), frame=frame, image_root=image_root, batch_size=batch_size, threads=threads)
    with replacing(out) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if as_json:
        print(json.dumps(rows, indent=2))
    failed = [row for row in rows if row["status"] != "ok"]
    for row in filter(itemgetter("reason"), rows):
        print(f"softfree: {row['reason']}", file=sys.stderr)  # which names the file
    if len(failed) == len(rows):
        raise UserError(f"none of the {len(rows)} inputs could be read; their reasons are in {out}")
    print(f"{len(rows) - len(failed)} of {len(rows)} predicted; written to {out}", file=sys.stderr)
    return 1 if failed else 0
