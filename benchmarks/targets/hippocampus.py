"""Grade and volume of the hippocampus by one model, against a model for each: 48 MR crops, three folds.

    python benchmarks/targets/hippocampus.py DATA OUT

DATA is the folder of the sample sets. The volume is that of the segmentation mask, in cubic millimeters; the grade is
its third: low, middle or high. A fifth of the grades and another fifth of the volumes are left empty, for all models
alike. OUT gets the studies; the results are written beside this file.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

import softfree
from softfree.core.environment import describe_machine
from softfree.evaluation.formatting import write_metrics

TRAIN = {
    "model": "seqnorm_vit3d_nano", "modality": "mr", "shape": [24, 32, 24], "spacing": [2, 2, 2], "epochs": 30,
    "batch_size": 4, "lr": 0.001, "stem": "conv", "pool": "avg", "accelerator": "cpu", "grad_accum": 1,
    "precision": "fp32",
}  # fmt: skip
TARGETS = """
- {name: grade, kind: ordinal, column: grade, classes: [low, middle, high]}
- {name: volume, kind: regression, column: volume}
"""
SINGLE = {
    "grade": {"label": "grade", "task": "ordinal", "classes_in_order": ["low", "middle", "high"]},
    "volume": {"label": "volume", "task": "regression"},
}


def make_table(data: Path, out: Path) -> Path:
    """Write the table, with folds of about equal volumes and some unknown cells."""
    rows = pd.read_csv(data / "nifti" / "manifest.csv")
    rows = rows[rows["mask"].notna()].reset_index(drop=True)
    volume = rows["note"].str.extract(r"volume (\d+) mm3")[0].astype(float)
    order = np.argsort(np.argsort(volume.to_numpy()))
    table = rows[["path", "patient_id"]].assign(
        volume=volume, grade=pd.qcut(volume, 3, labels=["low", "middle", "high"])
    )
    table["fold"] = order % 3
    table["grade"] = table["grade"].astype(object).where(order % 5 != 1)
    table["volume"] = table["volume"].where(order % 5 != 3)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "hippocampus.csv", index=False)
    return out / "hippocampus.csv"


def main(data: Path, out: Path) -> None:
    """Train the three studies and compare them on the held-out samples."""
    table = make_table(data, out)
    (out / "targets.yaml").write_text(TARGETS)
    shared = {"image_root": data / "nifti", "train": TRAIN, "progress": False}
    joint = softfree.auto(table, targets=out / "targets.yaml", out=out / "joint", **shared)
    assert joint is not None
    rows, metrics = [], {}
    for name, task in SINGLE.items():
        single = softfree.auto(table, out=out / name, **task, **shared)
        assert single is not None
        part = joint.run.parts[name]
        compared = softfree.evaluate(part, split="val", compare_with=single.run.folder, out=out / f"compared_{name}")
        main_metric = "mae" if name == "volume" else "auroc"
        for which, evaluation in (("together", compared), ("alone", single.evaluation)):
            metrics |= {f"{name}/{which}/{key}": metric for key, metric in evaluation.metrics.items()}
            value = evaluation.metrics[main_metric]
            rows.append((name, which, main_metric, value.n, value.value, value.low, value.high))
        difference = compared.comparison.differences[main_metric]
        rows.append((name, "difference", main_metric, value.n, difference.value, difference.low, difference.high))
    folder = Path(__file__).parent
    columns = ["target", "trained", "metric", "n", "value", "low", "high"]
    pd.DataFrame(rows, columns=columns).round(4).to_csv(folder / "hippocampus.csv", index=False)
    runs = (joint.run, *(softfree.load(out / name) for name in SINGLE))
    costs = {run.folder.name: run.directory.read_cost()["cpu_seconds"] for run in runs}
    about = {"command": "python benchmarks/targets/hippocampus.py DATA OUT", "machine": describe_machine(),
             "cpu_seconds": costs}  # fmt: skip
    write_metrics(folder / "hippocampus.json", metrics, about)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
