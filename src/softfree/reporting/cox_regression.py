"""A linear Cox regression with a squared penalty."""

from __future__ import annotations

import numpy as np
import torch

from softfree.core.partial_likelihood import negative_log_partial_likelihood
from softfree.data.follow_up import EVENT, TIME

_STEPS = 200


def cox_weights(features: np.ndarray, targets: np.ndarray, strength: float) -> np.ndarray:
    """Return the weights ``(P,)`` that minimize minus the log partial likelihood plus ``|w|^2 / (2 strength)``.

    The penalty has one minimum, in the span of the samples: with more features than samples, the weights of the samples
    are sought instead.

    Args:
        features: Standardized, float64 ``(n, P)``.
        targets: ``(n, 2)`` times and events.
        strength: Weight of the likelihood against the penalty, as C of a logistic regression.
    """
    _, sizes, directions = np.linalg.svd(features, full_matrices=False)
    scores = torch.from_numpy(features @ directions.T)  # (n, min(n, P)), of which the penalty is the same
    events, times = torch.from_numpy(targets[:, EVENT] == 1), torch.from_numpy(targets[:, TIME])
    weights = torch.zeros(len(sizes), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=_STEPS, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = negative_log_partial_likelihood(scores @ weights, times, events)
        loss = loss + (weights**2).sum() / (2 * strength)
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach().numpy() @ directions
