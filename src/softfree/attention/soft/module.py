"""SOFT, attention with a Gaussian kernel (Lu et al. 2021, arXiv:2110.11945), and SOFT++ (2022, arXiv:2207.03341).

Queries and keys are one projection. With landmarks Q~ (m of them), q' = q / D^(1/4) and the kernel
exp(-|a - b|^2 / 2) between rows,

    A = kernel(Q~', Q~'),    P = kernel(Q~', Q'),    S = P^T A^+ P,    O_h = S_h V_h

never N x N: Nystroem's approximation of the kernel between all tokens. A^+ is computed by Newton's iteration.
SOFT++ normalizes between the landmarks: with D the diagonal matrix of A's row sums,

    S = P^T D^(-1/2) A^+ D^(-1/2) P

That is the released code's form; the paper's own could not be checked. The weights are not divided by their sum: for
similar tokens the result grows with N, and the surrounding layer norms must handle it. In float16 it is clamped to the
range of the type.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention.base import Attention, Grid, plain_only, transformed, widen
from softfree.attention.cost import AttentionCost, Shape
from softfree.attention.grid import HeadConv, ceil_div, window_means
from softfree.attention.registry import register_attention
from softfree.attention.soft.cost import soft_cost
from softfree.attention.soft.pseudoinverse import Inverse, pseudoinverse, without_data
from softfree.attention.soft.reference import soft_reference
from softfree_runtime.core.errors import UserError, unknown_name

Form = Literal["paper", "released"]
Sampling = Literal["pool", "conv"]


LANDMARKS, ITERATIONS = 49, 20


class Kernels(NamedTuple):
    """A (B, H, m, m) between landmarks, and P (B, H, m, N) from landmarks to tokens."""

    between: Tensor
    across: Tensor


@register_attention("soft")
class SoftAttention(Attention):
    """``O_h = P^T A^+ P V_h`` with Gaussian kernels to ``m`` landmarks; time grows with N if their number is fixed.

    The forms differ as follows, and each difference is also an option of its own:

    - "paper": landmarks are means of windows; no ridge; 49 landmarks for any N.
    - "released": landmarks are a learned convolution of a head's queries (kernel and stride ``stride``, shared by the
      heads), normalized over the D features and passed through a GELU. They are then not in the space of the queries,
      and S does not approximate a kernel; the ridge is 0.01. Their number grows with N, and thus the time with N^2, as
      in the released code. There, all matrices of SOFT++ share the initial value of Newton's iteration; here each
      matrix has its own, so that no sample depends on others, and SOFT++ has the same gradient as SOFT, that of the
      exact inverse, whereas the released code backpropagates through all iterations.

    Tokens in front of the grid, such as a class token, belong to no landmark, but attend and are attended to.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        form: "paper" or "released".
        landmarks: Maximum number m of windows; see :func:`~softfree.attention.grid.landmark_sides`.
        stride: Side of a window instead.
        sampling: "pool" or "conv"; "conv" needs ``stride`` and a two-dimensional grid.
        ridge: Added to the diagonal of A.
        iterations: Number of Newton iterations.
        conv: Side of a depth-wise convolution on V whose result is added; 0 for none. The released pyramids have 9, 5
            and 3 in their stages.
        conv_dims: Dimensions of the grid for ``conv``.
        **options: See :class:`~softfree.attention.base.Attention`.

    Attributes:
        replaced: Number of matrices inverted by their eigenvalues because the iteration failed.

    Raises:
        UserError: An unknown form or sampling, or a convolution without stride.
    """

    shared_keys = True
    linear_in_values = True
    fixed_size = True
    normalized = False
    replaced = 0
    reference_mix = soft_reference

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        form: Form = "paper",
        landmarks: int = LANDMARKS,
        stride: int | None = None,
        sampling: Sampling | None = None,
        ridge: float | None = None,
        iterations: int = ITERATIONS,
        conv: int = 0,
        conv_dims: int = 2,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads, **options)
        if form not in get_args(Form):
            raise unknown_name(f"form of {type(self).__name__}:", form, get_args(Form))
        sampling = sampling or ("conv" if form == "released" else "pool")
        if sampling not in get_args(Sampling):
            raise unknown_name(f"sampling of {type(self).__name__}:", sampling, get_args(Sampling))
        if sampling == "conv" and stride is None:
            raise UserError(f"{type(self).__name__} got sampling='conv' without stride: set it, or sampling='pool'.")
        self.landmarks, self.stride, self.iterations = landmarks, stride, iterations
        self.ridge = ridge if ridge is not None else 0.01 if form == "released" else 0.0
        factory_options: dict[str, Any] = {"device": options.get("device"), "dtype": options.get("dtype")}
        self.sample = ConvSampling(self.head_dim, stride or 1, **factory_options) if sampling == "conv" else None
        self.local = HeadConv(num_heads, conv, dims=conv_dims, **factory_options) if conv else None

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: Grid | None = None) -> Tensor:
        """Mix by the formulas of the module, kernels and inverse in float32 or better."""
        (q,), exact = widen(q)
        with exact:
            kernels = self.kernels(q, mask, grid)
            inverse = self.invert(kernels.between)
            weighted = kernels.across @ v.to(kernels.across.dtype)  # (B, H, m, D)
            if self.normalized:
                scale = kernels.between.sum(-1, keepdim=True).rsqrt()  # (B, H, m, 1)
                out = kernels.across.mT @ (scale * (inverse.value @ (scale * weighted)))
            else:
                out = kernels.across.mT @ (inverse.value @ weighted)
            if v.dtype == torch.float16:
                largest = torch.finfo(v.dtype).max
                out = out.clamp(-largest, largest)
            out = out.to(v.dtype)
        return out if self.local is None else out + self.local(v, grid, mask)

    def kernels(self, q: Tensor, mask: Tensor | None, grid: Grid | None = None) -> Kernels:
        """Compute A and P; padded tokens and landmarks without a real token have weight 0.

        Args:
            q: Queries (B, H, N, D).
            mask: True for real tokens (B, 1, N, 1), or None for all.
            grid: As for :meth:`Attention.forward`.
        """
        (q,), _ = widen(q)
        q = q * self.head_dim**-0.25
        if self.sample is None:
            landmarks, real = window_means(q, grid, mask, number=self.landmarks, stride=self.stride)
        else:
            landmarks, real = self.sample(q, grid, mask)
        between, across = gaussian_kernel(landmarks, landmarks), gaussian_kernel(landmarks, q)
        if real is not None and mask is not None:
            # The identity instead of them inverts to itself, and meets only zeros in P.
            identity = torch.eye(landmarks.shape[2], dtype=q.dtype, device=q.device)
            between = torch.where(real & real.mT, between, identity)
            across = across.masked_fill(~(real & mask.mT), 0)
        return Kernels(between, across)

    def invert(self, between: Tensor) -> Inverse:
        """Invert A, and count replaced matrices except under torch.func."""
        inverse = pseudoinverse(between, iterations=self.iterations, ridge=self.ridge)
        if not (without_data(between) or transformed()):
            self.replaced += int(inverse.replaced.sum())
        return inverse

    @classmethod
    def cost(cls, shape: Shape) -> AttentionCost:
        """Compute the cost for a shape; see :meth:`Attention.cost`."""
        return soft_cost(shape, LANDMARKS, ITERATIONS, cls.normalized)


@register_attention("soft_norm")
class SoftNormAttention(SoftAttention):
    """SOFT++: ``O_h = P^T D^(-1/2) A^+ D^(-1/2) P V_h``; options and forms are those of :class:`SoftAttention`.

    The released form has no ridge here, as in the released code.
    """

    normalized = True

    def __init__(self, dim: int, num_heads: int = 8, *, ridge: float | None = None, **options: Any) -> None:
        super().__init__(dim, num_heads, ridge=0.0 if ridge is None else ridge, **options)


class ConvSampling(nn.Module):
    """The released code's landmarks: a convolution of a head's queries, LayerNorm over its features, GELU.

    Args:
        width: D.
        stride: Side and stride of the kernel. If it does not divide the grid, the bottom and the right are padded with
            zeros; the released code drops those tokens.
        device: Device of the weights.
        dtype: Their type.
    """

    def __init__(
        self, width: int, stride: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width, stride, stride, bias=False, device=device, dtype=dtype)
        self.norm = nn.LayerNorm(width, device=device, dtype=dtype)

    def forward(self, q: Tensor, grid: Grid | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return landmarks (B, H, m, D), and which have a real token, (B, 1, m, 1), or None for all.

        Args:
            q: (B, H, P + h w, D), float32 or better.
            grid: (h, w).
            mask: True for real tokens (B, 1, P + h w, 1), or None for all.

        Raises:
            UserError: Tokens without a two-dimensional grid.
        """
        if grid is None or len(grid) != 2:
            raise UserError("SOFT got sampling='conv' for tokens without rows and columns: use sampling='pool'.")
        batch, heads, _, width = q.shape
        rows, columns = grid
        real = None
        if mask is not None:
            q = q.masked_fill(~mask, 0)
            _, real = window_means(mask.to(q.dtype), grid, mask, stride=self.stride)
        maps = q[:, :, -rows * columns :].mT.reshape(batch * heads, width, rows, columns)
        below, right = (ceil_div(side, self.stride) * self.stride - side for side in (rows, columns))
        maps = F.pad(maps, (0, right, 0, below))
        sampled = F.conv2d(maps, self.conv.weight.to(q.dtype), stride=self.stride)
        landmarks = sampled.flatten(2).mT.reshape(batch, heads, -1, width)
        weight, bias = (p.to(q.dtype) for p in (self.norm.weight, self.norm.bias))
        return F.gelu(F.layer_norm(landmarks, (width,), weight, bias, self.norm.eps)), real


