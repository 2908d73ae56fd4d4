from collections.abc import Callable

import numpy as np
import pytest

from softfree_lab.studies.trials import Trial, TrialKey


@pytest.fixture
def make_trial() -> Callable[..., Trial]:
    """A finished trial whose scores are the truth and some noise: 60 images of 30 patients."""

    def make(variant: str, seed: int, noise: float, data: str = "films", scales: tuple[str, ...] = ("1",)) -> Trial:
        truth = np.arange(60) // 2 % 2
        probabilities = {}
        for number, scale in enumerate(scales):
            rng = np.random.default_rng((seed, number))
            p = np.clip(truth * 0.4 + 0.3 + noise * rng.standard_normal(60), 0, 1)
            probabilities[scale] = np.column_stack([1 - p, p]).tolist()
        cost = {
            "seconds": 9.0, "cpu_seconds": 5.0 + seed, "peak_bytes": 2**30, "multiply_adds": 7, "resumed": False,
        }  # fmt: skip
        return Trial(
            key=TrialKey(data, variant, seed),
            options={"lr": 0.1},
            kind="binary",
            classes=["no", "yes"],
            targets=truth.tolist(),
            patients=(np.arange(60) // 2).tolist(),
            probabilities=probabilities,
            cost=cost,
            machine="a machine",
        )

    return make
