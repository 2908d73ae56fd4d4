"""A learning curve and its report: what was measured, and what more patients may bring."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from softfree.evaluation.comparison import TITLES
from softfree.evaluation.formatting import name_of, number, strict_json
from softfree.evaluation.learning_curve import FARTHEST, MIN_SIZES, Fitted, Point
from softfree.evaluation.page import Drawing, Grid, Page, Section, write_page
from softfree.evaluation.plots.sizes import scores_by_size
from softfree.reporting.terminal import console
from softfree.study.options import LearningCurveOptions
from softfree.study.scores import StudyMetric
from softfree_runtime.core.files import replacing


@dataclass(frozen=True)
class LearningCurve:
    """Scores by the number of training patients.

    Attributes:
        trainings: One row per training: fraction, fold, repeat, patients, samples, epochs, the metric.
        patients: ``(S,)`` mean number of training patients of each fraction.
        scores: ``(D, S)`` of each draw.
        points: Means over the draws, with intervals.
        fitted: The power law; None with fewer than four sizes.
        held_out: Number of held-out samples that each size was evaluated on.
        folder: With ``curve.csv``, ``curve.png`` and ``report.html``.
        metric: ``auroc``, of a regression ``mae``, of survival ``c_index``, of several targets ``score``.
    """

    trainings: pd.DataFrame
    patients: np.ndarray
    scores: np.ndarray
    points: list[Point]
    fitted: Fitted | None
    held_out: int
    folder: Path
    metric: StudyMetric = "auroc"

    def predicted(self) -> list[Point]:
        """Predict the score for twice and four times the patients."""
        if self.fitted is None:
            return []
        return [self.fitted.predict(times * float(self.patients[-1])) for times in (2, 4)]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON; NaN becomes None."""
        return strict_json(
            {
                "held_out": self.held_out,
                "metric": self.metric,
                "points": [asdict(point) for point in self.points],
                "law": None if self.fitted is None else asdict(self.fitted.law),
                "predicted": [asdict(point) for point in self.predicted()],
                "folder": str(self.folder),
            }
        )


def write_pages(curve: LearningCurve, options: LearningCurveOptions) -> None:
    """Write ``report.html`` and ``curve.png``."""
    drawing = scores_by_size(curve.patients, curve.scores, curve.points, curve.fitted, name_of(curve.metric))
    with replacing(curve.folder / "curve.png") as temporary:
        drawing.savefig(temporary, dpi=200, facecolor="white")
    caption = "Thin lines: each draw. Points: means with 95 % intervals over draws. Dashed: extrapolated."
    page = Page(
        title="Learning curve",
        paragraphs=sentences(curve),
        sections=[
            Section(
                title=f"{name_of(curve.metric)} by the number of training patients",
                drawings=[Drawing("Learning curve", drawing, caption)],
                table=Grid(["Training patients", name_of(curve.metric), "95 % interval"], [*map(_cells, curve.points)]),
                notes=limits(curve, options),
            )
        ],
        commands=[shlex.join(["softfree", *sys.argv[1:]])],
    )
    write_page(curve.folder / "report.html", page)


def _cells(point: Point) -> list[str]:
    return [f"{point.patients:.0f}", number(point.mean), _interval(point)]


def _interval(point: Point) -> str:
    return f"{number(point.low)} to {number(point.high)}" if point.low == point.low else "–"


def sentences(curve: LearningCurve) -> list[str]:
    """Say what was measured, and what more patients may bring."""
    largest = curve.points[-1]
    draws = len(curve.scores)
    said = [
        f"With {largest.patients:.0f} training patients the {TITLES[curve.metric]} is {number(largest.mean)}"
        f" ({_interval(largest)}), the mean over {draws} draws."
    ]
    if curve.fitted is None:
        return [*said, f"No curve is fitted: that takes {MIN_SIZES} fractions or more, and a score of each draw."]
    law = curve.fitted.law
    sign = "−" if law.b >= 0 else "+"
    said.append(f"The fitted curve is {law.a:.3f} {sign} {abs(law.b):.3g} · n^−{law.c:.2f}, for n patients.")
    for times, point in zip(("Twice", "Four times"), curve.predicted(), strict=True):
        said.append(
            f"{times} the patients ({point.patients:.0f}) may bring {number(point.mean)} ({_interval(point)}), by"
            " extrapolation."
        )
    return said


def limits(curve: LearningCurve, options: LearningCurveOptions) -> list[str]:
    """Say how the numbers were made and what they cannot show."""
    steps = "about as many steps" if options.equal_steps else "as many epochs"
    pretrained = (
        "Each training began with weights pretrained without labels on all training images of its draw, so that only"
        " the number of labels differs."
    )
    return [
        *([pretrained] if options.pretrain else []),
        f"All sizes were evaluated on the same {curve.held_out} held-out samples, and trained for {steps}.",
        "Parts are nested, keep patients whole, and have about the classes' shares.",
        "Intervals are over draws only. Draws share patients, and the law may not hold: the truth is less certain.",
        f"Nothing is extrapolated beyond {FARTHEST:g} times the patients; more patients means more of the same kind,"
        " from the same sites.",
    ]


def print_learning_curve(curve: LearningCurve) -> None:
    """Print the curve and what more patients may bring."""
    name = name_of(curve.metric)
    table = Table(title=f"{name} by training patients", title_justify="left")
    for heading in ("fraction", "patients", name, "95 % interval"):
        table.add_column(heading, justify="right")
    fractions = sorted(curve.trainings["fraction"].unique())
    for fraction, point in zip(fractions, curve.points, strict=True):
        table.add_row(f"{fraction:g}", *_cells(point))
    console.print(table)
    for sentence in sentences(curve):
        console.print(sentence, highlight=False, soft_wrap=True)
    console.print(f"Report: {curve.folder / 'report.html'}", highlight=False)