def gaussian_kernel(a: Tensor, b: Tensor) -> Tensor:
    """Return ``exp(-|a_i - b_j|^2 / 2)`` for rows of a (..., m, D) and b (..., n, D), (..., m, n), float32 or better.

    Both are centered by the mean of ``a`` first: the kernel does not depend on it, but |a|^2 + |b|^2 - 2 a.b would lose
    digits. Only ``a``, ``b`` and the result are kept for backward.
    """
    center = a.detach().mean(-2, keepdim=True)
    a, b = a - center, b - center
    if plain_only():
        return _kernel(a, b)
    result: Tensor = _GaussianKernel.apply(a, b)
    return result


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    squares = a.square().sum(-1, keepdim=True) + b.square().sum(-1, keepdim=True).mT
    if plain_only():
        return (a @ b.mT).sub(squares, alpha=0.5).clamp(max=0).exp()
    return (a @ b.mT).sub_(squares, alpha=0.5).clamp_(max=0).exp_()


class _GaussianKernel(torch.autograd.Function):
    """With W = G * P: da = W b - (W 1) a, db = W^T a - (W^T 1) b."""

    @staticmethod
    def forward(a: Tensor, b: Tensor) -> Tensor:
        return _kernel(a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b, kernel = ctx.saved_tensors
        weights = grad * kernel
        grad_a = torch.addcmul(weights @ b, weights.sum(-1, keepdim=True), a, value=-1)
        grad_b = torch.addcmul(weights.mT @ a, weights.sum(-2).unsqueeze(-1), b, value=-1)
        return grad_a, grad_b
