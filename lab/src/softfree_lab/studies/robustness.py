"""``softfree-lab study robustness``: the AUROC of runs on corrupted test images and on another table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from softfree.data.table import Table
from softfree.evaluation.scores import Scores, undefined_reason
from softfree.inference.run import Run
from softfree.reporting.scoring import open_table, own_table
from softfree_lab.records import write_csv, write_machine
from softfree_lab.studies.corruptions import CORRUPTIONS, STRENGTHS
from softfree_lab.studies.load_runs import attention_names, open_runs
from softfree_lab.studies.options import RobustnessOptions
from softfree_lab.studies.paired_bootstrap import BootstrapEstimate, mean
from softfree_lab.studies.robustness_eval import ORIGINAL, RobustnessResult, Variant, measure
from softfree_lab.studies.robustness_report import MEAN, OTHER, plot_robustness, to_markdown
from softfree_runtime.core.errors import UserError, unknown_name
from softfree_runtime.core.files import write_atomically

DIFFERENT = "the runs were tested on different images"


@dataclass(frozen=True)
class Robustness:
    """The result of a robustness study.

    Attributes:
        rows: One row per run, corruption and strength: ``auroc``, its loss ``drop`` relative to the original images,
            95 % intervals of both (``low``, ``high``, ``drop_low``, ``drop_high``), the ``reason`` if one is missing,
            ``n`` images and the number of ``unreadable`` ones. The other table is a corruption of strength 0.
        summary: The same averaged over the runs of an attention; strength -1 is the mean over all strengths.
    """

    rows: pd.DataFrame
    summary: pd.DataFrame

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the rows, for JSON."""
        return json.loads(self.rows.to_json(orient="records"))

    def to_markdown(self) -> str:
        """Lay out the summary."""
        return to_markdown(self.rows, self.summary)


def study_robustness(options: RobustnessOptions, folders: Sequence[str | Path]) -> Robustness:
    """Evaluate runs on their original and corrupted test images, and on another table.

    Writes ``robustness.csv`` and ``robustness_attentions.csv`` (the rows and the summary of the result),
    ``robustness.md``, ``robustness.png`` and ``machine.json`` into ``options.out``.

    Raises:
        UserError: Runs of different tasks, an unknown corruption, or another table with other classes.
    """
    for name in options.corruptions:
        if name not in CORRUPTIONS:
            raise unknown_name("corruption", name, CORRUPTIONS)
    runs = open_runs(folders)
    how = "softfree-lab study robustness RUN --own-table TABLE"
    tables = [_test_rows(own_table(run, options.own_table, how=how)) for run in runs]
    path, image_root = options.table, options.image_root
    others = [] if path is None else [_test_rows(open_table(run, path, image_root), path) for run in runs]
    for table, other in zip(tables, others, strict=False):
        _refuse_other_classes(table, other)
    variants = [ORIGINAL] + [Variant(name, s) for name in dict.fromkeys(options.corruptions) for s in STRENGTHS]
    tested = measure(runs, tables, variants, options, seed=options.seed)
    # With the same seed, the resamples of the two tables would be correlated.
    elsewhere = measure(runs, others, [ORIGINAL], options, seed=options.seed + 1) if others else []
    names = attention_names(runs)
    study = Robustness(_rows(runs, names, tested, elsewhere), summarize(names, tested, elsewhere))
    _write(options.out, study)
    return study


def summarize(
    names: Sequence[str], tested: Sequence[RobustnessResult], elsewhere: Sequence[RobustnessResult] = ()
) -> pd.DataFrame:
    """Average over the runs of one name, and over strengths; see :class:`Robustness`."""
    rows = []
    for name in dict.fromkeys(names):
        members = [number for number, other in enumerate(names) if other == name]
        areas = _averages([tested[number] for number in members])
        plain = areas[ORIGINAL]
        for corruption in dict.fromkeys(variant.corruption for variant in areas if variant.strength):
            areas[Variant(corruption, MEAN)] = mean([areas[Variant(corruption, s)] for s in STRENGTHS])
        if elsewhere:
            areas[Variant(OTHER, 0)] = _averages([elsewhere[number] for number in members])[ORIGINAL]
        head = {"attention": name, "runs": len(members)}
        rows += [head | _row(variant, plain, area) for variant, area in areas.items()]
    return pd.DataFrame(rows)


def _test_rows(table: Table, path: Path | None = None) -> Table:
    table = table.where("test")
    if len(table.frame) == 0:
        raise UserError(f"{path or 'the table of the run'} has no row in split test; assign some rows to it")
    return table


def _refuse_other_classes(own: Table, other: Table) -> None:
    """Raise an error if the mean AUROC would cover different classes, since such means cannot be compared."""
    if unshared := [own.task.classes[k] for k in sorted(_ranked(own) ^ _ranked(other))]:
        raise UserError(
            f"only one of the two tables has test images with and without {', '.join(unshared)}; expected the same"
            " classes in both, since means over different classes cannot be compared"
        )


def _ranked(table: Table) -> set[int]:
    """Return the classes that have both positive and negative rows."""
    blank = np.zeros((len(table.targets), len(table.task.classes)))
    scores = Scores(table.task, blank, table.targets, table.frame["patient"].to_numpy())
    return {k for k in table.task.scored if undefined_reason(*scores.one_vs_rest(k)[:2]) is None}


def _averages(tested: Sequence[RobustnessResult]) -> dict[Variant, BootstrapEstimate]:
    averages = {variant: mean([result.areas[variant] for result in tested]) for variant in tested[0].areas}
    if any(result.images != tested[0].images for result in tested):
        averages = {variant: replace(area, reason=DIFFERENT) for variant, area in averages.items()}
    return averages


def _rows(
    runs: Sequence[Run], names: Sequence[str], tested: Sequence[RobustnessResult], elsewhere: Sequence[RobustnessResult]
) -> pd.DataFrame:
    rows = []
    for number, (run, name, own) in enumerate(zip(runs, names, tested, strict=True)):
        results = [(variant, area, own) for variant, area in own.areas.items()]
        if elsewhere:
            results.append((Variant(OTHER, 0), elsewhere[number].areas[ORIGINAL], elsewhere[number]))
        head = {"run": str(run.folder), "attention": name, "seed": run.config["options"].get("seed")}
        for variant, area, where in results:
            counts = {"n": where.n, "unreadable": sum(where.unreadable.values())}
            rows.append(head | _row(variant, own.areas[ORIGINAL], area) | counts)
    return pd.DataFrame(rows)


def _row(variant: Variant, plain: BootstrapEstimate, area: BootstrapEstimate) -> dict[str, Any]:
    """Return one result and its difference from the original images."""
    interval, drop = area.interval(), (plain - area).interval()
    is_original = variant == ORIGINAL
    return variant._asdict() | {
        "auroc": area.value,
        "low": interval.low,
        "high": interval.high,
        "drop": plain.value - area.value,
        "drop_low": 0.0 if is_original else drop.low,
        "drop_high": 0.0 if is_original else drop.high,
        "reason": interval.reason or (None if is_original else drop.reason) or "",
    }


def _write(out: Path, study: Robustness) -> None:
    write_csv(out / "robustness.csv", study.rows)
    write_csv(out / "robustness_attentions.csv", study.summary)
    write_atomically(out / "robustness.md", study.to_markdown())
    plot_robustness(out / "robustness.png", study.summary)
    write_machine(out)
