"""The loss of AUROC due to int8 or float16, and the shift of probabilities, on the run's test rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from softfree.deployment.options import ExportOptions
from softfree.deployment.parity import Logits
from softfree.deployment.samples import rows_of_run, sources_of
from softfree.evaluation.comparison import compare
from softfree.evaluation.scores import Scores
from softfree.inference.run import Run
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.outputs import predicted_label, probabilities
from softfree_runtime.core.targets import Targets, single_targets
from softfree_runtime.preprocessing.modalities import Preprocessing


@dataclass(frozen=True)
class Loss:
    """AUROC on the test rows before and after, the loss with its paired 95 % interval, and shifts of probabilities.

    An AUROC depends on the order of the samples only: it may stay the same while all probabilities shift.

    Attributes:
        before: AUROC of the float32 file.
        after: AUROC of the int8 or float16 file.
        loss: ``before - after``.
        low: Lower bound of the loss.
        high: Its upper bound; NaN without an interval.
        method: Method of the interval.
        n: Number of test samples.
        calibrated_on: Number of samples used to calibrate int8; else 0.
        reason: Why there is no interval.
        bits: ``int8`` or ``fp16``.
        largest_shift: Largest change of a calibrated probability, over all test samples and classes.
        mean_shift: Mean over the samples of the largest change of a class probability.
        changed: Number of test samples with another predicted label.
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

    def describe_shift(self) -> str:
        """Describe the shift of the probabilities."""
        shifts = f"shifts probabilities by {self.mean_shift:.4f} on average and {self.largest_shift:.4f} at most"
        return f"{shifts}, and changes the predicted label of {self.changed} of {self.n} test samples"

    def describe(self, margin: float) -> str:
        """Describe the loss, whether it is shown to be within the margin, and the shift of the probabilities."""
        return f"{self._describe_loss(margin)}\n{self.bits} {self.describe_shift()}"

    def _describe_loss(self, margin: float) -> str:
        text = f"AUROC {self.after:.4f} with {self.bits}, {self.before:.4f} without, on {self.n} test samples"
        text += f": loss {self.loss:.4f}"
        if self.high != self.high:
            return f"{text}, without an interval ({self.reason or 'no resample differs'})"
        text += f" (95 % interval {self.low:.4f} to {self.high:.4f}, {self.method})"
        if self.high <= margin:
            return f"{text}; it is shown to be below the margin of {margin}"
        return f"{text}; it is not shown to be below the margin of {margin}: more test samples may decide"

    def check(self, options: ExportOptions) -> Loss:
        """Return itself; UserError if the loss or a shift of a probability exceeds its limit or is NaN."""
        if not self.loss <= options.margin:
            loss = self._describe_loss(options.margin)
            raise UserError(f"{loss}; no file was written: raise --margin or keep fp32")
        if not self.largest_shift <= options.max_shift:
            raise UserError(
                f"{self.bits} {self.describe_shift()}; more than {options.max_shift}: no file was written: raise "
                "--max-shift or keep fp32"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, with None for NaN."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Losses:
    """The loss of each of several targets, by name."""

    targets: Mapping[str, Loss]

    @property
    def bits(self) -> str:
        """``int8`` or ``fp16``."""
        return next(iter(self.targets.values())).bits

    def describe_shift(self) -> str:
        """Describe the shift of the probabilities of each target."""
        return "; ".join(f"of {name}: {loss.describe_shift()}" for name, loss in self.targets.items())

    def describe(self, margin: float) -> str:
        """Describe the loss of each target, on lines of their own."""
        return "\n".join(f"{name}: {loss.describe(margin)}" for name, loss in self.targets.items())

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of each target."""
        return {name: loss.to_dict() for name, loss in self.targets.items()}


def check_bits(run: Run, bits: str) -> None:
    """Refuse int8 and float16 where their loss cannot be measured.

    Raises:
        UserError: A target has no AUROC.
    """
    for name, part in (run.parts or {"": run}).items():
        if bits != "fp32" and not part.task.by_class:
            what = "survival" if part.task.timed else "a regression"
            target = f"target {name!r}, {what}," if name else what
            raise UserError(f"{bits} is checked by its loss of AUROC, which {target} does not have; export fp32")


def measure_loss(
    run: Run,
    preprocessing: Preprocessing,
    before: Logits,
    after: Logits,
    bits: str,
    options: ExportOptions,
    calibrated_on: int = 0,
) -> Loss | Losses:
    """Compare AUROC and probabilities of two files on the run's test rows.

    Args:
        run: The run; of several targets each is compared on the rows in which it is known.
        preprocessing: Preprocessing of both files.
        before: Maps a preprocessed batch of one sample to logits (1, K) of the float32 file.
        after: The same for the other file.
        bits: "int8" or "float16".
        options: The limits, and the path of the run's table.
        calibrated_on: Number of calibration samples.

    Raises:
        UserError: No test row can be read, or a limit is exceeded.
    """
    table = rows_of_run(run, "test", options.table)
    kept: list[int] = []
    logits: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for row, source in enumerate(sources_of(table)):
        try:
            sample = source.load(preprocessing)[None]
        except ReadError:
            continue
        kept.append(row)
        for model, outputs in zip((before, after), logits, strict=True):
            outputs.append(model(sample)[0])
    if not kept:
        raise UserError(f"the run's table has no readable test row to measure the loss of {bits} on")
    patients, targets = table.frame["patient"].to_numpy()[kept], np.asarray(table.targets)[kept]
    wide, narrow = (np.stack(outputs) for outputs in logits)
    if not isinstance(run.task, Targets):
        return _loss(run, (wide, narrow), targets, patients, bits, calibrated_on).check(options)
    known, columns, losses = run.task.known(targets), run.task.output_slices(), {}
    for name, part, own in single_targets(run.task, targets):
        rows = known[name]
        if not rows.any():
            raise UserError(f"target {name!r} is known in no readable test row to measure the loss of {bits} on")
        truth = own[rows].astype(np.int64) if part.exclusive else own[rows]
        both = (wide[rows][:, columns[name]], narrow[rows][:, columns[name]])
        losses[name] = _loss(run.parts[name], both, truth, patients[rows], bits, calibrated_on)
        try:
            losses[name].check(options)
        except UserError as error:
            raise UserError(f"target {name!r}: {error}") from None
    return Losses(losses)


def _loss(
    run: Run,
    logits: tuple[np.ndarray, np.ndarray],
    targets: np.ndarray,
    patients: np.ndarray,
    bits: str,
    calibrated_on: int,
) -> Loss:
    """Compare the logits ``(n, K)`` of one target before and after."""
    scale = run.calibration
    wide, narrow = (probabilities(outputs, run.task, scale.temperature) for outputs in logits)
    shifts = np.abs(narrow - wide).max(1)
    labels = ([predicted_label(row, run.task, scale.thresholds) for row in p] for p in (wide, narrow))
    scored = [Scores(run.task, p, targets, patients) for p in (narrow, wide)]
    auroc = compare(*scored, names=(bits, "fp32")).differences["auroc"]
    return Loss(
        auroc.b, auroc.a, auroc.b - auroc.a, -auroc.high, -auroc.low, auroc.method, len(targets), calibrated_on,
        auroc.reason, bits, float(shifts.max()), float(shifts.mean()),
        sum(a != b for a, b in zip(*labels, strict=True)),
    )  # fmt: skip
