"""Activations of the MLPs: GELU, and two that need neither erf nor exp, for processors without them.

``relu2`` is relu(x)^2 (So et al. 2021, "Primer", arXiv:2109.08668, section 3.2); ``hardswish`` is x relu6(x + 3) / 6
(Howard et al. 2019, "Searching for MobileNetV3", arXiv:1905.02244, section 5.2).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from softfree_runtime.core.errors import unknown_name


class ReluSquared(nn.Module):
    """relu(x)^2: one comparison and one product for each feature."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (...) to (...)."""
        positive = F.relu(x)
        return positive * positive  # a power is a slower operator of ONNX


# The GELU is that of erf, as in published weights; on a CPU torch computes it faster than the tanh form, too.
ACTS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu2": ReluSquared, "hardswish": nn.Hardswish}


def act_layer(name: str) -> type[nn.Module]:
    """Find an activation by its name in :data:`ACTS`.

    Raises:
        UserError: an unknown name.
    """
    if name not in ACTS:
        raise unknown_name("act", name, ACTS)
    return ACTS[name]
