"""Nystromformer (Xiong et al. 2021, "A Nystrom-based algorithm for approximating self-attention", arXiv:2102.03902).

The N x N softmax is approximated with m landmarks, the means Q~, K~ of the tokens of a window:

    O_h = softmax(Q K~^T / sqrt(D)) A^+ softmax(Q~ K^T / sqrt(D)) V,    A = softmax(Q~ K~^T / sqrt(D))   (m x m)

The pseudo-inverse comes from the paper's iteration of third order, and gradients go through it:

    Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4,    Z_0 = A^T / (||A||_1 ||A||_inf)

Z_0 is computed for each matrix separately, as in the paper; the released code divides by a norm over the whole batch,
so that a sample's result depends on the others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from softfree.attention.base import Attention, Grid, widen
from softfree.attention.cost import AttentionCost, Shape
from softfree.attention.grid import HeadConv, window_means
from softfree.attention.nystromformer.cost import nystromformer_cost
from softfree.attention.nystromformer.reference import nystromformer_reference
from softfree.attention.registry import register_attention
from softfree_runtime.core.errors import UserError

# Default landmarks and steps of the iteration.
LANDMARKS, ITERATIONS = 49, 6


@register_attention("nystromformer")
class NystromformerAttention(Attention):
    """Softmax attention through m landmarks; time grows with N m, and nothing of size N x m is kept.

    Landmarks are means over windows of the grid; a sequence without a grid is cut into m runs of real tokens. Tokens in
    front of the grid, such as a class token, are in no landmark: like any other token, they attend to the image and are
    attended to through the landmarks. Computed in float32, or float64 if the input is.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        landmarks: Maximum m; with fewer tokens, each is its own landmark.
        iterations: Steps of the iteration; networks adapt to their number, so keep it after training.
        conv: Side of the kernel of a depth-wise convolution of V over the grid, added to the result; 0 for none.
        conv_dims: Dimensions of its grid; 1 for sequences without a grid.
        **options: See :class:`~softfree.attention.base.Attention`.

    Raises:
        UserError: No landmarks, no iterations, or an even kernel.
    """

    linear_in_values = True
    fixed_size = True
    reference_mix = nystromformer_reference

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        landmarks: int = LANDMARKS,
        iterations: int = ITERATIONS,
        conv: int = 0,
        conv_dims: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads, **options)
        if landmarks < 1 or iterations < 1:
            raise UserError(f"Got {landmarks} landmarks and {iterations} iterations: expected one or more of each.")
        self.landmarks, self.iterations = landmarks, iterations
        factory_options: dict[str, Any] = {"device": options.get("device"), "dtype": options.get("dtype")}
        self.conv = HeadConv(num_heads, conv, dims=conv_dims, **factory_options) if conv else None

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: Grid | None = None) -> Tensor:
        """Mix by the formula of the module, from right to left, with the softmaxes over N in fused kernels."""
        dtype = q.dtype
        (q, k, v), exact = widen(q, k, v)
        with exact:
            q_means, real = window_means(q, grid, mask, number=self.landmarks)  # (B, H, m, D), (B, 1, m, 1)
            k_means, _ = window_means(k, grid, mask, number=self.landmarks)
            # Otherwise the fused kernels are not used, and N x m numbers are kept.
            q_means, k_means = q_means.contiguous(), k_means.contiguous()
            gathered = F.scaled_dot_product_attention(q_means, k, v, attn_mask=None if mask is None else mask.mT)
            gathered = pseudo_inverse(_kernel(q_means, k_means, real), self.iterations) @ gathered
            out = F.scaled_dot_product_attention(q, k_means, gathered, attn_mask=None if real is None else real.mT)
            if self.conv is not None:
                out = out + self.conv(v, grid, mask)
        return out.to(dtype)

    @classmethod
    def cost(cls, shape: Shape) -> AttentionCost:
        """Compute the cost for a shape; see :meth:`Attention.cost`."""
        return nystromformer_cost(shape, LANDMARKS, ITERATIONS)


def _kernel(q: Tensor, k: Tensor, real: Tensor | None) -> Tensor:
    """Return the softmax A (B, H, m, m) of landmarks (B, H, m, D); the identity for windows without a real token.

    The blocks of A do not mix in the iteration, and the identity does not enlarge a norm: the rows of A sum to one, so
    some column sums to one or more.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if real is not None:
        diagonal = torch.eye(q.shape[2], device=q.device, dtype=torch.bool)
        identity = torch.zeros_like(scores).masked_fill(~diagonal, float("-inf"))
        scores = scores.where(real & real.mT, identity)
    return scores.softmax(-1)


def pseudo_inverse(a: Tensor, iterations: int) -> Tensor:
    """Approximate A^+ for matrices (..., m, m) without negative entries, by the iteration of the module."""
    one = torch.eye(a.shape[-1], device=a.device, dtype=a.dtype)
    norms = a.sum(-2).amax(-1) * a.sum(-1).amax(-1)
    z = a.mT / norms[..., None, None]
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * one - az @ (15 * one - az @ (7 * one - az))) / 4
    return z
