"""``softfree-lab study variables``: what a model gains from clinical variables whose effect is known.

The risk of each patient is logistic in a finding of the image, in an age and in a sex that are independent of it. The
AUROC of that risk is the best that any model can reach. With the variables of other patients, drawn at random, there is
nothing to gain from them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from softfree.core.environment import describe_machine
from softfree.core.options import TrainOptions
from softfree.evaluation.metrics import Metric, measure
from softfree.evaluation.report import Compared
from softfree.evaluation.scores import Scores
from softfree.reporting.scoring import own_table
from softfree.training.loop import train
from softfree_lab.records import markdown_table, write_record
from softfree_lab.studies.options import VariablesOptions
from softfree_runtime.core.errors import UserError

NOTICE = "These images and patients are computed."
FINDING, AGE, SEX = 2.4, 1.5, 1.5  # log odds: of the finding, of a standard deviation of age, of sex
MEAN_AGE, STD_AGE = 60.0, 12.0
UNKNOWN = 0.1  # share of ages that are missing
CLASSES = ("no", "yes")


@dataclass(frozen=True)
class VariablesStudy:
    """The result.

    Attributes:
        rows: Per seed, variables and predictor, AUROC on the test cases with a 95 % interval.
    """

    rows: pd.DataFrame

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the rows, for JSON."""
        return json.loads(self.rows.to_json(orient="records"))

    def to_markdown(self) -> str:
        """Lay out the rows."""
        lines = [
            (
                str(row["seed"]),
                row["variables"],
                row["predictor"],
                "{auroc:.3f} ({low:.3f} to {high:.3f})".format(**row),
                "" if row["gain"] is None else "{gain:+.3f} ({gain_low:+.3f} to {gain_high:+.3f})".format(**row),
            )
            for row in self.to_dict()
        ]
        return markdown_table(("seed", "variables", "predictor", "AUROC (95 % interval)", "model minus this"), lines)


def study_variables(options: VariablesOptions) -> VariablesStudy:
    """Train models on images with variables, true ones and those of other patients.

    Args:
        options: All settings.

    Returns:
        The rows, which are also written to ``options.out``.

    Raises:
        UserError: Too few cases, or a folder that is in use.
    """
    if min(options.n_train, options.n_val, options.n_test) < 10:
        raise UserError("--n-train, --n-val and --n-test: expected at least 10 each")
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for shuffled in (False, True):
            folder = options.work / f"seed{seed}" / ("shuffled" if shuffled else "true")
            table = write_patients(folder / "images", options, seed=seed, shuffled=shuffled)
            key = {"seed": seed, "variables": "of other patients" if shuffled else "true"}
            rows += [key | row for row in _evaluate(table, folder / "run", options, seed)]
    result = VariablesStudy(pd.DataFrame(rows))
    record = asdict(options) | {"work": None}
    write_record(options.out, result.rows, record, machine=describe_machine(), text=result.to_markdown())
    return result


def write_patients(folder: Path, options: VariablesOptions, *, seed: int, shuffled: bool) -> Path:
    """Write images as PNGs and their table, with the true risk of each patient in a column ``risk``.

    Args:
        folder: Made when it is not there.
        options: Numbers of cases and size of the images.
        seed: Equal seeds give equal images and risks.
        shuffled: Give each patient the variables of another.

    Returns:
        The path of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = ["train"] * options.n_train + ["val"] * options.n_val + ["test"] * options.n_test
    random = np.random.default_rng(seed)
    count = len(splits)
    finding, age, sex = random.random(count) < 0.5, random.normal(size=count), random.random(count) < 0.5
    risk = 1 / (1 + np.exp(-(FINDING * (finding - 0.5) + AGE * age + SEX * (sex - 0.5))))
    ill = random.random(count) < risk
    for number, present in enumerate(finding):
        _draw(random, options.size, present).save(folder / f"{number:05}.png", compress_level=1)
    known = random.random(count) >= UNKNOWN
    order = random.permutation(count) if shuffled else np.arange(count)
    ages = [f"{MEAN_AGE + STD_AGE * age[row]:.0f}" if known[row] else "" for row in order]
    frame = pd.DataFrame(
        {
            "path": [f"{number:05}.png" for number in range(count)],
            "label": np.where(ill, *CLASSES[::-1]),
            "age": ages,
            "sex": np.where(sex[order], "female", "male"),
            "risk": risk,
            "split": splits,
        }
    )
    frame.to_csv(folder / "patients.csv", index=False)
    return folder / "patients.csv"


def _draw(random: np.random.Generator, size: int, present: bool) -> Image.Image:
    """Draw noise, with a bright disk of a quarter of the side anywhere in it if the finding is present."""
    pixels = random.integers(0, 120, (size, size)).astype(np.float64)
    radius = size // 8
    center = random.integers(radius, size - radius, 2)
    rows, columns = np.ogrid[:size, :size]
    if present:
        pixels[(rows - center[0]) ** 2 + (columns - center[1]) ** 2 <= radius**2] += 110
    return Image.fromarray(pixels.astype(np.uint8))


def _evaluate(table: Path, out: Path, options: VariablesOptions, seed: int) -> list[dict[str, Any]]:
    """Train on a table; return the AUROC of the model and of what it is compared with."""
    recipe = TrainOptions(
        table=table,
        out=out,
        seed=seed,
        variables=["age", "sex"],
        model=options.model,
        model_options=options.model_options,
        size=options.size,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        progress=options.progress,
    )
    result = train(recipe, notice=NOTICE)
    evaluation = result.evaluation
    if evaluation is None:
        raise UserError(f"--work: {out} holds a finished run; name another folder")
    test = own_table(result.run, how="").where("test")
    risk = test.frame["risk"].to_numpy(float)
    patients = test.frame["patient"].to_numpy()
    best = Scores(result.run.task, np.stack([1 - risk, risk], axis=1), test.targets, patients)
    rows = [
        _row("model", evaluation.metrics["auroc"]),
        *(_row(other.title, other.auroc, other) for other in evaluation.baselines.rows),
        _row("true risk", measure(best, None)["auroc"]),
    ]
    return [row | {"n": len(risk)} for row in rows]


def _row(predictor: str, metric: Metric, other: Compared | None = None) -> dict[str, Any]:
    row: dict[str, Any] = {"predictor": predictor, "auroc": metric.value, "low": metric.low, "high": metric.high}
    if other is None or other.comparison is None:
        return row | dict.fromkeys(("gain", "gain_low", "gain_high"))
    difference = other.comparison.differences["auroc"]
    return row | {"gain": difference.value, "gain_low": difference.low, "gain_high": difference.high}
