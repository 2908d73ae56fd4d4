"""Results on one set of samples, in sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softfree.data.audit.checks import counted
from softfree.evaluation.comparison import TITLES
from softfree.evaluation.formatting import NAMES
from softfree.evaluation.metrics import target_metric
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree_runtime.core.errors import UserError

PROPER = ("AUROC", "PPV", "NPV", "F1", "Matthews", "Cohen", "Brier", "C-index")  # names that keep their capital


@dataclass(frozen=True)
class Evaluated:
    """Results on one set of samples.

    Attributes:
        name: Which samples, in words.
        is_external: Whether they come from another table than the run's.
        results: Contents of ``metrics.json``.
    """

    name: str
    is_external: bool
    results: Mapping[str, Any]

    @property
    def metrics(self) -> dict[str, Mapping[str, Any]]:
        """The metrics that have a value; those of single classes only if the task has one scored class."""
        single = self.results["task"] == "binary"
        metrics = self.results["metrics"]
        return {
            name: metric
            for name, metric in metrics.items()
            if metric["value"] is not None and (single or "/" not in name) and name != "auroc_delong"
        }

    def baselines(self) -> list[str]:
        """Compare with simpler models on the same samples."""
        kind = {"regression": "Ridge", "survival": "Cox"}.get(self.results["task"], "Logistic")
        title = TITLES[target_metric(self.results["task"])]
        return [
            f"{model.get('title', f'{kind} regression on {name}')}, {self.name}: {title} {with_interval(model)};"
            f" model minus this: {with_interval(model['model_minus_baseline'])}."
            for name, model in self.results.get("baselines", {}).get("models", {}).items()
        ]

    def coverage(self) -> list[str]:
        """State how often conformal sets contain the truth."""
        sets = self.results.get("conformal")
        if not sets or sets["all"]["covered"] is None:
            return []
        over_all = sets["all"]
        value = with_interval({"value": over_all["covered"], "low": over_all["low"], "high": over_all["high"]})
        return [
            f"Conformal sets made for a coverage of {sets['target']:g}, {self.name}: coverage {value}; no single class"
            f" was plausible for {100 * sets['abstained']:.0f} % of the samples."
        ]

    def warnings(self) -> list[str]:
        """State what speaks against the results."""
        found = [f"{text[:1].lower()}{text[1:]}" for text in self.results.get("baselines", {}).get("warnings", [])]
        main = target_metric(self.results["task"])
        metric = self.metrics.get(main, {})
        if reason := metric.get("reason"):
            missing = "no interval of the " if metric.get("low") is None else ""
            found.append(f"{missing}{TITLES[main]}: {reason}")
        if suspect := self.results.get("suspect_labels"):
            found.append(f"{counted(suspect, 'label')} may be wrong")
        return [capitalized(f"{self.name}: {text}") for text in found]


def read_external(folder: Path, run: Run) -> Evaluated:
    """Read an evaluation on another table, of several targets that of the folder of one.

    Raises:
        UserError: The folder has none, or of other classes.
    """
    directory = RunDirectory(folder)
    if not directory.metrics.is_file():
        raise UserError(f"{folder} has no {directory.metrics.name}; expected a folder made by softfree evaluate --out")
    results = directory.read_metrics()
    if results.get("classes") != list(run.task.classes):
        raise UserError(f"{folder} was evaluated for other classes than those of {run.folder}")
    root = folder.resolve()
    name = root.parents[1].name if root.parent.name == "targets" else root.name
    return Evaluated(f"external data {name}", True, results)


def capitalized(text: str) -> str:
    """Make a sentence of text."""
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def in_a_sentence(metric: str) -> str:
    """Return the name of a metric within a sentence, without its class."""
    name = NAMES.get(metric.partition("/")[0], metric)
    return name if name.startswith(PROPER) else name[0].lower() + name[1:]


def with_interval(metric: Mapping[str, Any]) -> str:
    """Return a value of ``metrics.json`` with its interval."""
    if metric["value"] is None:
        return "undefined"
    value = f"{metric['value']:.3f}"
    if metric.get("low") is None:
        return value
    return f"{value} (95 % interval {metric['low']:.3f} to {metric['high']:.3f})"


def listed(words: Sequence[str], conjunction: str) -> str:
    """Join words as a sentence does."""
    *most, last = words
    return f"{', '.join(most)} {conjunction} {last}" if most else last
