"""The proof that a file gives the logits of the run: on real samples, through each one's own preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from softfree.export.samples import Source
from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.modalities import Preprocessing

# Of logits in float32, and in half precision: the latter moves a probability by 0.01 at most.
TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2
Logits = Callable[[np.ndarray], np.ndarray]
# The same batch as the run prepares it and as the runtime does.
Both = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Parity:
    """The largest difference of a logit, by what was compared, such as ``8 images at 512 x 512``."""

    differences: dict[str, float]

    @property
    def largest(self) -> float:
        """The largest of all."""
        return max(self.differences.values())


def prove(
    run: Run,
    samples: Sequence[Source],
    preprocessing: Preprocessing,
    logits: Logits,
    any_size: bool,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare the logits of a run with those of a file.

    The run sees the samples as its own preprocessing makes them, the file as the reference of the runtime does, so
    that the whole way is compared.

    Args:
        run: The run.
        samples: That can be read.
        preprocessing: Of the file.
        logits: Prepared samples of one shape, with the batch axis in front, to logits (B, K), of the file.
        any_size: Compare images at three sizes; else three batches of the one size.
        tolerance: Of a logit.

    Raises:
        UserError: A difference above the tolerance, or one that is no number.
    """
    found: dict[str, float] = {}
    model = run.model.cpu()
    for ours, given in _cases(run.preprocessing, samples, preprocessing, any_size):
        with torch.inference_mode():
            expected = model(torch.from_numpy(ours)).double().numpy()
        named = _in_words(preprocessing.kind, ours.shape)
        difference = float(np.abs(expected - logits(given)).max())
        if not difference <= tolerance:
            raise UserError(
                f"the exported model differs from the run by {difference:.2g} in a logit ({named}), more than "
                f"{tolerance:.0e}; no file was written"
            )
        found[named] = max(difference, found.get(named, 0.0))
    return Parity(found)


def _cases(own: Any, samples: Sequence[Source], light: Any, any_size: bool) -> Iterator[Both]:
    """Batches to compare, one after the other, since a slide may be all that memory holds."""
    if own.kind == "bag":
        # A bag has as many tiles as there are: all, half of them, one.
        for number, sample in enumerate(samples[:3]):
            ours, given = _both([sample], own, light)
            yield ours, given
            if number == 0:
                for tiles in (-(-ours.shape[1] // 2), 1):
                    yield ours[:, :tiles], given[:, :tiles]
    elif own.sample_bytes() is None:
        for sample in samples[:3]:
            yield _both([sample], own, light)
    elif own.kind == "image" and any_size:
        for size in _sizes(own.size):
            yield _both(samples, replace(own, size=size), replace(light, size=size))
    else:
        for count in sorted({1, min(2, len(samples)), len(samples)}):
            yield _both(samples[:count], own, light)


def _sizes(size: int) -> tuple[int, int, int]:
    """The run's size, a smaller one, and a larger one that is no multiple of any patch."""
    return size, max(16, 3 * size // 4), 5 * size // 4 + 5


def _both(samples: Sequence[Source], own: Preprocessing, light: Preprocessing) -> Both:
    """One batch by the run's own preprocessing and by the runtime's."""
    ours = np.stack([sample.prepared(own) for sample in samples])
    if own == light:  # slides and bags have one preprocessing
        return ours, ours
    return ours, np.stack([sample.prepared(light) for sample in samples])


def _in_words(kind: str, shape: tuple[int, ...]) -> str:
    sides = f"of {shape[1]} tiles" if kind == "bag" else f"at {' x '.join(map(str, shape[2:]))}"
    return f"{shape[0]} {kind}{'s' * (shape[0] > 1)} {sides}"
