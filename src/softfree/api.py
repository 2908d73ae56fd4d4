"""The public functions: what the commands do, from Python.

Options are keyword arguments with the names, types and defaults of the options classes that the docstrings name, which
are also the options of the commands. Each function imports what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import nn

    from softfree.deployment.pipeline import Exported
    from softfree.inference.run import Run
    from softfree.planning.plan import Plan
    from softfree.reporting.evaluate import Evaluation
    from softfree.reporting.run_comparison import RunComparison
    from softfree.reporting.targets import TargetEvaluations
    from softfree.saliency.api import Explained
    from softfree.study.auto import StudyResult
    from softfree.study.learning_curve_report import LearningCurve
    from softfree.study.tune_report import TuningResult

T = TypeVar("T")


def load(run: str | Path) -> Run:
    """Open a run directory: ``softfree.load("run").predict(paths_or_arrays)``.

    Raises:
        UserError: No finished run, or files that contradict each other.
    """
    from softfree.inference.run import Run

    return Run.load(run)


def train(table: str | Path, **options: Any) -> Run:
    """Train a classifier on a table: ``softfree.train("table.csv", out="run", size=512)``.

    Args:
        table: CSV or Parquet file with one row per image, or a folder of classes.
        **options: Fields of :class:`softfree.core.options.TrainOptions`.

    Returns:
        The finished run.

    Raises:
        UserError: Options, a table or images that no training can start from.
    """
    from softfree.core.options import TrainOptions
    from softfree.training.loop import train

    return train(_options(TrainOptions, options, table=Path(table))).run


def auto(table: str | Path, **options: Any) -> StudyResult | None:
    """Plan, cross-validate and ensemble: ``softfree.auto("table.csv", out="study", budget="4h")``.

    Args:
        table: CSV or Parquet file with one row per image, or a folder of classes.
        **options: Fields of :class:`softfree.study.options.AutoOptions`.

    Returns:
        The ensemble and its evaluations; None with ``dry_run``, which only writes the plan.

    Raises:
        UserError: Options, a table or images that no study can start from, or a study that was begun otherwise.
    """
    from softfree.study.auto import auto
    from softfree.study.options import AutoOptions

    return auto(Path(table), _options(AutoOptions, options))


def learning_curve(table: str | Path, **options: Any) -> LearningCurve:
    """Train on growing parts of a table: ``softfree.learning_curve("table.csv", out="curve")``.

    Args:
        table: CSV or Parquet file with one row per image, or a folder of classes.
        **options: Fields of :class:`softfree.study.options.LearningCurveOptions`.

    Raises:
        UserError: Options, a table or images that no training can start from, or a curve that was begun otherwise.
    """
    from softfree.study.learning_curve import learning_curve
    from softfree.study.options import LearningCurveOptions

    return learning_curve(Path(table), _options(LearningCurveOptions, options))


def tune(table: str | Path, **options: Any) -> TuningResult:
    """Search for options of :func:`train`: ``softfree.tune("table.csv", out="tuned", budget="4h")``.

    Args:
        table: CSV or Parquet file with one row per image, or a folder of classes.
        **options: Fields of :class:`softfree.study.options.TuneOptions`.

    Raises:
        UserError: Options, a table or images that no trial can start from, or a search that was begun otherwise.
    """
    from softfree.study.options import TuneOptions
    from softfree.study.tune import tune

    return tune(Path(table), _options(TuneOptions, options))


def pretrain(table: str | Path, **options: Any) -> Path:
    """Train an encoder on images without labels; ``train(..., weights=folder)`` goes on from it.

    Args:
        table: CSV or Parquet file with a column ``path``, or a folder of images.
        **options: Fields of :class:`softfree.pretraining.options.PretrainOptions`.

    Returns:
        The folder of the weights.

    Raises:
        UserError: Options or images that no training can start from.
    """
    from softfree.pretraining.loop import pretrain
    from softfree.pretraining.options import PretrainOptions

    return pretrain(_options(PretrainOptions, options, table=Path(table)))


def evaluate(run: str | Path | Run, table: str | Path | None = None, **options: Any) -> Evaluation | TargetEvaluations:
    """Compute metrics with intervals, on the run's own test split or on another table.

    Args:
        run: A run or its directory.
        table: Another table; needs ``out``.
        **options: Fields of :class:`softfree.reporting.options.EvaluateOptions`.

    Raises:
        UserError: A table that does not fit the run.
    """
    from softfree.reporting.options import EvaluateOptions
    from softfree.reporting.targets import evaluate_run

    chosen = _options(EvaluateOptions, options, table=None if table is None else Path(table))
    return evaluate_run(_run(run), chosen)


def compare(runs: Sequence[str | Path], **options: Any) -> RunComparison:
    """Compare runs and studies on the same samples: ``softfree.compare(["run", "other"], margin=0.05)``.

    Args:
        runs: Run and study directories of one table; the first is the reference.
        **options: Fields of :class:`softfree.reporting.options.CompareOptions`.

    Raises:
        UserError: Runs of different tables, classes or labels, or that were evaluated on different rows.
    """
    from softfree.reporting.comparison_files import write_comparison
    from softfree.reporting.options import CompareOptions
    from softfree.reporting.run_comparison import compare_runs

    chosen = _options(CompareOptions, options)
    comparison = compare_runs([Path(run) for run in runs], chosen)
    if chosen.out is not None:
        write_comparison(chosen.out, comparison)
    return comparison


def predict(
    run: str | Path | Run, inputs: str | Path | np.ndarray | Sequence[str | Path | np.ndarray], **options: Any
) -> pd.DataFrame:
    """Predict files, folders, tables or arrays; one row per input, unreadable ones with their reason.

    Args:
        run: A run or its directory.
        inputs: Paths, or arrays (H, W) or (H, W, C).
        **options: Arguments of :meth:`softfree.inference.run.Run.predict`.
    """
    return _run(run).predict(inputs, **options)


def explain(run: str | Path | Run, inputs: Sequence[str | Path], **options: Any) -> list[Explained]:
    """Compute saliency maps of files, folders or tables.

    Args:
        run: A run or its directory.
        inputs: Paths.
        **options: Fields of :class:`softfree.saliency.options.ExplainOptions`.

    Raises:
        UserError: An unknown method, class or layer, or one that the run cannot be explained with.
    """
    from softfree.saliency.api import explain
    from softfree.saliency.options import ExplainOptions

    return explain(_run(run), [str(path) for path in inputs], _options(ExplainOptions, options))


def export(run: str | Path, **options: Any) -> Exported:
    """Write a file that runs without PyTorch, proven equal to the run.

    Args:
        run: A run directory.
        **options: Fields of :class:`softfree.deployment.options.ExportOptions`.

    Raises:
        UserError: A model or a size that the format cannot hold, or a file that differs from the run.
    """
    from softfree.deployment.options import ExportOptions
    from softfree.deployment.pipeline import export

    return export(run, _options(ExportOptions, options))


def create_model(name: str, **arguments: Any) -> nn.Module:
    """Create a named model (``softfree models`` lists them) with random weights.

    Args:
        name: Such as ``seqnorm_vit_small_patch16``.
        **arguments: Such as ``num_classes``, ``in_chans``, ``img_size``.

    Raises:
        UserError: An unknown name, or arguments that the model does not take.
    """
    from softfree.models import create_model

    return create_model(name, **arguments)


def plan(**options: Any) -> Plan:
    """Predict memory and work of a training step or an inference before anything runs.

    Args:
        **options: Fields of :class:`softfree.planning.options.PlanOptions`.
    """
    from softfree.planning.options import PlanOptions
    from softfree.planning.plan import make_plan

    return make_plan(_options(PlanOptions, options))


def _run(run: str | Path | Run) -> Run:
    return load(run) if isinstance(run, (str, Path)) else run


def _options(kind: type[T], given: dict[str, Any], **own: Any) -> T:
    """Make options as the command line does: text becomes a path where a field is one, and values are checked."""
    from dataclasses import fields

    from softfree.core.choices import checked

    types = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    paths = {
        name: Path(value) if isinstance(value, str) and types.get(name, "").startswith("Path") else value
        for name, value in given.items()
    }
    return checked(kind(**own, **paths))
