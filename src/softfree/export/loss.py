"""What fewer bits cost in AUROC, on the run's test rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from softfree.errors import ReadError, UserError
from softfree.evaluation.comparison import compare
from softfree.evaluation.scores import Scores
from softfree.export.parity import Logits
from softfree.export.samples import find_samples
from softfree.runs import Run
from softfree.runtime.kinds import Prepared
from softfree.runtime.outputs import probabilities
from softfree.scoring import open_table


@dataclass(frozen=True)
class Loss:
    """AUROC on the test rows before and after, and the loss with its paired 95 % interval.

    Attributes:
        before: of the float32 file.
        after: of the file with fewer bits.
        loss: ``before - after``.
        low: lower bound of the loss.
        high: its upper bound; NaN where there is no interval.
        method: of the interval.
        n: test samples.
        calibrated_on: samples that showed the ranges of integers; 0 without any.
        reason: why there is no interval.
        bits: ``int8`` or ``float16``.
    """

    before: float
    after: float
    loss: float
    low: float
    high: float
    method: str
    n: int
    calibrated_on: int
    reason: str | None = None
    bits: str = "int8"

    def in_words(self, margin: float) -> str:
        """Say what was lost, and whether a loss within the margin is shown or only seen."""
        said = f"AUROC {self.after:.4f} with {self.bits}, {self.before:.4f} without, on {self.n} test samples"
        said += f": loss {self.loss:.4f}"
        if self.high != self.high:
            return f"{said}, without an interval ({self.reason or 'no resample differs'})"
        said += f" (95 % interval {self.low:.4f} to {self.high:.4f}, {self.method})"
        if self.high <= margin:
            return f"{said}; less than the margin of {margin} is shown"
        return f"{said}; that it is less than the margin of {margin} is not shown: more test samples may decide"

    def check(self, margin: float) -> Loss:
        """Return itself; UserError for a loss beyond the margin, or one that is no number."""
        if not self.loss <= margin:
            raise UserError(f"{self.in_words(margin)}; no file was written: raise --margin or keep float32")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, None for what is no number."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


def measure_loss(
    run: Run, preparation: Prepared, before: Logits, after: Logits, bits: str, calibrated_on: int = 0
) -> Loss:
    """Compare the AUROC of two files on the run's test rows.

    Args:
        run: the run.
        preparation: of both files.
        before: a prepared sample, with the batch axis, to logits (1, K), of the float32 file.
        after: the same, of the other.
        bits: of the other, for people.
        calibrated_on: samples that showed its ranges.

    Raises:
        UserError: no test row can be read.
    """
    part = open_table(run).where("test")
    kept: list[int] = []
    logits: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for row, source in enumerate(find_samples(run, None, "test") if len(part.frame) else []):
        try:
            sample = source.prepared(preparation)[None]
        except ReadError:
            continue
        kept.append(row)
        for model, found in zip((before, after), logits, strict=True):
            found.append(model(sample)[0])
    if not kept:
        raise UserError(f"the run's table has no readable test row, so that the loss of {bits} cannot be measured")
    patients, targets = part.frame["patient"].to_numpy()[kept], np.asarray(part.targets)[kept]
    wide, narrow = (
        Scores(run.task, probabilities(np.stack(found), run.task, run.operating.temperature), targets, patients)
        for found in logits
    )
    auroc = compare(narrow, wide, names=(bits, "float32")).differences["auroc"]
    return Loss(
        auroc.b, auroc.a, auroc.b - auroc.a, -auroc.high, -auroc.low, auroc.method, len(kept), calibrated_on,
        auroc.reason, bits,
    )  # fmt: skip
