"""The proof that a file gives the logits of the run: on real pictures, through each one's own preparation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from softfree.data.readers import Picture
from softfree.errors import UserError
from softfree.runs import Run
from softfree.runtime.preparation import Preparation

# Of logits in float32, and in half precision: the latter moves a probability by 0.01 at most.
TOLERANCE = 1e-4
HALF_TOLERANCE = 2e-2
Logits = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Parity:
    """The largest difference of a logit, by what was compared, such as ``8 pictures at 512 x 512``."""

    differences: dict[str, float]

    @property
    def largest(self) -> float:
        """The largest of all."""
        return max(self.differences.values())


def prove(
    run: Run,
    pictures: Sequence[Picture],
    preparation: Preparation,
    logits: Logits,
    any_size: bool,
    tolerance: float = TOLERANCE,
) -> Parity:
    """Compare the logits of a run with those of a file.

    The run sees the pictures as its own preprocessing makes them, the file as the reference of the runtime does, so
    that the whole way is compared.

    Args:
        run: the run.
        pictures: as they were read.
        preparation: of the file.
        logits: pictures (B, C, H, W) to logits (B, K), of the file.
        any_size: compare at three sizes; else three batches of the one size.
        tolerance: of a logit.

    Raises:
        UserError: a difference above the tolerance, or one that is no number.
    """
    if run.picture_steps.fit == "native":
        cases = [(preparation.size, [picture]) for picture in pictures[:3]]
    elif any_size:
        cases = [(size, list(pictures)) for size in _sizes(preparation.size)]
    else:
        cases = [(preparation.size, list(pictures[:number])) for number in (1, 2, len(pictures))]
    found: dict[str, float] = {}
    for size, chosen in cases:
        ours, given = _both(run, chosen, preparation, size)
        with torch.inference_mode():
            expected = run.model.cpu()(torch.from_numpy(ours)).double().numpy()
        named = f"{len(chosen)} pictures at {ours.shape[2]} x {ours.shape[3]}"
        found[named] = float(np.abs(expected - logits(given)).max())
    for named, difference in found.items():
        if not difference <= tolerance:
            raise UserError(
                f"the exported model differs from the run by {difference:.2g} in a logit ({named}), more than "
                f"{tolerance:.0e}; no file was written"
            )
    return Parity(found)


def _sizes(size: int) -> tuple[int, int, int]:
    """The run's size, a smaller one, and a larger one that is no multiple of any patch."""
    return size, max(16, 3 * size // 4), 5 * size // 4 + 5


def _both(run: Run, pictures: list[Picture], preparation: Preparation, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (B, C, H, W) by the run's own preparation and by the runtime's."""
    own, light = replace(run.picture_steps, size=size), replace(preparation, size=size)
    return np.stack([own(picture) for picture in pictures]), np.stack([light(picture) for picture in pictures])
