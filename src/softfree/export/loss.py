"""What fewer bits cost in AUROC, and by how much they move probabilities, on the run's test rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from softfree.evaluation.comparison import compare
from softfree.evaluation.scores import Scores
from softfree.export.options import ExportOptions
from softfree.export.parity import Logits
from softfree.export.samples import rows_of_run, sources_of
from softfree.inference.run import Run
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.outputs import predicted_label, probabilities
from softfree_runtime.preprocessing.modalities import Preprocessing


@dataclass(frozen=True)
class Loss:
    """AUROC on the test rows before and after, the loss with its paired 95 % interval, and how probabilities moved.

    An AUROC sees the order of the samples alone: all probabilities may move, and it stays.

    Attributes:
        before: Of the float32 file.
        after: Of the file with fewer bits.
        loss: ``before - after``.
        low: Lower bound of the loss.
        high: Its upper bound; NaN where there is no interval.
        method: Of the interval.
        n: Test samples.
        calibrated_on: Samples that showed the ranges of integers; 0 without any.
        reason: Why there is no interval.
        bits: ``int8`` or ``float16``.
        largest_shift: Largest change of a calibrated probability, over all test samples and classes.
        mean_shift: Mean over the samples of the largest change of a class.
        changed: Test samples that are called something else.
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
    largest_shift: float = 0.0
    mean_shift: float = 0.0
    changed: int = 0

    def moved_in_words(self) -> str:
        """Say by how much probabilities moved."""
        said = f"moves probabilities by {self.mean_shift:.4f} in the mean and {self.largest_shift:.4f} at most"
        return f"{said}, and calls {self.changed} of {self.n} test samples something else"

    def in_words(self, margin: float) -> str:
        """Say what was lost, whether a loss within the margin is shown or only seen, and how probabilities moved."""
        return f"{self._lost_in_words(margin)}\n{self.bits} {self.moved_in_words()}"

    def _lost_in_words(self, margin: float) -> str:
        said = f"AUROC {self.after:.4f} with {self.bits}, {self.before:.4f} without, on {self.n} test samples"
        said += f": loss {self.loss:.4f}"
        if self.high != self.high:
            return f"{said}, without an interval ({self.reason or 'no resample differs'})"
        said += f" (95 % interval {self.low:.4f} to {self.high:.4f}, {self.method})"
        if self.high <= margin:
            return f"{said}; less than the margin of {margin} is shown"
        return f"{said}; that it is less than the margin of {margin} is not shown: more test samples may decide"

    def check(self, options: ExportOptions) -> Loss:
        """Return itself; UserError for a loss or a change of probability beyond what is allowed, or no number."""
        if not self.loss <= options.margin:
            lost = self._lost_in_words(options.margin)
            raise UserError(f"{lost}; no file was written: raise --margin or keep fp32")
        if not self.largest_shift <= options.max_shift:
            raise UserError(
                f"{self.bits} {self.moved_in_words()}; more than {options.max_shift}: no file was written: raise "
                "--max-shift or keep fp32"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, None for what is no number."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


def measure_loss(
    run: Run,
    preprocessing: Preprocessing,
    before: Logits,
    after: Logits,
    bits: str,
    options: ExportOptions,
    calibrated_on: int = 0,
) -> Loss:
    """Compare AUROC and probabilities of two files on the run's test rows.

    Args:
        run: The run.
        preprocessing: Of both files.
        before: A prepared sample, with the batch axis, to logits (1, K), of the float32 file.
        after: The same, of the other.
        bits: Of the other, for people.
        options: What may be lost, and where the run's table lies.
        calibrated_on: Samples that showed its ranges.

    Raises:
        UserError: No test row can be read, or more is lost than may be.
    """
    part = rows_of_run(run, "test", options.table)
    kept: list[int] = []
    logits: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for row, source in enumerate(sources_of(part)):
        try:
            sample = source.prepared(preprocessing)[None]
        except ReadError:
            continue
        kept.append(row)
        for model, found in zip((before, after), logits, strict=True):
            found.append(model(sample)[0])
    if not kept:
        raise UserError(f"the run's table has no readable test row, so that the loss of {bits} cannot be measured")
    patients, targets = part.frame["patient"].to_numpy()[kept], np.asarray(part.targets)[kept]
    scale = run.calibration
    wide, narrow = (probabilities(np.stack(found), run.task, scale.temperature) for found in logits)
    shifts = np.abs(narrow - wide).max(1)
    labels = ([predicted_label(row, run.task, scale.thresholds) for row in found] for found in (wide, narrow))
    scored = [Scores(run.task, found, targets, patients) for found in (narrow, wide)]
    auroc = compare(*scored, names=(bits, "fp32")).differences["auroc"]
    return Loss(
        auroc.b, auroc.a, auroc.b - auroc.a, -auroc.high, -auroc.low, auroc.method, len(kept), calibrated_on,
        auroc.reason, bits, float(shifts.max()), float(shifts.mean()),
        sum(one != other for one, other in zip(*labels, strict=True)),
    ).check(options)  # fmt: skip
