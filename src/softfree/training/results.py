"""After training: calibrate, evaluate, compare with simpler models, record the cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from softfree.core.environment import describe_machine, peak_memory
from softfree.core.flops import multiply_adds
from softfree.core.options import Split, TrainOptions
from softfree.core.progress import console
from softfree.data.audit.near_duplicates import MAX_IMAGES, find_pairs
from softfree.data.dataset import SampleDataset
from softfree.data.reduced import Reduced
from softfree.data.table import Table
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.inference.reproduction import record_phantoms
from softfree.inference.run import Run
from softfree.inference.unusual import MAX_SAMPLES, TokenMeans, TrainingDistribution
from softfree.reporting.baselines import BaselinePredictions, fit_baselines
from softfree.reporting.evaluate import Evaluation, write_results
from softfree.reporting.facts import near_duplicates_in_words
from softfree.reporting.options import EvaluateOptions
from softfree.reporting.scoring import calibrate, predict_rows, write_predictions
from softfree.training.loaders import TrainingSamples


@dataclass(frozen=True)
class TrainingResult:
    """A finished training run.

    Attributes:
        run: The calibrated run.
        evaluation: Its evaluation; None if training had already finished, and in all processes of distributed training
            except the first.
    """

    run: Run
    evaluation: Evaluation | None = None


def measure_run(options: TrainOptions, table: Table, samples: TrainingSamples) -> TrainingResult:
    """Calibrate a trained run on validation, evaluate it on test (else on validation), and write all results.

    Simpler models are fitted on the reduced samples collected while reading, and evaluated on the same split.
    """
    run = Run.load(options.out)
    fitting_tables = {split: table.where(split) for split in ("train", "val")}
    baselines = fit_baselines(fitting_tables, samples.reduced, run.preprocessing.kind)
    baselines.write(run.directory.baselines)
    splits: list[Split] = ["val", "test"] if len(table.where("test").frame) else ["val"]
    evaluation_options = EvaluateOptions(
        split=splits[-1],
        seed=options.seed,
        show_images=options.show_images,
        maps=options.maps,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        progress=options.progress,
        **options.streaming,
    )
    few = len(table.frame) <= MAX_IMAGES
    simpler = {
        split: BaselinePredictions(
            baselines, run.task, run.preprocessing, len(table.where(split).frame), thumbnails=few
        )
        for split in splits
    }
    means = {split: TokenMeans(len(table.where(split).frame)) for split in splits}
    frames = {
        split: predict_rows(run, table.where(split), evaluation_options, simpler[split], means[split])
        for split in splits
    }
    _add_distances(run, frames, means, _training_samples(run, table, samples), evaluation_options)
    _report_near_duplicates(run, table, samples.reduced | {split: item.reduced for split, item in simpler.items()})
    run = calibrate(run, frames["val"])
    write_predictions(run.directory.predictions, pd.concat(frames.values(), ignore_index=True), run)
    evaluation = write_results(run, table, frames[splits[-1]], evaluation_options)
    record_phantoms(run)
    run.directory.write_digests()
    return TrainingResult(run, evaluation)


def _training_samples(run: Run, table: Table, samples: TrainingSamples) -> SampleDataset:
    """Return training samples as in prediction, evenly spaced, from the cache if it holds these."""
    count = len(samples.train)
    indices = np.unique(np.linspace(0, count - 1, min(count, MAX_SAMPLES)).astype(int))
    if samples.train.preprocessing == run.preprocessing:
        return samples.train.without_augmentation(indices.tolist())
    rows = table.where("train").take(indices)
    return SampleDataset(rows.sources, None, run.preprocessing, frames=rows.frames)


def _add_distances(
    run: Run,
    frames: Mapping[Split, pd.DataFrame],
    means: Mapping[Split, TokenMeans],
    training: SampleDataset,
    options: InferenceOptions,
) -> None:
    """Store where the training samples lie, and add distances from them to the predictions."""
    run.directory.distribution.unlink(missing_ok=True)
    if not means["val"].values:
        console.print("Unusual samples are not flagged: the model has no tokens", highlight=False)
        return
    found = TokenMeans(len(training))
    infer(run.model, training, len(run.task.outputs), options, description="Reading mean tokens", on_token_means=found)
    validation, patients = means["val"].values[0], frames["val"]["patient"].to_numpy()
    distribution = TrainingDistribution.fit(found.values[0], validation, patients) if found.values else None
    if distribution is None:
        console.print("Unusual samples are not flagged: too few samples can be read", highlight=False)
        return
    distribution.write(run.directory.distribution)
    for split, frame in frames.items():
        distance = distribution.distance(means[split].values[0]) if means[split].values else np.nan
        frame["distance"] = np.where(frame["status"] == "ok", distance, np.nan)


def _report_near_duplicates(run: Run, table: Table, reduced: Mapping[str, Reduced]) -> None:
    """Warn of images that are almost identical to one of another split, on the terminal and in the report."""
    thumbnails = {split: part.thumbnails for split, part in reduced.items() if part.thumbnails is not None}
    if not thumbnails:
        return
    rows = np.concatenate([table.where(split).frame["row"].to_numpy() for split in thumbnails])
    splits = np.repeat(list(thumbnails), [len(images) for images in thumbnails.values()])
    found = find_pairs(np.concatenate(list(thumbnails.values())))
    pairs = pd.DataFrame(
        [(rows[a], splits[a], rows[b], splits[b], round(alike, 4)) for a, b, alike in found if splits[a] != splits[b]],
        columns=["row_a", "split_a", "row_b", "split_b", "similarity"],
    )
    run.directory.near_duplicates.unlink(missing_ok=True)
    if pairs.empty:
        return
    run.directory.write_near_duplicates(pairs)
    warning = near_duplicates_in_words(pairs, "split")
    console.print(warning, style="yellow", highlight=False, markup=False, soft_wrap=True)
    run.config["table"]["copies"] = warning
    run.directory.write_config(run.config)


def describe_cost(model: nn.Module, shape: tuple[int, ...], usage: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters, multiply-adds, time and memory of a training run.

    Args:
        model: The trained model.
        shape: Shape of a sample, without the batch axis.
        usage: Seconds, CPU seconds and peak bytes of all sessions.
    """
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": multiply_adds(model, (1, *shape)),
        "shape": list(shape),
        "seconds": round(usage["seconds"], 1),
        "cpu_seconds": round(usage["cpu_seconds"], 1),
        "resumed": usage["resumed"],
        "peak_bytes": max(int(usage["peak_bytes"]), peak_memory()),
        "machine": describe_machine(),
    }
