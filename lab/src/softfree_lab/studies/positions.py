"""``softfree-lab study positions``: how soon a model knows where a finding is, by what its positions start from.

Each image is noise with one bright disk, above or below its middle, which is the class. The disks are the same in both
classes: only where they are differs.
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
from softfree.training.loop import train
from softfree_lab.records import markdown_table, write_record
from softfree_lab.studies.options import PositionsOptions
from softfree_runtime.core.errors import UserError

NOTICE = "These images are computed, not taken of patients."
CLASSES = ("bottom", "top")
STARTS = ("random", "learn", "sincos", "none")


@dataclass(frozen=True)
class PositionsStudy:
    """The result.

    Attributes:
        rows: Per seed and positions, AUROC on the test images with a 95 % interval.
    """

    rows: pd.DataFrame

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the rows, for JSON."""
        return json.loads(self.rows.to_json(orient="records"))

    def to_markdown(self) -> str:
        """Lay out the rows."""
        lines = [
            (
                row["pos"],
                str(row["seed"]),
                "{auroc:.3f} ({low:.3f} to {high:.3f})".format(**row),
                "{first:.3f}".format(**row),
            )
            for row in self.to_dict()
        ]
        return markdown_table(("pos", "seed", "AUROC (95 % interval)", "validation AUROC, first epoch"), lines)


def study_positions(options: PositionsOptions) -> PositionsStudy:
    """Train models whose positions start differently, on images whose class is where a disk is.

    Args:
        options: All settings.

    Returns:
        The rows, which are also written to ``options.out``.

    Raises:
        UserError: Too few images, unknown positions, or a folder that is in use.
    """
    if min(options.n_train, options.n_val, options.n_test) < 10:
        raise UserError("--n-train, --n-val and --n-test: expected at least 10 each")
    if unknown := sorted(set(options.pos) - set(STARTS)):
        raise UserError(f"--pos {unknown[0]}: expected some of {', '.join(STARTS)}")
    rows = []
    for seed in options.seeds:
        folder = options.work / f"seed{seed}"
        table = write_disks(folder / "images", options, seed=seed)
        rows += [{"pos": pos, "seed": seed} | _train(table, folder / pos, pos, options, seed) for pos in options.pos]
    result = PositionsStudy(pd.DataFrame(rows))
    record = asdict(options) | {"work": None}
    write_record(options.out, result.rows, record, machine=describe_machine(), text=result.to_markdown())
    return result


def write_disks(folder: Path, options: PositionsOptions, *, seed: int) -> Path:
    """Write images as PNGs and their table, with both classes equally often in each split.

    Args:
        folder: Made when it is not there.
        options: Numbers and size of the images.
        seed: Equal seeds give equal images.

    Returns:
        The path of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    splits = ["train"] * options.n_train + ["val"] * options.n_val + ["test"] * options.n_test
    random, side = np.random.default_rng(seed), options.size
    radius = side // 12
    y, x = np.ogrid[:side, :side]
    for number in range(len(splits)):
        pixels = random.integers(0, 120, (side, side))
        row = random.integers(radius, side // 2 - radius) + (0 if number % 2 else side // 2)
        column = random.integers(radius, side - radius)
        pixels[(y - row) ** 2 + (x - column) ** 2 <= radius**2] += 110
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:05}.png", compress_level=1)
    frame = pd.DataFrame({"path": [f"{number:05}.png" for number in range(len(splits))], "split": splits})
    frame["label"] = [CLASSES[number % 2] for number in range(len(splits))]
    frame.to_csv(folder / "disks.csv", index=False)
    return folder / "disks.csv"


def _train(table: Path, out: Path, pos: str, options: PositionsOptions, seed: int) -> dict[str, Any]:
    recipe = TrainOptions(
        table=table,
        out=out,
        seed=seed,
        model=options.model,
        model_options=options.model_options | {"pos": pos},
        size=options.size,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        augment=False,
        progress=options.progress,
    )
    result = train(recipe, notice=NOTICE)
    if result.evaluation is None:
        raise UserError(f"--work: {out} holds a finished run; name another folder")
    metric = result.evaluation.metrics["auroc"]
    history = result.run.directory.read_history()
    assert history is not None
    first = float(history["val_auroc"].iloc[0])
    return {"auroc": metric.value, "low": metric.low, "high": metric.high, "first": first, "n": options.n_test}
