"""SeqNorm attention (Khader et al. 2024, "Compute-efficient medical image classification", arXiv:2406.01314).

Q, K and V are normalised over the tokens, each feature by itself, scaled and shifted; then there is no softmax:

    T' = gamma * (T - mean_n T) / sqrt(var_n T + eps) + beta        T in {Q, K, V}
    O_h = Q'_h (K'_h^T V'_h) / N

The paper prints neither eps nor the kind of variance nor the start of gamma and beta. Here eps = 1e-5 and the
variance is biased, as in batch normalisation, and the start is the one that trained best when measured:
gamma_q = D^-1/2, gamma_k = gamma_v = 1, beta_q = beta_k = 0.2, beta_v = 0. With beta_q = 0 the result would have mean
zero over the tokens.

This is the formula as it stands. Galerkin attention (Cao 2021) with instance normalisation is the same without the
normalisation of Q.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from softfree.attention.base import Attention
from softfree.errors import UserError, unknown_name

Norm = Literal["sequence", "layer", "batch", "none"]
# Axes of (B, H, N, D) that one mean and one variance are taken over.
AXES: dict[str, tuple[int, ...]] = {"sequence": (2,), "layer": (3,), "batch": (0, 2)}


class SeqNormAttention(Attention):
    """``O_h = Q'_h (K'_h^T V'_h) / N`` with Q', K', V' normalised over the N tokens; time grows with N.

    The mean removes the bias of the q, k, v projection: with ``norm`` "sequence" or "batch" there is none, even if
    ``qkv_bias``, and one in a state dict is dropped on loading.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        gamma_q: Start of Q's scale; default D^-1/2.
        beta_q: Start of Q's shift.
        beta_k: Start of K's shift.
        affine: Learn the scales and shifts; without them gamma = 1 and beta = 0.
        norm: "sequence" (the method), or for comparison "layer" (each token over the D features of a head), "batch"
            (each feature over batch and tokens, with running statistics in evaluation) or "none".
        class_token_in_statistics: Let the prefix tokens count in mean and variance. If not, they are still
            normalised with the others' statistics, summed over, and counted in N.
        num_prefix_tokens: How many tokens at the front are no part of the picture, such as a class token.
        eps: Added to the variance.
        qkv_bias: A bias on the projection, where the normalisation does not remove it.
        **options: See :class:`~softfree.attention.base.Attention`.

    Raises:
        UserError: an unknown ``norm``, or prefix tokens to leave out but none named.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        gamma_q: float | None = None,
        beta_q: float = 0.2,
        beta_k: float = 0.2,
        affine: bool = True,
        norm: Norm = "sequence",
        class_token_in_statistics: bool = True,
        num_prefix_tokens: int = 0,
        eps: float = 1e-5,
        qkv_bias: bool = False,
        **options: Any,
    ) -> None:
        if norm not in get_args(Norm):
            raise unknown_name("norm of SeqNormAttention:", norm, get_args(Norm))
        if not class_token_in_statistics and num_prefix_tokens < 1:
            raise UserError("Got class_token_in_statistics=False without prefix tokens: set num_prefix_tokens.")
        keeps_bias = norm in ("layer", "none")
        super().__init__(dim, num_heads, qkv_bias=qkv_bias and keeps_bias, **options)
        self.num_left_out = 0 if class_token_in_statistics else num_prefix_tokens
        gamma_q = self.head_dim**-0.5 if gamma_q is None else gamma_q
        made: dict[str, Any] = {"device": options.get("device"), "dtype": options.get("dtype")}
        make = partial(TokenNorm, num_heads, self.head_dim, norm=norm, affine=affine, eps=eps, **made)
        self.q_norm = make(gamma=gamma_q, beta=beta_q)
        self.k_norm = make(gamma=1.0, beta=beta_k)
        self.v_norm = make(gamma=1.0, beta=0.0)
        if not keeps_bias:
            self.register_load_state_dict_pre_hook(_drop_qkv_bias)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Mix by the second formula of the module, ``1 / N`` spread over K' and V' so that no half overflows."""
        counted = self._counted(q, mask)
        tokens: Tensor | int = q.shape[2]
        if mask is not None:
            tokens = mask.sum(dim=2, keepdim=True).clamp(min=1).to(_wide(q))  # (B, 1, 1, 1)
        q = self.q_norm(q, mask, counted)
        k = self.k_norm(k, mask, counted, gain=tokens**-0.5)
        v = self.v_norm(v, mask, counted, gain=tokens**-0.5)
        return q @ (k.transpose(-2, -1) @ v)

    def _counted(self, q: Tensor, mask: Tensor | None) -> Tensor | None:
        """Find the tokens that enter mean and variance, (B, 1, N, 1); None for all."""
        if not self.num_left_out:
            return mask
        counted = torch.arange(q.shape[2], device=q.device).unsqueeze(1) >= self.num_left_out  # (N, 1)
        return counted.expand(q.shape[0], 1, -1, 1) if mask is None else mask & counted


class TokenNorm(nn.Module):
    """``gamma * (t - mean) / sqrt(var + eps) + beta`` with one gamma and one beta for each of the C features.

    Statistics are in float32 or better, by two passes: a difference of squares would cancel, and halves overflow.
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
        self.start = (gamma, beta)
        self.norm, self.eps = norm, eps
        width = num_heads * head_dim
        self.weight = nn.Parameter(torch.empty(width, device=device, dtype=dtype)) if affine else None
        self.bias = nn.Parameter(torch.empty(width, device=device, dtype=dtype)) if affine else None
        if norm == "batch":
            self.register_buffer("running_mean", torch.empty(width, device=device))
            self.register_buffer("running_var", torch.empty(width, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Back to the start."""
        for parameter, value in zip((self.weight, self.bias), self.start, strict=True):
            if parameter is not None:
                nn.init.constant_(parameter, value)
        if self.norm == "batch":
            nn.init.zeros_(self.running_mean)
            nn.init.ones_(self.running_var)

    def forward(
        self, t: Tensor, mask: Tensor | None, counted: Tensor | None, gain: Tensor | float | None = None
    ) -> Tensor:
        """Normalise.

        Args:
            t: (B, H, N, D).
            mask: Real tokens (B, 1, N, 1); the others come out as zero. None for all.
            counted: Tokens in the statistics (B, 1, N, 1); None for all.
            gain: Factor on the result, (B, 1, 1, 1) or a number.

        Returns:
            (B, H, N, D) of the type of ``t``.
        """
        centred, variance = self._centre(t.to(_wide(t)), counted)
        scale = (variance + self.eps).rsqrt() if self.norm != "none" else variance
        shift = torch.zeros_like(scale)
        if self.weight is not None and self.bias is not None:
            scale = scale * self.weight.to(scale.dtype).view(self.per_head)
            shift = self.bias.to(scale.dtype).view(self.per_head)
        if gain is not None:
            scale, shift = scale * gain, shift * gain
        out = torch.addcmul(shift, centred, scale)
        if mask is not None:
            out = out.masked_fill(~mask, 0)  # beta has made the padding non-zero
        return out.to(t.dtype)

    def _centre(self, t: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
        """Subtract the mean and give the biased variance, with axes of length 1; ``t`` and 1 without normalisation."""
        if self.norm == "none":
            return t, t.new_ones(())
        if self.norm == "batch" and not self.training:
            return t - self.running_mean.to(t).view(self.per_head), self.running_var.to(t).view(self.per_head)
        axes = AXES[self.norm]
        if self.norm == "batch" and counted is None:
            counted = torch.ones_like(t[:, :1, :, :1], dtype=torch.bool)
        if counted is None or self.norm == "layer":
            mean = t.mean(axes, keepdim=True)
            centred = t - mean
            variance = centred.square().mean(axes, keepdim=True)
        else:
            number = counted.sum(axes, keepdim=True).clamp(min=1)
            mean = t.where(counted, 0).sum(axes, keepdim=True) / number
            centred = t - mean
            variance = centred.square().where(counted, 0).sum(axes, keepdim=True) / number
            if self.norm == "batch":
                self._remember(mean, variance, number)
        return centred, variance

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, number: Tensor) -> None:
        """Move the running statistics, as ``torch.nn.BatchNorm1d`` does: with the unbiased variance."""
        unbiased = variance * (number / (number - 1).clamp(min=1))
        self.running_mean.lerp_(mean.flatten().to(self.running_mean), self.momentum)
        self.running_var.lerp_(unbiased.flatten().to(self.running_var), self.momentum)


def _wide(t: Tensor) -> torch.dtype:
    """Choose the type of statistics: float32, or float64 where ``t`` has it."""
    return torch.promote_types(t.dtype, torch.float32)


def _drop_qkv_bias(_module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    state_dict.pop(f"{prefix}qkv.bias", None)
