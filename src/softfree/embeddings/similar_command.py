"""``softfree similar``: from images to the nearest cases."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from softfree.archive.tasks.features import PooledFeatures
from softfree.data.inputs import find_inputs
from softfree.embeddings.feature_folder import FeatureFolder
from softfree.embeddings.index_folder import IndexFolder, open_index
from softfree.embeddings.options import SimilarOptions
from softfree.embeddings.similar import Answer, find_similar
from softfree.embeddings.similar_output import print_answers, write_answers, write_similar_page
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.inputs import NamedSource


def similar(encoder: str, images: Sequence[str], options: SimilarOptions, *, as_json: bool = False) -> int:
    """Find and show the nearest cases of images; return the exit status: 0, or 1 if some cannot be read.

    Args:
        encoder: The run or encoder that made the features of the index.
        images: Files, folders and tables; none to build the index only.
        options: All settings.
        as_json: Print JSON instead of tables.

    Raises:
        UserError: Features of another model, no images, or none that can be read.
    """
    if not images and not options.build:
        raise UserError("softfree similar needs IMAGES, or --build to build the index only")
    if options.show_images and options.html is None:
        raise UserError("--show-images is for --html; add it, or leave it out")
    features = FeatureFolder.open(options.index)
    task = task_of(encoder, features, options.weights)
    index = open_index(features, options.search, build=options.build, shown=options.progress and not as_json)
    if not images:
        print(f"{len(index):,} images, {index.kind}: {features.root / 'index'}", file=sys.stderr)
        return 0
    answers = _answers(task, images, index, options)
    if options.csv is not None:
        write_answers(options.csv, answers)
    if options.html is not None:
        write_similar_page(options.html, answers, images=options.show_images)
    if as_json:
        print(json.dumps([answer.to_dict() for answer in answers], indent=2))
    else:
        print_answers(answers)
    failed = [answer for answer in answers if answer.status != "ok"]
    for answer in failed:
        print(f"softfree: {answer.reason}", file=sys.stderr)
    if len(failed) == len(answers):
        raise UserError(f"none of the {len(answers)} images could be read")
    return 1 if failed else 0


def task_of(encoder: str, features: FeatureFolder, weights: Path | None = None) -> PooledFeatures:
    """Return the task that made the features.

    Args:
        encoder: A run or the name of an encoder.
        features: What it made.
        weights: Weights of a timm model.

    Raises:
        UserError: They were made by another model.
    """
    made = features.identity
    task = PooledFeatures(
        encoder, made.get("kind", "image"), weights, made.get("side") or 224, precision=made.get("precision", "fp32")
    )
    digest = task.identity()["model_digest"]
    if digest != features.model:
        raise UserError(
            f"{features.root} has features of {made.get('encoder', 'a model')} ({features.model[:12]}...), not of"
            f" {encoder} ({digest[:12]}...); distances between two models mean nothing: name the one that made them"
        )
    return task


def _answers(task: PooledFeatures, images: Sequence[str], index: IndexFolder, options: SimilarOptions) -> list[Answer]:
    kind, variables = task.inputs_of()
    samples: list[NamedSource] = find_inputs(images, options.frame, kind, options.image_root, variables)
    rows: pa.Table = task.open(options.index)(samples, range(len(samples)))
    return find_similar(index, rows, samples, options.count, options.columns or ())
