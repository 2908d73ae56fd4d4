"""Kill the whole command at random, go on, and compare with an undisturbed one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import InputList
from softfree_lab.bench.archive.setting import BLOCK, Bench, Measured


def kills(bench: Bench) -> Iterator[Measured]:
    """Kill the whole command at random times up to the length of an undisturbed one; what is finished begins anew."""
    folder, count = bench.fewer(), bench.fewer_count
    whole, out = bench.scratch / "undisturbed", bench.scratch / "killed"
    undisturbed, _ = bench.predict([str(folder)], whole)
    expected = pd.read_parquet(whole / "predictions.parquet")
    random = np.random.default_rng(0)
    repeated: list[int] = []
    wrong = np.zeros(2, int)
    archives = 0
    while len(repeated) < bench.options.kills:
        (out / "progress.jsonl").unlink(missing_ok=True)  # what this command tells, not those before it
        process = bench.start([str(folder)], out, every_block_is_told=True)
        try:
            process.wait(float(random.uniform(0, 1)) * undisturbed)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            repeated.append(_lost(ArchiveFolder(out)))
        else:  # it was finished before
            wrong += _differences(expected, out)
            archives += 1
            shutil.rmtree(out)
    bench.predict([str(folder)], out)
    wrong += _differences(expected, out)
    archives += 1
    work = archives * count + sum(repeated)
    yield Measured("kills with signal 9, at random times", float(len(repeated)), "")
    yield Measured(f"archives of {count:,} images finished meanwhile", float(archives), "")
    yield Measured("rows that differ from an undisturbed run", float(wrong[0]), "rows")
    yield Measured("rows missing or doubled", float(wrong[1]), "rows")
    yield Measured("finished rows that a kill lost, mean", float(np.mean(repeated)), "rows")
    yield Measured("the same, of all work", 100 * sum(repeated) / work, "%")
    yield Measured("besides, the block in progress of each process: at most", float(BLOCK), "rows")


def _lost(archive: ArchiveFolder) -> int:
    """Return how many inputs were told as finished that have no row."""
    if not archive.inputs.is_file():
        return 0
    log = archive.root / "progress.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    told = max((int(json.loads(line)["done"]) for line in lines if line.endswith("}")), default=0)
    return max(0, told - int(archive.done(len(InputList(archive.inputs))).sum()))


def _differences(expected: pd.DataFrame, out: Path) -> np.ndarray:
    """Return the numbers of rows that differ, and of those that are missing or doubled."""
    rows = pd.read_parquet(out / "predictions.parquet")
    wrong = abs(len(rows) - len(expected)) + int(rows["input"].duplicated().sum())
    return np.array([len(expected) if len(rows) != len(expected) else int((~_same(expected, rows)).sum()), wrong])


def _same(expected: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    numbers = [name for name in expected if pd.api.types.is_float_dtype(expected[name])]
    others = [name for name in expected if name not in numbers]
    close = np.isclose(expected[numbers], rows[numbers], atol=1e-6, equal_nan=True).all(axis=1)
    left, right = (frame[others].astype(object) for frame in (expected, rows))
    equal = ((left == right) | (left.isna() & right.isna())).all(axis=1)
    return np.logical_and(equal.to_numpy(bool), np.asarray(close))
