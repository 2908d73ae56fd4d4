"""Moore-Penrose inverses of batches of small symmetric matrices by Newton's iteration.

As in SOFT (Lu et al. 2021, arXiv:2110.11945, algorithm 2): with 0 < alpha < 2 / s_1^2, s_1 the largest singular value,

    X_0 = alpha A,    X_(k+1) = 2 X_k - X_k A X_k,
    so that  X_k = f_k(A),    f_k(s) = (1 - (1 - alpha s^2)^(2^k)) / s

Singular values far below s_1 2^(-k/2) stay near zero, so the iteration is well behaved for the nearly singular matrices
of a smooth kernel, and a rounded A does no harm. alpha = 1.8 / ||A||_1^2 for each matrix separately.

Backward is the differential of the exact inverse, with P = I - A X:

    dL/dA = -X G X + P G^T X X + X X G^T P^T

whereas the official code has only the first term, which is correct for full rank.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from softfree.attention.base import widen

# A matrix whose ||A X A - A|| / ||A|| (Frobenius) is below this many rounding errors has converged.
CONVERGED = 8
# A matrix that stays above this after all iterations is inverted by its eigenvalues. Nearly singular ones stay below:
# their missing part is small itself.
FAILED = 1e-2
# Minimum number of iterations that such an inverse corresponds to.
MIN_ITERATIONS = 20


class Inverse(NamedTuple):
    """Result of :func:`pseudoinverse`.

    Attributes:
        value: (..., m, m), of the type of the matrices.
        residual: ``||A X A - A|| / ||A||``, (...).
        replaced: Where the iteration failed and eigenvalues were used, (...).
    """

    value: Tensor
    residual: Tensor
    replaced: Tensor


def pseudoinverse(a: Tensor, *, iterations: int = 20, ridge: float = 0.0) -> Inverse:
    """Invert symmetric matrices, each independently of the rest of the batch.

    Arithmetic is in float32, or float64 for float64 input, even under autocast. Converged matrices are not changed, and
    the iteration ends when all have converged. While a graph is compiled or exported all iterations run, and no matrix
    is replaced.

    Args:
        a: (..., m, m), symmetric.
        iterations: Maximum number; 20 in SOFT.
        ridge: Added to the diagonal first.
    """
    (wide,), exact = widen(a)
    with exact:
        if ridge:
            wide = wide + ridge * torch.eye(a.shape[-1], dtype=wide.dtype, device=a.device)
        scaled, norm = to_unit_norm(wide)
        if without_data(a):
            x = _traced(scaled, iterations)
            error, replaced = residual(scaled, x), torch.zeros(a.shape[:-2], dtype=torch.bool, device=a.device)
        else:
            x, error, replaced = _Pseudoinverse.apply(scaled, iterations)
        return Inverse((x / norm).to(a.dtype), error, replaced)


def _traced(a: Tensor, iterations: int) -> Tensor:
    """Iterate in a graph; backward is that of the exact inverse, as in :class:`_Pseudoinverse`, and stores one X."""
    fixed = a.detach()
    x = start(fixed)
    for _ in range(iterations):
        x = step(fixed, x)
    if not a.requires_grad:
        return x
    return x + _differential(fixed, x, a - fixed)  # of zero, which has a gradient


def _differential(a: Tensor, x: Tensor, change: Tensor) -> Tensor:
    """Return the change (..., m, m) of the inverse X of A for a small change of A."""
    p = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) - a @ x
    square = x @ x
    return square @ change.mT @ p + p.mT @ change.mT @ square - x @ change @ x


def without_data(a: Tensor) -> bool:
    """Whether a graph is traced, or only shapes and costs are computed, so that nothing may depend on values."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting() or a.is_meta


def to_unit_norm(a: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each matrix by ``||A||_1`` (..., 1, 1), whose square could overflow; zero stays zero."""
    norm = a.detach().abs().sum(-1).amax(-1)[..., None, None]
    norm = norm.where(norm > 0, 1)
    return a / norm, norm


def start(a: Tensor) -> Tensor:
    """Return X_0 (..., m, m) for matrices of unit norm."""
    return 1.8 * a


def step(a: Tensor, x: Tensor) -> Tensor:
    """Return the next X (..., m, m)."""
    return 2 * x - x @ (a @ x)


def residual(a: Tensor, x: Tensor) -> Tensor:
    """Measure ``||A X A - A|| / ||A||`` in Frobenius' norm, (...); 0 for a zero matrix."""
    size = torch.linalg.matrix_norm(a)
    return torch.linalg.matrix_norm(a @ x @ a - a) / size.where(size > 0, 1)


def by_eigenvalues(a: Tensor, iterations: int) -> Tensor:
    """Return f_k(A) (..., m, m), the exact result of the iteration, for matrices of unit norm."""
    values, vectors = torch.linalg.eigh(a)
    base = (1 - 1.8 * values.square()).abs()  # 2^k is even
    numerator = -torch.expm1(2.0**iterations * base.log())
    inverses = torch.where(values == 0, 0, numerator / values)
    return (vectors * inverses.unsqueeze(-2)) @ vectors.mT


class _Pseudoinverse(torch.autograd.Function):
    """The iteration forward, the last formula of the module backward."""

    @staticmethod
    def forward(a: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
        x, error = _iterate(a, iterations)
        replaced = ~(error <= FAILED) & a.isfinite().all((-2, -1))  # NaN counts as failed
        if replaced.any():
            x[replaced] = by_eigenvalues(a[replaced], max(iterations, MIN_ITERATIONS))
            error[replaced] = residual(a[replaced], x[replaced])
        return x, error, replaced

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[0], output[0])
        ctx.save_for_forward(inputs[0], output[0])
        ctx.mark_non_differentiable(output[1], output[2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, None]:
        a, x = ctx.saved_tensors
        p = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) - a @ x
        square = x @ x
        return p @ grad.mT @ square + square @ grad.mT @ p.mT - x @ grad @ x, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> tuple[Tensor, None, None]:
        a, x = ctx.saved_tensors
        return _differential(a, x, tangent), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None], a: Tensor, iterations: int) -> tuple[Any, tuple[int, int, int]]:
        """Treat the new axis as another batch axis: each matrix is inverted independently anyway."""
        return _Pseudoinverse.apply(a.movedim(in_dims[0], 0), iterations), (0, 0, 0)


def _iterate(a: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Return X and its residual; each matrix stops separately, so that none depends on the others."""
    x, tolerance = start(a), CONVERGED * torch.finfo(a.dtype).eps
    error = torch.full(a.shape[:-2], torch.inf, dtype=a.dtype, device=a.device)
    for number in range(iterations):
        ax = a @ x
        # Only every fifth time, since checking costs half a step.
        if number % 5 == 4:
            size = torch.linalg.matrix_norm(a)
            error = torch.linalg.matrix_norm(ax @ a - a) / size.where(size > 0, 1)
            if bool((error <= tolerance).all()):
                return x, error
        unfinished = (error > tolerance)[..., None, None]
        x = torch.where(unfinished, 2 * x - x @ ax, x)
    return x, residual(a, x)
