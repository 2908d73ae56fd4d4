"""Fuzz for some minutes, a few inputs of every seed in turn, and print and keep what goes wrong."""

from __future__ import annotations

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import FlakyFailure
from tests.fuzz.findings import keep
from tests.fuzz.harness import ROOT, Mutation, Seed, Workers, make_seeds, mutations


def fuzz(seed: Seed, workers: Workers, number: int, examples: int) -> tuple[str, bytes] | None:
    """Try ``examples`` mutations of one seed; return the smallest that goes wrong and how.

    What goes wrong but once, as on a machine that was busy for a moment, is no finding.
    """
    original = (seed.folder / seed.damaged).read_bytes()
    results: list[tuple[str, bytes]] = []

    @seeded(number)
    @settings(
        max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink), report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    @given(mutations())
    def one(changes: list[Mutation]) -> None:
        content = original
        for change in changes:
            content = change.apply(content)
        if fault := workers.fault_of(seed, content):
            results.append((fault, content))
            raise AssertionError

    try:
        one()
    except (AssertionError, FlakyFailure):
        if fault := workers.fault_of(seed, results[-1][1]):
            return fault, results[-1][1]
    return None


def main() -> int:
    """Return 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="another number tries other inputs")
    parser.add_argument("--target", default=None, help="only this one, such as image")
    parsed = parser.parse_args()
    data = Path(os.environ.get("SOFTFREE_TEST_DATA", ROOT.parent / "shared" / "data"))
    findings: dict[str, str] = {}
    tried: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        seeds = make_seeds(Path(folder) / "seeds", data if data.is_dir() else None)
        seeds = [seed for seed in seeds if parsed.target in (None, seed.target)]
        random.Random(parsed.seed).shuffle(seeds)
        workers = Workers(Path(folder) / "scratch")
        end = time.monotonic() + 60 * parsed.minutes
        for turn in itertools.count():
            for seed in seeds:
                if time.monotonic() > end:
                    break
                result = fuzz(seed, workers, 1000 * parsed.seed + turn, 20)
                tried[seed.target] += 20
                if result is not None and (line := result[0].strip().splitlines()[-1]) not in findings:
                    findings[line] = result[0]
                    print(
                        f"--- {seed.target}: {seed.damaged}, kept as {keep(seed, result[1])}\n{result[0]}", flush=True
                    )
            else:
                continue
            break
        workers.close()
    print(f"{sum(tried.values())} inputs ({', '.join(f'{n} {name}' for name, n in sorted(tried.items()))})")
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
