"""The Cox partial likelihood, by torchsurv.

Not by lifelines, which has no gradients and needs pandas below 3 (0.30), nor by scikit-survival, which has the GPL.
"""

from __future__ import annotations

import warnings

from torch import Tensor


def negative_log_partial_likelihood(log_hazards: Tensor, times: Tensor, events: Tensor) -> Tensor:
    """Return minus the log partial likelihood, summed over the events, with Efron's treatment of ties.

    Args:
        log_hazards: (n,), n > 1.
        times: (n,).
        events: (n,) boolean, True for the event, some of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ties, and of torch.jit
        from torchsurv.loss.cox import neg_partial_log_likelihood

        loss: Tensor = neg_partial_log_likelihood(log_hazards, events, times, reduction="sum")
    return loss
