"""``softfree-lab study views``: a finding that only two images together show.

Each case has two computed images, each with one mark of ink, brown or blue with equal probability. The label says
whether both marks have the same color. A single image has a mark of either color with equal probability in both
classes, so that no function of one image, and no sum of functions of single images, does better than chance (see
:mod:`softfree_lab.needles`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from softfree.core.environment import describe_machine
from softfree.core.options import TrainOptions
from softfree.core.progress import tracked
from softfree.data.table import Table
from softfree.evaluation.metrics import measure
from softfree.inference.options import InferenceOptions
from softfree.inference.run import Run
from softfree.reporting.scoring import own_table, predict_rows, scores_of
from softfree.training.loop import train
from softfree_lab.needles import CLASSES, KINDS, NeedleSlide
from softfree_lab.records import markdown_table, write_record
from softfree_lab.studies.options import ViewsOptions
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.sample_source import Case

VIEWS = ("first", "second")
NOTICE = "These images are computed, not taken of patients."


@dataclass(frozen=True)
class ViewsStudy:
    """The result.

    Attributes:
        rows: One row per seed and per images shown: AUROC on the test cases with a 95 % interval.
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
                row["shown"],
                f"{row['auroc']:.3f} ({row['low']:.3f} to {row['high']:.3f})",
                str(row["n"]),
            )
            for row in self.to_dict()
        ]
        return markdown_table(("seed", "images shown", "AUROC (95 % interval)", "test cases"), lines)


def study_views(options: ViewsOptions) -> ViewsStudy:
    """Train models on cases of two images, and test them with both and with one.

    Args:
        options: All settings.

    Returns:
        The rows, which are also written to ``options.out``.

    Raises:
        UserError: Too few cases, or a folder that is in use.
    """
    if any(number < 4 or number % 4 for number in (options.n_train, options.n_val, options.n_test)):
        raise UserError("--n-train, --n-val and --n-test: expected multiples of 4, one for each pair of colors")
    rows = []
    for seed in options.seeds:
        folder = options.work / f"seed{seed}"
        table = write_pairs(folder / "images", options, seed=seed)
        recipe = TrainOptions(
            table=table,
            out=folder / "run",
            seed=seed,
            model=options.model,
            model_options=options.model_options,
            preset="microscopy",
            size=options.size,
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            drop_path=0.0,
            view_dropout=0.0,  # with one image there is nothing to learn
            progress=options.progress,
        )
        run = train(recipe, notice=NOTICE).run
        test = own_table(run, how="").where("test")
        for shown in ("both", *VIEWS):
            rows.append({"seed": seed, "shown": shown} | _auroc(run, _showing(test, shown), options))
    result = ViewsStudy(pd.DataFrame(rows))
    record = asdict(options) | {"work": None}
    write_record(options.out, result.rows, record, machine=describe_machine(), text=result.to_markdown())
    return result


def write_pairs(folder: Path, options: ViewsOptions, *, seed: int) -> Path:
    """Write cases of two images as PNGs, and their table with both classes equally often in each split.

    Args:
        folder: Made when it is not there.
        options: Numbers of cases, sizes of images and marks.
        seed: Equal seeds give equal images.

    Returns:
        The path of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = ["train"] * options.n_train + ["val"] * options.n_val + ["test"] * options.n_test
    rows = []
    for case, split in enumerate(tracked(splits, "Drawing cases", total=len(splits), shown=options.progress)):
        kinds = KINDS[case % 2], KINDS[case // 2 % 2]  # all four pairs equally often
        for number, view in enumerate(VIEWS):
            # All four pairs of colors on the same two images: learning single images by heart is of no use.
            drawn = 10**7 * seed + 2 * (case // 4) + number
            slide = NeedleSlide(drawn, options.size, mark=options.mark, kinds=kinds)
            slide.marks = (slide.marks[number],)
            name = f"{case:05}_{view}.png"
            Image.fromarray(slide.read(0, 0, *slide.size)).save(folder / name, compress_level=1)
            rows.append((name, CLASSES[kinds[0] == kinds[1]], f"case{case:05}", view, split))
    frame = pd.DataFrame(rows, columns=["path", "label", "case_id", "view", "split"])
    frame.to_csv(folder / "pairs.csv", index=False)
    return folder / "pairs.csv"


def _showing(table: Table, shown: str) -> Table:
    """Leave out the images of the other view, if only one is shown."""
    if shown == "both":
        return table
    cases: list[Any] = [
        Case(tuple(file for file in source.files if file.view == shown), source.id)
        for source in table.sources
        if isinstance(source, Case)
    ]
    return replace(table, frame=table.frame.assign(file=cases))


def _auroc(run: Run, table: Table, options: ViewsOptions) -> dict[str, Any]:
    frame = predict_rows(run, table, InferenceOptions(batch_size=options.batch_size, progress=options.progress))
    metric = measure(scores_of(frame, run), run.calibration.thresholds)["auroc"]
    return {"auroc": metric.value, "low": metric.low, "high": metric.high, "n": int(np.sum(frame["status"] == "ok"))}
