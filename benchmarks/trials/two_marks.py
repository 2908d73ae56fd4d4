"""Two marks far apart, on slides larger than those of training: plain and token-weighted SeqNorm.

    PYTHONPATH=benchmarks/trials python -m two_marks benchmarks/two_marks --seeds 0 1 2 3 4

The model, the slides and the steps are those of ``softfree-lab demo slide``. The same command goes on after an
interruption.
"""

from __future__ import annotations

import argparse
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from scipy.stats import fisher_exact

from softfree.core.environment import describe_machine
from softfree.demo.options import DemoOptions
from softfree.models import VisionTransformer
from softfree_lab.demo_slide import Plan, Stage, measure, train
from softfree_lab.records import write_record

HIGHEST = {"pool": "topk", "pool_options": {"one_in": 10**9}}  # four tokens, of any number
WEIGHTED = {"attention_options": {"importance": 4.0}}
VARIANTS: dict[str, dict[str, Any]] = {"plain": {}, "weighted": WEIGHTED, "weighted, highest four": WEIGHTED | HIGHEST}
SMALL = Stage((256,), 120, 1.5e-3)
STAGES = {
    1024: (SMALL, Stage((256, 512, 1024), 90, 6e-4)),
    2048: (SMALL, Stage((256, 512, 1024), 60, 6e-4), Stage((512, 1024, 2048), 45, 4e-4)),
}
TESTS = ((256, 80), (1024, 80), (2048, 80), (4096, 24))


def trial(variant: str, largest: int, seed: int) -> list[dict[str, object]]:
    """Train a model on slides of up to ``largest`` pixels per side; return its AUROC at each side."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    options = {"patch_size": 16, "num_classes": 1, "embed_dim": 32, "depth": 2, "num_heads": 4, "pos": "none"}
    model = VisionTransformer(**options | VARIANTS[variant])
    plan, demo = Plan(stages=STAGES[largest], streamed=10**9), DemoOptions(out=Path(), seed=seed, progress=False)
    started = time.process_time()
    loss = train(model, plan, demo)
    seconds, last = round(time.process_time() - started), sum(loss[-9:]) / 9
    same = {"variant": variant, "trained_to": largest, "seed": seed, "cpu_seconds": seconds, "loss": round(last, 4)}
    return [same | {"side": side} | _only_auroc(measure(model, side, number, plan, demo)) for side, number in TESTS]


def _only_auroc(row: dict[str, Any]) -> dict[str, object]:
    return {name: row[name] for name in ("slides", "auroc", "low", "high")}


def main() -> None:
    """Run what is missing, and write the rows after each trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    path = given.out / "trials.csv"
    rows = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["variant", "trained_to", "seed"])
    done = set(rows[["variant", "trained_to", "seed"]].itertuples(index=False, name=None))
    wanted = [(v, largest, seed) for seed in given.seeds for largest in STAGES for v in given.variants]
    with get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
        for new in pool.imap_unordered(_trial, [case for case in wanted if case not in done]):
            print(*new, sep="\n", flush=True)
            rows = pd.concat([rows, pd.DataFrame(new)], ignore_index=True)
            rows = rows.sort_values(["trained_to", "variant", "seed", "side"], ignore_index=True)
            write_record(path, rows, {"seeds": given.seeds}, machine=describe_machine(1))

    print(summary(pd.concat([pd.read_csv(found) for found in given.out.rglob("trials.csv")])))


def summary(rows: pd.DataFrame, level: float = 0.95) -> str:
    """Count the seeds that reach a level, and compare plain and weighted by Fisher's exact test."""
    lines = []
    for (largest, side), group in rows.groupby(["trained_to", "side"]):
        own = {name: group.loc[group["variant"] == name, "auroc"] >= level for name in ("plain", "weighted")}
        p = fisher_exact([[reached.sum(), (~reached).sum()] for reached in own.values()]).pvalue
        counts = ", ".join(f"{name} {reached.sum()} of {len(reached)}" for name, reached in own.items())
        lines.append(f"trained to {largest}, tested at {side}: {counts} at {level:g} or more, p = {p:.2g}")
    return "\n".join(lines)


def _trial(case: tuple[str, int, int]) -> list[dict[str, object]]:
    return trial(*case)


if __name__ == "__main__":
    main()
