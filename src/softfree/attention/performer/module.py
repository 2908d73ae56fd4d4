"""Performer, FAVOR+ (Choromanski et al. 2021, "Rethinking attention with Performers", arXiv:2009.14794).

The softmax kernel is an expectation over random features, so that keys and values meet before the queries do:

    O_i = phi(q_i)^T (sum_j phi(k_j) v_j^T) / (phi(q_i)^T sum_j phi(k_j))
    phi(x)_r = exp(w_r . x' - |x'|^2 / 2 - c) + eps,    x' = x / D^(1/4),    r = 1..M

c keeps the exponential within range and cancels except for eps: for a query it is the maximum of w_r . x' over r, for
the keys of a head that over r and all real tokens; as in the released code, its gradient is not taken. The w_r are
orthogonal in blocks of D, with the lengths of Gaussian vectors. The generalized kernel is
phi(x)_r = relu(w_r . x') + eps. eps is 1e-4, and 1e-3 for that kernel.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from softfree.attention.base import Attention, Grid, transformed, widen
from softfree.attention.cost import AttentionCost, Shape
from softfree.attention.performer.cost import performer_cost
from softfree.attention.performer.reference import performer_reference
from softfree.attention.registry import register_attention
from softfree_runtime.core.errors import UserError, unknown_name

Kernel = Literal["softmax", "relu"]


@register_attention("performer")
class PerformerAttention(Attention):
    """Softmax attention by M positive random features; time grows with N M.

    A class token is treated like any other token, and the grid is ignored. Features and sums are in float32, or float64
    if the input is.

    The features are redrawn every ``redraw_every`` training forward passes and fixed in evaluation. A draw depends on
    the layer's seed, taken from torch's generator when the layer is created, and the number of the draw, so that the
    processes of distributed training, and a resumed run, draw the same. A forward pass that gradient checkpointing
    recomputes in the backward pass neither counts nor draws; with it, call backward before the forward pass that draws.
    A moving average of weights must copy the buffers, not average them: the mean of two draws is not a draw.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        features: M; default D ln D, rounded down.
        kernel: "softmax", or "relu" for the generalized kernel, which approximates nothing.
        redraw_every: Training forward passes per draw; 0 keeps the first. Drawing stays outside compiled graphs;
            exported graphs, and forward passes under ``torch.func``, neither count nor draw.
        eps: Added to the features; default 1e-4, and 1e-3 for "relu".
        **options: See :class:`~softfree.attention.base.Attention`.

    Attributes:
        projection: The w_r (M, D), shared by the heads; saved with the weights.
        clock: The seed, and the number of training forward passes so far.

    Raises:
        UserError: An unknown kernel, no features, or a negative interval.
    """

    linear_in_values = True
    projection: Tensor
    clock: Tensor
    reference_mix = performer_reference

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        features: int | None = None,
        kernel: Kernel = "softmax",
        redraw_every: int = 1000,
        eps: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads, **options)
        if kernel not in get_args(Kernel):
            raise unknown_name("kernel of PerformerAttention:", kernel, get_args(Kernel))
        if features is None:
            features = default_features(self.head_dim)
        if features < 1 or redraw_every < 0:
            raise UserError(
                f"Got {features} features, redrawn every {redraw_every} forwards: expected one or more; 0 is never."
            )
        self.kernel, self.redraw_every = kernel, redraw_every
        self.eps = eps if eps is not None else {"softmax": 1e-4, "relu": 1e-3}[kernel]
        device = options.get("device")
        shape = (features, self.head_dim)
        self.register_buffer("projection", torch.empty(shape, device=device, dtype=options.get("dtype")))
        self.register_buffer("clock", torch.empty(2, device=device, dtype=torch.int64))
        # False for further batches of one step, which share its draw.
        self.counts = True
        # The clock's content, without waiting for the device; None after loading a state.
        self._time: tuple[int, int] | None = None
        self.register_load_state_dict_pre_hook(_forget_the_time)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Take a new seed from torch's generator, and make its first draw."""
        # 48 bits: the number of the draw is added, and the generator takes 64.
        self._time = (int(torch.randint(2**48, (), device="cpu")), 0)
        self.clock.copy_(torch.tensor(self._time, device="cpu"))
        self._draw(*self._time)

    @torch.no_grad()
    def _draw(self, seed: int, number: int) -> None:
        generator = torch.Generator("cpu").manual_seed(seed + number)
        self.projection.copy_(orthogonal_features(self.projection.shape[0], self.head_dim, generator))

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, grid: Grid | None = None
    ) -> Tensor:
        """See :meth:`Attention.forward`."""
        fixed = torch.compiler.is_exporting() or torch.jit.is_tracing() or transformed()
        if self.training and self.redraw_every and not fixed:
            self._tick()
        return super().forward(x, attn_mask, is_causal, grid)

    @torch.compiler.disable
    def _tick(self) -> None:
        """Count a training forward pass, and redraw if due."""
        if not self.counts or torch._C._current_graph_task_id() != -1:  # in a backward pass: checkpointing recomputes
            return
        seed, forwards = (int(number) for number in (self._time or self.clock.tolist()))
        if forwards and forwards % self.redraw_every == 0:
            self._draw(seed, forwards // self.redraw_every)
        self._time = (seed, forwards + 1)
        self.clock[1] = forwards + 1

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: Grid | None = None) -> Tensor:
        """Mix by the formula of the module; a sample without real tokens gives zeros."""
        dtype = q.dtype
        (q, k, v), exact = widen(q, k, v)
        with exact:
            # A copy, since the next draw may come before this forward's backward.
            w = self.projection.to(q.dtype, copy=True)
            queries, keys = self._features(q, w, None, over=(3,)), self._features(k, w, mask, over=(2, 3))
            number: Tensor | int = q.shape[2]
            if mask is not None:
                v, number = v.masked_fill(~mask, 0), mask.sum(2).to(v.dtype)  # (B, 1, 1)
            # eps is added after the products: otherwise the features plus eps would be kept for backward, too.
            values = keys.mT @ v + self.eps * v.sum(2, keepdim=True)  # (B, H, M, D)
            weights = (keys.sum(2) + self.eps * number).unsqueeze(3)  # (B, H, M, 1)
            total = queries @ weights + self.eps * weights.sum(2, keepdim=True)  # (B, H, N, 1)
            out = (queries @ values + self.eps * values.sum(2, keepdim=True)) / total.where(total > 0, 1)
        return out.to(dtype)

    def _features(self, t: Tensor, w: Tensor, mask: Tensor | None, over: tuple[int, ...]) -> Tensor:
        """Map (B, H, N, D) to phi without eps (B, H, N, M), zero for padding; c is the maximum ``over`` these axes."""
        scores = t @ (w * self.head_dim**-0.25).mT
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        if self.kernel == "relu":
            return scores.relu()
        largest = scores.detach().amax(over, keepdim=True)
        largest = largest.where(largest.isfinite(), 0)  # without real tokens there is none
        half = t.square().sum(3, keepdim=True) * (self.head_dim**-0.5 / 2)
        return (scores - half - largest).exp()

    def begin_batch(self, first_of_step: bool) -> None:
        """Count the batches of one step once."""
        self.counts = first_of_step

    @classmethod
    def cost(cls, shape: Shape) -> AttentionCost:
        """Compute the cost for a shape; see :meth:`Attention.cost`."""
        return performer_cost(shape, default_features(shape.width // shape.heads))


def default_features(head_dim: int) -> int:
    """Return M = D ln D, rounded down; at least one."""
    return max(1, int(head_dim * math.log(head_dim)))


def orthogonal_features(number: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw vectors (M, D) whose directions are orthogonal within each block of D and whose lengths are chi(D).

    In float64 on the CPU, so that the same generator gives the same draw everywhere. R's diagonal determines the signs
    that QR leaves open: each block is then uniform over all rotations, and independent of the library.
    """
    options: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "device": "cpu"}
    blocks = torch.randn(-(-number // width), width, width, **options)
    q, r = torch.linalg.qr(blocks)
    directions = (q * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)).mT.flatten(0, 1)[:number]
    lengths = torch.randn(number, width, **options).norm(dim=1, keepdim=True)
    return directions * lengths


def _forget_the_time(module: torch.nn.Module, *_: Any) -> None:
    module._time = None  # type: ignore[assignment]
