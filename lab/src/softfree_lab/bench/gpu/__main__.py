"""``python -m softfree_lab.bench.gpu``: the same command where jsonargparse is not installed."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path

from softfree_lab.bench.gpu.run import SECTIONS, bench_gpu
from softfree_lab.bench.options import GpuBenchOptions
from softfree_runtime.core.errors import UserError


def main() -> int:
    """Parse the options of :class:`GpuBenchOptions` and print the report; 2 for what the user can fix."""
    standard = GpuBenchOptions()
    parser = ArgumentParser("softfree_lab.bench.gpu", description="All numbers of a GPU in ten minutes.")
    parser.add_argument("--out", type=Path, default=standard.out)
    parser.add_argument("--device", choices=("cuda", "cpu"), default=standard.device)
    parser.add_argument("--budget", type=float, default=standard.budget, help="seconds for all sections")
    parser.add_argument("--sections", nargs="+", choices=tuple(SECTIONS), default=standard.sections)
    try:
        print(bench_gpu(GpuBenchOptions(**vars(parser.parse_args()))))
    except UserError as error:
        print(f"softfree-lab: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
