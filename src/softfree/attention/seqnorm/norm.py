"""The normalization of Q, K or V as a module with gamma and beta, and the literal formula."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softfree.attention.base import wide_type
from softfree.attention.moments import divisor
from softfree_runtime.core.errors import UserError

# Axes of (B, H, N, D) that one mean and one variance are taken over.
AXES: dict[str, tuple[int, ...]] = {"sequence": (2,), "layer": (3,), "batch": (0, 2)}


class TokenNorm(nn.Module):
    """``gamma * (t - mean) / sqrt(var + eps) + beta`` with one gamma and one beta for each of the C features.

    Statistics are in float32 or better and take two passes: a difference of squares would cancel, and halves overflow.
    """

    running_mean: Tensor
    running_var: Tensor
    momentum = 0.1

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        *,
        gamma: float,
        beta: float,
        norm: str,
        affine: bool,
        eps: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.per_head = (num_heads, 1, head_dim)
        self.init = (gamma, beta)
        self.norm, self.eps = norm, eps
        width = num_heads * head_dim
        self.weight = nn.Parameter(torch.empty(width, device=device, dtype=dtype)) if affine else None
        self.bias = nn.Parameter(torch.empty(width, device=device, dtype=dtype)) if affine else None
        if norm == "batch":
            self.register_buffer("running_mean", torch.empty(width, device=device))
            self.register_buffer("running_var", torch.empty(width, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset to the initial scale and shift."""
        for parameter, value in zip((self.weight, self.bias), self.init, strict=True):
            if parameter is not None:
                nn.init.constant_(parameter, value)
        if self.norm == "batch":
            nn.init.zeros_(self.running_mean)
            nn.init.ones_(self.running_var)

    def scale_and_shift(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return gamma and beta, (C,) each; 1 and 0 of the type of ``like`` if they are not learned."""
        if self.weight is None or self.bias is None:
            width = self.per_head[0] * self.per_head[2]
            return like.new_ones(width), like.new_zeros(width)
        return self.weight, self.bias

    def forward(
        self, t: Tensor, mask: Tensor | None, counted: Tensor | None, gain: Tensor | float | None = None
    ) -> Tensor:
        """Normalize.

        Args:
            t: (B, H, N, D).
            mask: Real tokens (B, 1, N, 1); the others come out as zero. None for all.
            counted: Tokens in the statistics (B, 1, N, 1), or their weights; None for all alike.
            gain: Factor on the result, (B, 1, 1, 1), (B, 1, N, 1) or a number.

        Returns:
            (B, H, N, D) of the type of ``t``.
        """
        centered, variance = self._center(t.to(wide_type(t)), counted)
        scale = (variance + self.eps).rsqrt() if self.norm != "none" else variance
        shift = torch.zeros_like(scale)
        if self.weight is not None and self.bias is not None:
            scale = scale * self.weight.to(scale.dtype).view(self.per_head)
            shift = self.bias.to(scale.dtype).view(self.per_head)
        if gain is not None:
            scale, shift = scale * gain, shift * gain
        out = torch.addcmul(shift, centered, scale)
        if mask is not None:
            out = out.masked_fill(~mask, 0)  # with beta, padding is not zero
        return out.to(t.dtype)

    def _center(self, t: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
        """Subtract the mean and return the biased variance, with axes of length 1; without a norm ``t`` and 1."""
        if self.norm == "none":
            return t, t.new_ones(())
        if self.norm == "batch" and not self.training:
            return t - self.running_mean.to(t).view(self.per_head), self.running_var.to(t).view(self.per_head)
        axes = AXES[self.norm]
        if self.norm == "batch" and counted is None:
            counted = torch.ones_like(t[:, :1, :, :1], dtype=torch.bool)
        if counted is None or self.norm == "layer":
            mean = t.mean(axes, keepdim=True)
            centered = t - mean
            variance = centered.square().mean(axes, keepdim=True)
        else:
            number = divisor(counted.sum(axes, keepdim=True))
            mean = (t * counted).sum(axes, keepdim=True) / number
            centered = t - mean
            variance = (centered.square() * counted).sum(axes, keepdim=True) / number
            if self.norm == "batch":
                self._update_running_statistics(mean, variance, number)
        return centered, variance

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, number: Tensor) -> None:
        """Update the running statistics, as ``torch.nn.BatchNorm1d`` does: with the unbiased variance."""
        if torch._C._are_functorch_transforms_active():
            raise UserError(
                "SeqNormAttention got norm='batch' in training under torch.func, where running statistics cannot be "
                "updated: call eval() first, or create it with another norm."
            )
        unbiased = variance * (number / (number - 1).clamp(min=1))
        self.running_mean.lerp_(mean.flatten().to(self.running_mean), self.momentum)
        self.running_var.lerp_(unbiased.flatten().to(self.running_var), self.momentum)
