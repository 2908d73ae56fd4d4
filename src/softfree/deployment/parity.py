"""Check that a file gives the logits of the run, on real samples and through each one's own preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from softfree.deployment.graph import WithDistance
from softfree.deployment.samples import Sample
from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.modalities import Preprocessing

# Of logits in float32, and in float16, which shifts a probability by 0.01 at most.
TOLERANCE = 1e-4
FLOAT16_TOLERANCE = 2e-2
# Of a distance from the training samples, relative: whitening enlarges rounding.
DISTANCE_TOLERANCE = 1e-3
# Distances are 1 at the limit of what is unusual. Below this one rounding decides nothing, but is large in relation.
NEAR = 0.1
Logits = Callable[[np.ndarray], np.ndarray]
# The same batch, preprocessed by the run and by the runtime.
BatchPair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Parity:
    """The largest difference of a logit, keyed by what was compared, such as ``8 images at 512 x 512``."""

    differences: dict[str, float]

    @property
    def largest(self) -> float:
        """The largest difference of all."""
        return max(self.differences.values())


def check_parity(
    run: Run,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    logits: Logits,
    any_size: bool,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare the logits of a run with those of a file.

    The run gets the samples through its own preprocessing, the file through that of the runtime, so that the whole
    pipeline is compared.

    Args:
        run: The run.
        samples: Readable samples.
        preprocessing: Preprocessing of the file.
        logits: Maps preprocessed batches of one shape to logits (B, K) of the file.
        any_size: Compare images at three sizes; else three batches of one size.
        tolerance: Largest accepted difference of a logit.

    Raises:
        UserError: A difference above the tolerance, or NaN.
    """
    differences: dict[str, float] = {}
    model = run.model.cpu()
    for ours, theirs in _batches(run.preprocessing, samples, preprocessing, any_size):
        with torch.inference_mode():
            expected = model(torch.from_numpy(ours)).double().numpy()
        name = _describe(preprocessing.kind, ours.shape)
        difference = float(np.abs(expected - logits(theirs)).max())
        if not difference <= tolerance:
            raise UserError(
                f"the exported model differs from the run by {difference:.2g} in a logit ({name}), more than "
                f"{tolerance:.0e}; no file was written"
            )
        differences[name] = max(difference, differences.get(name, 0.0))
    return Parity(differences)


def check_distances(
    run: Run, samples: Sequence[Sample], preprocessing: Preprocessing, distances: Logits, tolerance: float
) -> float:
    """Compare the distances from the training samples that a run gives with those of a file; return the largest shift.

    Args:
        run: A run with distributions.
        samples: Readable samples.
        preprocessing: Preprocessing of the file.
        distances: Maps preprocessed batches of one shape to distances (B,) of the file.
        tolerance: Largest accepted shift, relative to the distance, or to :data:`NEAR` if that is more.

    Raises:
        UserError: A shift above the tolerance, or NaN.
    """
    model = WithDistance(run.model.cpu(), run.distributions)
    largest = 0.0
    for ours, theirs in _batches(run.preprocessing, samples, preprocessing, False):
        with torch.inference_mode():
            expected = model(torch.from_numpy(ours))[1].double().numpy()
        shift = float((np.abs(expected - distances(theirs)) / np.maximum(expected, NEAR)).max())
        if not shift <= tolerance:
            raise UserError(
                f"the distance from the training samples differs from the run's by {shift * 100:.2g} %, more than"
                f" {tolerance * 100:g} %; no file was written"
            )
        largest = max(largest, shift)
    return largest


def _batches(own: Any, samples: Sequence[Sample], runtime: Any, any_size: bool) -> Iterator[BatchPair]:
    """Yield batches to compare, one at a time, since a single slide may fill the memory."""
    if own.kind in ("bag", "case"):
        # All tiles of a bag or images of a case, half of them, and one.
        for number, sample in enumerate(samples[:3]):
            ours, theirs = _load_both([sample], own, runtime)
            yield ours, theirs
            if number == 0:
                for count in (-(-ours.shape[1] // 2), 1):
                    yield ours[:, :count], theirs[:, :count]
    elif own.sample_bytes() is None:
        for sample in samples[:3]:
            yield _load_both([sample], own, runtime)
    elif own.kind == "image" and any_size:
        for size in _sizes(own.size):
            yield _load_both(samples, replace(own, size=size), replace(runtime, size=size))
    else:
        for count in sorted({1, min(2, len(samples)), len(samples)}):
            yield _load_both(samples[:count], own, runtime)


def _sizes(size: int) -> tuple[int, int, int]:
    """Return the run's size, a smaller one, and a larger one that is not a multiple of any patch."""
    return size, max(16, 3 * size // 4), 5 * size // 4 + 5


def _load_both(samples: Sequence[Sample], own: Preprocessing, runtime: Preprocessing) -> BatchPair:
    """Load one batch with the run's preprocessing and with the runtime's."""
    ours = np.stack([sample.load(own) for sample in samples])
    if own == runtime:  # slides and bags have the same preprocessing in both
        return ours, ours
    return ours, np.stack([sample.load(runtime) for sample in samples])


def _describe(kind: str, shape: tuple[int, ...]) -> str:
    rows = {"bag": "tile", "case": "image"}.get(kind)
    sides = f"of {shape[1]} {rows}{'s' * (shape[1] > 1)}" if rows else f"at {' x '.join(map(str, shape[2:]))}"
    return f"{shape[0]} {kind}{'s' * (shape[0] > 1)} {sides}"
