"""Steps until an attention on trial takes off, against plain SeqNorm: trainings that stop once they have.

    PYTHONPATH=benchmarks/trials python -m takeoff_gate benchmarks/takeoff_gate --jobs 2

The recipe, the steps and the level are those of ``softfree-lab study ablation``, which would train each to its end. The
same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from scipy.stats import CensoredData, logrank

from softfree.core.environment import describe_machine
from softfree.demo.phantoms import write_phantoms
from softfree_lab.records import write_record
from softfree_lab.studies.takeoff import LEVEL, read_curve
from softfree_lab.studies.variants import apply

BENCHMARKS = Path(__file__).parent.parent


def steps_to_takeoff(table: Path, options: dict[str, Any], run: Path) -> tuple[int, bool]:
    """Train until the validation AUROC reaches the level; return the steps, and whether it did."""
    if not run.is_dir():
        config = run.with_suffix(".yaml")
        config.write_text(json.dumps(options | {"out": str(run)}))
        given = [str(table), "--config", str(config), "--progress=false"]
    else:
        given = ["--resume", str(run)]
    child = subprocess.Popen(
        [sys.executable, "-m", "softfree", "train", *given],
        env=os.environ | {"OMP_NUM_THREADS": "1", "SOFTFREE_PLUGINS": "rare_evidence"},
    )
    try:
        while True:
            ended = child.poll() is not None
            curve = read_curve(run)
            reached = [step for step, area in curve if area >= LEVEL]
            if reached:
                return reached[0], True
            if ended:
                if child.returncode:
                    raise SystemExit(f"{run}: training ended with status {child.returncode}")
                return curve[-1][0], False
            time.sleep(1)
    finally:
        child.kill()
        child.wait()


def main() -> None:
    """Run what is missing, and write the rows after each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", type=Path, default=BENCHMARKS / "recipes/phantoms_4096.yaml")
    parser.add_argument("--variants", nargs="+", default=["plain", "weighted"], help="the first is the reference")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--work", type=Path, default=Path("takeoff_gate.work"), help="for images and runs")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    recipe = yaml.safe_load(given.recipe.read_text())
    variants = yaml.safe_load((BENCHMARKS / "variants/rare_evidence.yaml").read_text())
    folder = given.work / given.recipe.stem
    table = folder / "phantoms.csv"
    phantoms = recipe.pop("phantoms")
    if not table.is_file():
        table = write_phantoms(folder, **phantoms)
    path = given.out / "trials.csv"
    rows = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["variant", "seed"])
    done = set(rows[["variant", "seed"]].itertuples(index=False, name=None))

    def trial(case: tuple[str, int]) -> dict[str, object]:
        variant, seed = case
        options = apply(recipe, variants[variant]) | {"seed": seed}
        steps, reached = steps_to_takeoff(table, options, given.work / f"{variant}_seed{seed}")
        return {"variant": variant, "seed": seed, "steps": steps, "took_off": reached}

    wanted = [(variant, seed) for seed in given.seeds for variant in given.variants]
    with ThreadPool(given.jobs) as pool:
        for row in pool.imap_unordered(trial, [case for case in wanted if case not in done]):
            print(row, flush=True)
            rows = pd.concat([rows, pd.DataFrame([row])], ignore_index=True).sort_values(["variant", "seed"])
            write_record(path, rows, {"recipe": given.recipe.name, "seeds": given.seeds}, machine=describe_machine(1))
    results = {
        name: CensoredData.right_censored(own["steps"], ~own["took_off"].astype(bool))
        for name, own in rows.groupby("variant")
    }
    reference, *others = given.variants
    for name in others:
        steps = rows.loc[rows["variant"].isin([name, reference]), "steps"]
        p = (
            "undefined, all steps are equal"
            if steps.nunique() == 1
            else logrank(results[name], results[reference]).pvalue
        )
        print(f"{name} against {reference}: log-rank p {p}")


if __name__ == "__main__":
    main()
