"""Comparison of the peak memory that `softfree plan` predicts with measured peaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from softfree.core.environment import describe_machine
from softfree.core.progress import tracked
from softfree.planning.memory import GIB, memory
from softfree.planning.work import Work
from softfree_lab.bench.options import PlanBenchOptions
from softfree_lab.bench.peaks import measure_peak
from softfree_lab.records import markdown_table, write_record

TINY, SMALL = "{}_vit_tiny_patch16", "{}_vit_small_patch16"


def _case(**options: Any) -> Work:
    return Work(**{"stem": "conv", "pool": "avg"} | options)


CASES = (
    _case(model=TINY.format("seqnorm"), size=1024),
    _case(model=SMALL.format("seqnorm"), size=1024),
    _case(model=TINY.format("softmax"), size=1024),
    _case(model=SMALL.format("sima"), size=1024, precision="bf16", pure=True),
    _case(model=TINY.format("sima"), size=512, batch_size=4),
    _case(model=TINY.format("seqnorm"), size=1024, precision="bf16"),
    _case(model=TINY.format("seqnorm"), size=1024, grad_checkpointing=True, stem="patch"),
    _case(model=TINY.format("seqnorm"), size=1536, mlp_chunk=4096),
    _case(model=TINY.format("seqnorm"), size=256, batch_size=8),
    _case(model=TINY.format("seqnorm"), size=1536, inference=True),
    _case(model=SMALL.format("softmax"), size=1024, inference=True),
    _case(model=SMALL.format("seqnorm"), size=1024, inference=True, precision="bf16", pure=True),
    # The cases above served to fit the shares of gaps and the stem; those below did not, but for those with
    # recomputed activations, whose share was fitted again.
    _case(model=SMALL.format("softmax"), size=768, stem="patch"),
    _case(model=SMALL.format("sima"), size=768, grad_checkpointing=True),
    _case(model="seqnorm_vit_nano_patch8", size=384, batch_size=2, channels=1),
    _case(model=SMALL.format("seqnorm"), size=768, mlp_chunk=1024, precision="bf16"),
    _case(model="seqnorm_vit_base_patch16", size=512, inference=True, stem="patch"),
    # Cases of several images.
    _case(model=TINY.format("seqnorm"), size=512, images=4),
    _case(model=TINY.format("seqnorm"), size=384, images=4, batch_size=2, stem="pool", pool="mean_topk"),
    _case(
        model=TINY.format("seqnorm"),
        size=1024,
        images=20,
        channels=1,
        grad_checkpointing=True,
        stem="pool",
        pool="mean_topk",
    ),
    _case(model=TINY.format("seqnorm"), size=512, images=4, inference=True),
    # Blocks of tensors on both sides of the size that the system maps.
    _case(model=TINY.format("seqnorm"), size=1536, grad_checkpointing=True, stem="patch"),
    _case(model=TINY.format("seqnorm"), size=2048, grad_checkpointing=True, stem="patch"),
    _case(
        model=TINY.format("seqnorm"),
        size=512,
        images=10,
        channels=1,
        grad_checkpointing=True,
        stem="pool",
        pool="mean_topk",
    ),
)


@dataclass(frozen=True)
class PlanCheck:
    """Predicted and measured peaks, the result of :func:`check_plan`."""

    rows: pd.DataFrame

    def to_dict(self) -> list[dict[Any, Any]]:
        """Return the rows, for JSON."""
        return self.rows.to_dict("records")

    def to_markdown(self) -> str:
        """Lay out the peaks, one row per case."""
        numbers = self.rows[["predicted_gib", "measured_gib", "ratio"]].map("{:.2f}".format)
        cells = numbers.assign(case=self.rows["case"])[["case", *numbers]].to_numpy().tolist()
        return markdown_table(("case", "predicted peak, GiB", "measured peak, GiB", "ratio"), cells)


def bench_plan(options: PlanBenchOptions) -> PlanCheck:
    """Compare predicted with measured peaks of all cases."""
    return PlanCheck(check_plan(out=options.out))


def check_plan(cases: Sequence[Work] = CASES, out: Path | None = None) -> pd.DataFrame:
    """Measure each case in a child process with one thread, on the CPU.

    Args:
        cases: Cases to measure.
        out: CSV file to write, with a JSON file about the machine next to it.

    Returns:
        One row per case: predicted and measured GiB of the whole process and their ratio, what the process held before
        the model was built, and the ratio of what was predicted and measured on top of that.
    """
    rows = []
    for work in tracked(cases, "Measuring"):
        predicted = memory(work).total
        measured, base = measure_peak(asdict(work))
        rows.append(
            {
                "case": in_words(work),
                "predicted_gib": predicted / GIB,
                "measured_gib": measured / GIB,
                "ratio": predicted / measured,
                "base_gib": base / GIB,
                "ratio_above_base": (predicted - base) / (measured - base),
            }
        )
    table = pd.DataFrame(rows)
    if out is not None:
        stated = {"cases": [asdict(work) for work in cases]}
        write_record(out, table.round(3), stated, machine=describe_machine())
    return table


def in_words(work: Work) -> str:
    """Describe a case by its options that differ from the defaults."""
    words = [work.model, "inference" if work.inference else "training", f"{work.size} px"]
    standard = _case()
    for field in fields(work):
        value = getattr(work, field.name)
        if field.name not in ("model", "size", "inference") and value != getattr(standard, field.name):
            words.append(field.name if value is True else f"{field.name}={value}")
    return " ".join(words)
