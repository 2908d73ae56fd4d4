"""``softfree-lab study survival``: computed images with a finding that sets the hazard of an event.

Each image has a round mark on uneven ground. Either its size is graded, and the hazard grows with it, or half of the
images have a mark of one size and the others none. Times to the event are exponential with that hazard, and
observation ends after another exponential time, or at a common end. The best possible C-index is that of the true
hazard, which is far below 1: the times are random. A model has learned what there is if its C-index comes close.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from softfree.core.environment import describe_machine
from softfree.core.options import TrainOptions
from softfree.core.progress import tracked
from softfree.evaluation.breslow import breslow
from softfree.evaluation.comparison import Difference, compare
from softfree.evaluation.kaplan_meier import survival_at
from softfree.evaluation.metrics import measure
from softfree.evaluation.times import Times
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.reporting.scoring import logit_columns, target_columns, times_in
from softfree.training.loop import train
from softfree_lab.records import markdown_table, write_record
from softfree_lab.studies.options import SurvivalStudyOptions
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.survival import Survival

NOTICE = "These images are computed, not taken of patients."
RADII = 0.05, 0.22  # of the smallest and largest mark, relative to the side of the image
MIDDLE = 0.12  # of the only mark where it is present or absent
GROUND, MARK, NOISE = 18.0, 55.0, 8.0  # gray levels: uneven ground, the mark, and noise
SCALE = 500.0  # days: mean time at a hazard ratio of 1
CENSORED, END = 1500.0, 2000.0  # days: mean time to the end of observation, and the common end


@dataclass(frozen=True)
class SurvivalStudy:
    """The result.

    Attributes:
        rows: One row per finding, loss and seed: C-index of the model and of the true hazard on the test images, and
            their difference with its paired 95 % interval; integrated Brier scores with and without the slope and level
            that were fitted on the validation images; and by how much the mean predicted survival is off the
            Kaplan-Meier curve at the horizon where it is farthest.
    """

    rows: pd.DataFrame

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the rows, for JSON."""
        return json.loads(self.rows.to_json(orient="records"))

    def to_markdown(self) -> str:
        """Lay out the rows."""
        lines = [
            (
                row["finding"],
                row["loss"],
                str(row["seed"]),
                f"{row['c_index']:.3f}",
                f"{row['true']:.3f}",
                f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})",
                f"{row['brier_uncalibrated']:.3f}, {row['brier']:.3f} ({row['true_brier']:.3f})",
                f"{row['off_uncalibrated']:+.3f}, {row['off']:+.3f}",
                f"{row['slope']:.2f}, {row['level']:+.2f}",
                f"{row['events']} of {row['n']}",
            )
            for row in self.to_dict()
        ]
        columns = ("finding", "loss", "seed", "C-index", "of the true hazard", "difference (95 % interval)")
        brier, off = "integrated Brier before, after calibration (true)", "mean survival off by, before, after"
        return markdown_table((*columns, brier, off, "slope, level", "events in test"), lines)


def study_survival(options: SurvivalStudyOptions) -> SurvivalStudy:
    """Train survival models on computed images, and compare their C-index with that of the true hazard.

    Args:
        options: All settings.

    Returns:
        The rows, which are also written to ``options.out``.

    Raises:
        UserError: An impossible hazard ratio, or a folder that is in use.
    """
    if not 1 < options.hazard_ratio < math.inf:
        raise UserError(f"--hazard-ratio {options.hazard_ratio:g}: expected a number above 1")
    rows = []
    for finding in options.findings:
        for seed in options.seeds:
            folder = options.work / f"{finding}_seed{seed}"
            table = write_images(folder / "images", options, finding, seed=seed)
            for loss in options.losses:
                recipe = TrainOptions(
                    table=table,
                    label="days",
                    event="event",
                    task="survival",
                    loss=loss,
                    out=folder / loss,
                    seed=seed,
                    model=options.model,
                    model_options=options.model_options,
                    size=options.size,
                    epochs=options.epochs,
                    batch_size=options.batch_size,
                    lr=options.lr,
                    drop_path=0.0,
                    progress=options.progress,
                )
                run = train(recipe, notice=NOTICE).run
                rows.append({"finding": finding, "loss": loss, "seed": seed} | _against_truth(run, table))
    result = SurvivalStudy(pd.DataFrame(rows))
    record = asdict(options) | {"work": None}
    write_record(options.out, result.rows, record, machine=describe_machine(), text=result.to_markdown())
    return result


