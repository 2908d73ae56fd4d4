"""Time and memory of the sequence model by length, each case in a process of its own.

Each case has the same number of symbols: 16 sequences of 1,024 or one of 16,384. So a method whose time grows with the
length has a constant time here, and one whose time grows with its square does not. Times are CPU seconds, which other
processes of the machine disturb less than wall-clock time.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F

from softfree.core.environment import current_memory, peak_memory
from softfree.core.precision import products_in
from softfree_lab.long_range.model import SequenceModel, options_for
from softfree_lab.studies.children import Children
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import write_atomically

MODULE = "softfree_lab.long_range.costs"
SYMBOLS = 16_384  # of a case
REPEATS = 3
VOCABULARY, CLASSES = 256, 10


def measure_costs(
    attentions: Sequence[str],
    lengths: Sequence[int],
    *,
    precision: str,
    features: int,
    threads: int,
    folder: Path,
    children: Children,
    log: Callable[[str], None] = lambda _: None,
    deadline: float = float("inf"),
) -> pd.DataFrame:
    """Measure the cases that ``folder`` does not have yet.

    Args:
        attentions: Names of attentions.
        lengths: Lengths of sequences, at most 16,384.
        precision: "fp32" or "bf16" products.
        features: Landmarks, rows of maps or random features of methods that have them.
        threads: Threads of a process.
        folder: Folder for one file per case.
        children: Runs the processes.
        log: Called with a line about progress.
        deadline: :func:`time.time` after which no further case is measured.

    Returns:
        One row per measured case: ``attention``, ``length``, ``sequences``, ``training_seconds`` (forward and
        backward), ``inference_seconds``, ``training_mib`` (memory beyond the loaded program), ``reason`` (empty, or
        why there is none).
    """
    rows = []
    for length in sorted(lengths):
        for attention in attentions:
            path = folder / f"{attention}_{length}_{precision}_{features}_threads{threads}.json"
            if not path.is_file():
                if time.time() > deadline:
                    continue
                log(f"cost of {attention} at {length:,} symbols")
                case = {"attention": attention, "length": length, "precision": precision, "features": features}
                try:
                    children.run([json.dumps(case), str(path)], threads, MODULE)
                except UserError as error:
                    write_atomically(path, json.dumps({"reason": str(error)[:200]}))
            values = json.loads(path.read_text(encoding="utf-8"))
            sequences = max(1, SYMBOLS // length)
            rows.append({"attention": attention, "length": length, "sequences": sequences, "reason": ""} | values)
    return pd.DataFrame(rows)


def measure(attention: str, length: int, precision: str, features: int) -> dict[str, Any]:
    """Measure one case in this process."""
    torch.manual_seed(0)
    model = SequenceModel(
        VOCABULARY,
        length,
        CLASSES,
        attention=attention,
        attention_options=options_for(attention, length, features),
    )
    sequences = max(1, SYMBOLS // length)
    symbols = torch.randint(1, VOCABULARY + 1, (sequences, length))
    labels = torch.randint(CLASSES, (sequences,))
    before = current_memory()

    def train() -> None:
        model.zero_grad(set_to_none=True)
        with products_in(precision):
            logits = model(symbols)
        F.cross_entropy(logits.float(), labels).backward()

    def infer() -> None:
        with torch.no_grad(), products_in(precision):
            model(symbols)

    model.train()
    seconds = {"training_seconds": _median_seconds(train)}
    memory = (peak_memory() - before) / 2**20
    model.eval()
    return seconds | {"inference_seconds": _median_seconds(infer), "training_mib": memory}


def _median_seconds(run: Callable[[], None]) -> float:
    run()
    times = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> int:
    """Measure the case of the first argument, and write it to the file of the second."""
    from softfree_lab.studies.children import end_with_parent

    end_with_parent()
    case = json.loads(sys.argv[1])
    write_atomically(Path(sys.argv[2]), json.dumps(measure(**case)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
