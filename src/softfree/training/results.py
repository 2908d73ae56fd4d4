"""After training: calibrate, evaluate, compare with simpler models, record the cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
from softfree.data.targets import tables_of, with_target
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.inference.reproduction import record_phantoms
from softfree.inference.run import Run
from softfree.inference.unusual import MAX_SAMPLES, TokenMeans, TrainingDistribution
from softfree.reporting.baselines import BaselinePredictions, Baselines, BaselinesOfTargets, fit_baselines
from softfree.reporting.evaluate import Evaluation, write_results
from softfree.reporting.facts import near_duplicates_in_words
from softfree.reporting.options import EvaluateOptions
from softfree.reporting.scoring import calibrate, predict_rows, write_predictions
from softfree.reporting.targets import (
    TargetEvaluations,
    own_runs,
    part_of,
    write_all_predictions,
    write_overview,
    write_target_runs,
)
from softfree.training.loaders import TrainingSamples
from softfree_runtime.core.targets import Targets


@dataclass(frozen=True)
class TrainingResult:
    """A finished training run.

    Attributes:
        run: The calibrated run.
        evaluation: Its evaluation, or those of several targets; None if training had already finished, and in all
            processes of distributed training except the first.
    """

    run: Run
    evaluation: Evaluation | TargetEvaluations | None = None


def measure_run(options: TrainOptions, table: Table, samples: TrainingSamples) -> TrainingResult:
    """Calibrate a trained run on validation, evaluate it on test (else on validation), and write all results.

    Simpler models are fitted on the reduced samples collected while reading, and evaluated on the same split.
    """
    run = Run.load(options.out)
    if isinstance(run.task, Targets):
        write_target_runs(run, table)
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
    fitted = _fit_baselines(run, table, samples)
    simpler = {split: _predictions_of(run, fitted, len(table.where(split).frame), thumbnails=few) for split in splits}
    means = {split: TokenMeans(len(table.where(split).frame)) for split in splits}
    frames = {
        split: predict_rows(run, table.where(split), evaluation_options, simpler[split], means[split])
        for split in splits
    }
    _add_distances(run, frames, means, _training_samples(run, table, samples), evaluation_options)
    _report_near_duplicates(run, table, samples.reduced | {split: item.reduced for split, item in simpler.items()})
    record_phantoms(run)
    if run.parts:
        return _measure_targets(run, table, frames, evaluation_options)
    run = calibrate(run, frames["val"])
    write_predictions(run.directory.predictions, pd.concat(frames.values(), ignore_index=True), run)
    evaluation = write_results(run, table, frames[splits[-1]], evaluation_options)
    run.directory.write_digests()
    return TrainingResult(run, evaluation)


def _measure_targets(
    run: Run, table: Table, frames: Mapping[Split, pd.DataFrame], options: EvaluateOptions
) -> TrainingResult:
    """Calibrate and evaluate each target on the samples in which it is known, and write a page over all."""
    evaluations = {}
    for (name, part), rows in zip(run.parts.items(), tables_of(table).values(), strict=True):
        own = {split: part_of(frame, run.task, name) for split, frame in frames.items()}
        part = calibrate(part, own["val"])
        write_predictions(part.directory.predictions, pd.concat(own.values(), ignore_index=True), part)
        split = next(split for split in reversed(list(own)) if (own[split]["status"] == "ok").any())
        evaluations[name] = write_results(part, rows, own[split], replace(options, split=split))
    for part in run.parts.values():
        part.directory.write_digests()
    run = Run.load(run.folder)  # whose targets are calibrated
    write_all_predictions(run, pd.concat(frames.values(), ignore_index=True))
    result = write_overview(run, evaluations, run.folder, run.table_path.name)
    run.directory.write_digests()
    return TrainingResult(run, result)


def _fit_baselines(run: Run, table: Table, samples: TrainingSamples) -> dict[str, Baselines]:
    """Fit simpler models of each target to the reduced samples in which it is known, and write them."""
    splits = {split: table.where(split) for split in ("train", "val")}
    fitted = {}
    for name, part in own_runs(run).items():
        tables, reduced = splits, samples.reduced
        if isinstance(run.task, Targets):
            tables = {split: with_target(rows, name) for split, rows in splits.items()}
            known = {split: run.task.known(rows.targets)[name] for split, rows in splits.items()}
            reduced = {split: reduced[split].take(np.flatnonzero(rows)) for split, rows in known.items()}
        fitted[name] = fit_baselines(tables, reduced, run.preprocessing.kind)
        fitted[name].write(part.directory.baselines)
    return fitted


def _predictions_of(
    run: Run, fitted: Mapping[str, Baselines], count: int, *, thumbnails: bool
) -> BaselinePredictions | BaselinesOfTargets:
    """Return what predicts ``count`` samples with the simpler models of each target."""
    first = next(iter(fitted))
    predictions = {
        name: BaselinePredictions(
            fitted[name], part.task, run.preprocessing, count, thumbnails=thumbnails and name == first
        )
        for name, part in own_runs(run).items()
    }
    return BaselinesOfTargets(predictions) if run.parts else predictions[first]


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