def write_images(folder: Path, options: SurvivalStudyOptions, finding: str, *, seed: int) -> Path:
    """Write gray PNGs, and their table with times, events and the true logarithm of each hazard ratio.

    Args:
        folder: Made when it is not there.
        options: Numbers and size of images, and the hazard ratio: of one standard deviation of the size, or of a mark
            that is present.
        finding: ``graded`` or ``present``.
        seed: Equal seeds give equal images.

    Returns:
        The path of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = ["train"] * options.n_train + ["val"] * options.n_val + ["test"] * options.n_test
    rows = []
    for number, split in enumerate(tracked(splits, "Drawing images", total=len(splits), shown=options.progress)):
        rng = np.random.default_rng((seed, number))
        grade = rng.uniform()
        if finding == "present":
            radius, score = (MIDDLE, 0.5) if grade < 0.5 else (0.0, -0.5)
        else:
            radius = RADII[0] + grade * (RADII[1] - RADII[0])
            score = (grade - 0.5) * math.sqrt(12)  # in standard deviations
        log_hazard = math.log(options.hazard_ratio) * score
        time = rng.exponential(SCALE / math.exp(log_hazard))
        end = min(rng.exponential(CENSORED), END)
        name = f"{number:05}.png"
        _draw(rng, options.size, radius).save(folder / name, compress_level=1)
        rows.append((name, round(min(time, end), 2), int(time <= end), f"p{number}", split, log_hazard))
    columns = ["path", "days", "event", "patient_id", "split", "log_hazard"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "survival.csv", index=False)
    return folder / "survival.csv"


def _draw(rng: np.random.Generator, side: int, radius: float) -> Image.Image:
    ground = ndimage.gaussian_filter(rng.standard_normal((side, side)), side / 8, mode="wrap")
    pixels = 110 + GROUND * ground / ground.std() + NOISE * rng.standard_normal((side, side))
    row, column = rng.uniform(0.25, 0.75, 2) * side
    down, across = np.mgrid[:side, :side]
    pixels += MARK * (np.hypot(down - row, across - column) < radius * side)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _against_truth(run: Run, table: Path) -> dict[str, Any]:
    """Compare the stored predictions of a run's test rows with the true hazard."""
    frame = run.directory.read_predictions()
    test = frame[frame["split"] == "test"]
    model, fitted = times_in(test, run), run.calibration.survival
    assert fitted is not None
    uncalibrated = times_in(test, replace(run, calibration=Calibration(survival=_uncalibrated(run, frame))))
    truth = pd.read_csv(table)["log_hazard"].to_numpy()[test["row"]]
    rates = np.exp(truth)[:, None] / SCALE
    survival = [np.exp(-rates * np.asarray(times)) for times in (model.horizons, model.grid)]
    best = Times(model.task, truth, model.targets, model.patients, model.horizons, *survival)
    found = compare(model, best).differences
    difference: Difference = found["c_index"]
    return {
        "c_index": difference.a,
        "true": difference.b,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "brier_uncalibrated": measure(uncalibrated, None)["integrated_brier"].value,
        "brier": found["integrated_brier"].a,
        "true_brier": found["integrated_brier"].b,
        "off_uncalibrated": _off(uncalibrated),
        "off": _off(model),
        "slope": fitted.slope,
        "level": fitted.level,
        "n": len(model),
        "events": int(model.events.sum()),
    }


def _uncalibrated(run: Run, frame: pd.DataFrame) -> Survival:
    """Return what turns outputs into survival without slope and level; of Cox, with the baseline for a slope of 1."""
    survival = run.calibration.survival
    assert survival is not None
    if run.task.cuts:
        return replace(survival, slope=1.0, level=0.0)
    held = frame[(frame["split"] == "val") & (frame["status"] == "ok")]
    outputs, targets = (held[columns(run.task)].to_numpy() for columns in (logit_columns, target_columns))
    return breslow(outputs[:, 0], targets, survival.horizons)


def _off(times: Times) -> float:
    """Return the mean predicted survival minus the Kaplan-Meier estimate, at the horizon where that is largest."""
    assert times.survival is not None
    differences = times.survival.mean(axis=0) - survival_at(times.targets, np.asarray(times.horizons))
    return float(differences[np.abs(differences).argmax()])
