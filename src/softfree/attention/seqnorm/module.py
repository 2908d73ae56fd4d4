"""SeqNorm attention (Khader et al. 2024, "Compute-efficient medical image classification", arXiv:2406.01314).

Each feature of Q, K and V is normalized over the tokens, scaled and shifted; there is no softmax:

    T' = gamma * (T - mean_n T) / sqrt(var_n T + eps) + beta        T in {Q, K, V}
    O_h = Q'_h (K'_h^T V'_h) / N

The paper states neither eps nor the kind of variance nor the initial gamma and beta. Here eps = 1e-5 and the
variance is biased, as in batch normalization, and the initialization is one of :data:`INITS`.

With ``importance``, means over the tokens are weighted by w = softplus(g (u . x + b)), learned for each layer and at
first equal: mean, variance and, with w / sum(w) instead of 1 / N, the product of K' and V'. Tokens without anything of
interest can then weigh less, and the others keep their share of the sums however many of those there are. (Fan et al.
2025, RALA, weight the keys of linear attention in a similar way.)

The formula can be evaluated in three orders, equal up to rounding: see ``orders.py``. Galerkin attention (Cao 2021)
with instance normalization is the same without the normalization of Q.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention.base import Attention, Grid, dot_rows, narrow_as_autocast, wide_type
from softfree.attention.cost import AttentionCost, Shape
from softfree.attention.mask import real_tokens
from softfree.attention.moments import relative, total_weight
from softfree.attention.registry import register_attention
from softfree.attention.seqnorm.cost import seqnorm_cost
from softfree.attention.seqnorm.norm import TokenNorm
from softfree.attention.seqnorm.orders import Parameters, folded, gram
from softfree.attention.seqnorm.reference import seqnorm_reference
from softfree.attention.seqnorm.streaming import StreamingSeqNorm
from softfree.attention.seqnorm.weights import gram_rows
from softfree_runtime.core.errors import UserError, unknown_name

Norm = Literal["sequence", "layer", "batch", "none"]
Order = Literal["auto", "literal", "folded", "gram"]

# Tokens per feature from which the Gram order is faster: it does work of C^3 that does not depend on N. This is the
# median that `softfree-lab bench orders` measured on a CPU for widths of 192, 384 and 768, forward and backward, in
# float32 and bfloat16; single cases lie between 1.3 and 4.4, and near the crossover either order is good.
GRAM_FROM = 2.5
LEAST_IMPORTANCE = 1e-30  # added, so that float32 never counts all tokens for nothing: then they count alike


class Init(NamedTuple):
    """Initial scale and shift of Q and shift of K for all features; gamma_k = gamma_v = 1 and beta_v = 0."""

    gamma_q: float
    beta_q: float
    beta_k: float


# By the width D of a head. The paper does not state the initialization, which determines how well the attention learns.
# At gamma = 1 and beta = 0 each output is a random projection with a standard deviation of about sqrt(D / N), where
# softmax starts as a quiet average; and with beta_q = 0 the output has mean zero over the tokens, so that nothing
# global reaches an average-pooling head in one layer. For measurements see docs/explanation/recipe.md.
INITS: dict[str, Callable[[int], Init]] = {
    # As batch normalization.
    "unit": lambda width: Init(1.0, 0.0, 0.0),
    # Softmax's scale of the scores.
    "scaled": lambda width: Init(width**-0.5, 0.0, 0.0),
    # The same, with a path for the mean.
    "open": lambda width: Init(width**-0.5, 0.2, 0.2),
    # beta_q . beta_k = 1: the weights are (1 + s) / N with scores s = q' . k^, softmax's to first order.
    "first_order": lambda width: Init(width**-0.5, 1.0, 1.0 / width),
    # The same, with standard deviation 1 for all parts of s.
    "balanced": lambda width: Init(width**-0.5, width**-0.5, width**-0.5),
}


@register_attention("seqnorm")
class SeqNormAttention(Attention):
    """``O_h = Q'_h (K'_h^T V'_h) / N`` with Q', K', V' normalized over the N tokens; time grows with N.

    Subtracting the mean removes the bias of the q, k, v projection: with ``norm`` "sequence" or "batch" there is none,
    even with ``qkv_bias``, and one in a state dict is dropped on loading, or added to the shift of Q, K or V if that is
    not normalized.

    Args:
        dim: Width C.
        num_heads: Number of heads H.
        init: Initialization of scales and shifts: a name of :data:`~softfree.attention.seqnorm.module.INITS`.
        gamma_q: Initial scale of Q instead.
        beta_q: Initial shift of Q instead.
        beta_k: Initial shift of K instead.
        normalized: Which of Q, K and V are normalized: "qkv" or some of these letters; the others are only scaled
            and shifted. Without "v", the sum keeps the mean of V, and with it that of the image.
        affine: Learn the scales and shifts; without them gamma = 1 and beta = 0.
        norm: "sequence" (the method), or for comparison "layer" (each token over the D features of a head), "batch"
            (each feature over batch and tokens, with running statistics in evaluation) or "none".
        class_token_in_statistics: Include the prefix tokens in mean and variance. If not, they are still normalized
            with the statistics of the others, summed over, and counted in N.
        num_prefix_tokens: Number of tokens at the front that are not part of the image, such as a class token.
        importance: g of the learned importance of each token, such as 4; None: all are equally important.
        eps: Added to the variance.
        order: "literal" (the formula as written), "folded" (Q, K, V without normalized copies), "gram" (from the
            covariance of the input: Q, K, V are never computed), or "auto": the fastest for each input, and literal
            for options that the others cannot express. Results and parameters are the same.
        qkv_bias: Add a bias to the projection, unless the normalization removes it.
        **options: See :class:`~softfree.attention.base.Attention`.

    Raises:
        UserError: An unknown ``norm``, ``order``, ``init`` or ``normalized``, an order or importance that cannot be
            combined with another option, or excluded prefix tokens without their number.
    """

    streaming = StreamingSeqNorm
    functional_projections = True
    reference_mix = seqnorm_reference

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        init: str = "open",
        gamma_q: float | None = None,
        beta_q: float | None = None,
        beta_k: float | None = None,
        normalized: str = "qkv",
        affine: bool = True,
        norm: Norm = "sequence",
        class_token_in_statistics: bool = True,
        num_prefix_tokens: int = 0,
        importance: float | None = None,
        eps: float = 1e-5,
        order: Order = "auto",
        qkv_bias: bool = False,
        **options: Any,
    ) -> None:
        if norm not in get_args(Norm):
            raise unknown_name("norm of SeqNormAttention:", norm, get_args(Norm))
        if order not in get_args(Order):
            raise unknown_name("order of SeqNormAttention:", order, get_args(Order))
        if not normalized or "".join(letter for letter in "qkv" if letter in normalized) != normalized:
            raise UserError(f"Got normalized={normalized!r}: expected 'qkv' or some of its letters in this order.")
        if not class_token_in_statistics and num_prefix_tokens < 1:
            raise UserError("Got class_token_in_statistics=False without prefix tokens: set num_prefix_tokens.")
        keeps_bias = norm in ("layer", "none")
        super().__init__(dim, num_heads, qkv_bias=qkv_bias and keeps_bias, **options)
        self.num_left_out = 0 if class_token_in_statistics else num_prefix_tokens
        self.eps = eps
        self.order = order
        literal_only = self._literal_only(norm)
        if order in ("folded", "gram") and literal_only:
            raise UserError(f"Got order={order!r} with {literal_only}: only order='literal' can express that.")
        self.expressible = not literal_only
        if importance is not None and (norm != "sequence" or self.num_left_out):
            raise UserError(f"Got importance={importance} with {literal_only}: it weights the mean over all tokens.")
        if importance is not None and not importance > 0:
            raise UserError(f"Got importance={importance}: expected a number above 0, such as 4, or None.")
        self.normalized = normalized
        overrides = {"gamma_q": gamma_q, "beta_q": beta_q, "beta_k": beta_k}
        start = choose_init(init, self.head_dim)._replace(**{k: v for k, v in overrides.items() if v is not None})
        factory_options: dict[str, Any] = {"device": options.get("device"), "dtype": options.get("dtype")}
        kinds = [norm if letter in normalized else "none" for letter in "qkv"]
        create = partial(TokenNorm, num_heads, self.head_dim, affine=affine, eps=eps, **factory_options)
        self.q_norm = create(norm=kinds[0], gamma=start.gamma_q, beta=start.beta_q)
        self.k_norm = create(norm=kinds[1], gamma=1.0, beta=start.beta_k)
        self.v_norm = create(norm=kinds[2], gamma=1.0, beta=0.0)
        self.gain = importance or 1.0
        self.importance = None if importance is None else nn.Linear(dim, 1, **factory_options)
        self.init_projections()
        if not keeps_bias:
            self.register_load_state_dict_pre_hook(_drop_qkv_bias)

    def _literal_only(self, norm: str) -> str:
        """Return the option that only the literal order can express; empty if none."""
        if norm != "sequence":
            return f"norm={norm!r}"
        if self.num_left_out:
            return "class_token_in_statistics=False"
        return "" if isinstance(self.norm, nn.Identity) else "scale_norm=True"

    def init_projections(self) -> None:
        """Make all tokens equally important: w = 1."""
        if self.importance is not None:
            nn.init.zeros_(self.importance.weight)
            nn.init.constant_(self.importance.bias, math.log(math.expm1(1)) / self.gain)

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, grid: Grid | None = None
    ) -> Tensor:
        """Apply the attention in the chosen order; see :meth:`Attention.forward`."""
        order = self.order_for(x)
        if order == "literal":
            return super().forward(x, attn_mask, is_causal, grid)
        attn_mask = real_tokens(x, attn_mask, is_causal)
        x, full_precision = narrow_as_autocast(x)
        with full_precision:
            x, weights = self.weigh(x, attn_mask)
            y = (gram if order == "gram" else folded)(x, attn_mask, self.parameters_for_orders(), weights)
        return self.proj_drop(y)

    def weigh(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return tokens x (B, N, C) with zeros in padding and their importance, or as they are and None if it is equal.

        Padding may be NaN, which must not reach the gradient of u.
        """
        if mask is not None and self.importance is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        return x, self.token_weights(x, mask)

    def token_weights(self, x: Tensor, mask: Tensor | None) -> Tensor | None:
        """Compute the importance w of each token, (B, N), float32 or better; None if it is equal.

        Args:
            x: Tokens (B, N, C), finite in padding, too.
            mask: True for real tokens (B, N), or None for all; padding has w = 0.
        """
        if self.importance is None:
            return None
        x, full_precision = narrow_as_autocast(x)
        with full_precision:
            scores = F.linear(x, self.importance.weight.to(x.dtype)).squeeze(-1).to(wide_type(x))
            weights = F.softplus(self.gain * (scores + self.importance.bias)) + LEAST_IMPORTANCE
        return weights if mask is None else weights.masked_fill(~mask, 0)

    def mix_inputs(self, x: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Compute the weights for :meth:`mix`; see :meth:`Attention.mix_inputs`."""
        weights = self.token_weights(x, mask)
        return {} if weights is None else {"weights": weights[:, None, :, None]}

    def order_for(self, x: Tensor) -> str:
        """Return the order in which tokens ``x`` (B, N, C) would be evaluated."""
        if self.order == "literal" or (self.order == "auto" and not self.expressible):
            return "literal"
        if self.projections_are_plain():
            return choose_order(x) if self.order == "auto" else self.order
        if self.order == "auto":
            return "literal"
        raise UserError(
            f"Got order={self.order!r} with a projection that was replaced or has hooks: use order='auto' or 'literal'."
        )

    def parameters_for_orders(self) -> Parameters:
        """Gather the parameters for :mod:`softfree.attention.seqnorm.orders`."""
        norms = (self.q_norm, self.k_norm, self.v_norm)
        gamma, beta = zip(*(norm.scale_and_shift(self.qkv.weight) for norm in norms), strict=True)
        return Parameters(
            self.num_heads,
            self.qkv.weight,
            self.proj.weight,
            self.proj.bias,
            torch.cat(gamma),
            torch.cat(beta),
            self.eps,
            ("q" in self.normalized, "k" in self.normalized, "v" in self.normalized),
        )

    def mix(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        grid: Grid | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Mix by the second formula of the module, with ``1 / N`` split between K' and V' so that no half overflows.

        ``weights`` (B, 1, N, 1) are the importance of the tokens, 0 for padding.
        """
        weights = None if weights is None else relative(weights)
        counted = self.counted(q, mask) if weights is None else weights
        tokens: Tensor | int = q.shape[2]
        if weights is not None:
            tokens = total_weight(weights)  # (B, 1, 1, 1)
        elif mask is not None:
            tokens = mask.sum(dim=2, keepdim=True).clamp(min=1).to(wide_type(q))  # (B, 1, 1, 1)
        q = self.q_norm(q, mask, counted)
        k = self.k_norm(k, mask, counted, gain=tokens**-0.5 * (1 if weights is None else weights))
        v = self.v_norm(v, mask, counted, gain=tokens**-0.5)
        return q @ (k.transpose(-2, -1) @ v)

    def counted(self, q: Tensor, mask: Tensor | None) -> Tensor | None:
        """Return the tokens that enter mean and variance, (B, 1, N, 1); None for all."""
        if not self.num_left_out:
            return mask
        counted = torch.arange(q.shape[2], device=q.device).unsqueeze(1) >= self.num_left_out  # (N, 1)
        return counted.expand(q.shape[0], 1, -1, 1) if mask is None else mask & counted

    def why_not_streaming(self) -> str:
        """See :meth:`Attention.why_not_streaming`."""
        if self.num_left_out:
            return "leaves the class token out of its statistics"
        reason = super().why_not_streaming()
        if isinstance(self.norm, nn.Identity) and not self.expressible:
            return "does not normalize over the sequence"
        return reason

    @torch.no_grad()
    def weighted_rows(self, x: Tensor, weights: Tensor, mask: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """Use the weights of the normalized values, ``Q' K'^T / N``; see :meth:`Attention.weighted_rows`."""
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        if self.order_for(x) == "gram":
            return gram_rows(self, x, weights, mask)
        q, k, heads = self.queries_and_keys(x, mask)
        important = self.token_weights(x, mask)
        if important is None:
            counted = self.counted(q, heads)
            return dot_rows(self.q_norm(q, heads, counted), self.k_norm(k, heads, counted), weights, heads)
        counted = important[:, None, :, None]
        k = self.k_norm(k, heads, counted, gain=counted / total_weight(counted))
        row: Tensor = weights[:, None, None] @ self.q_norm(q, heads, counted) @ k.mT
        return row.squeeze(2)

    @contextmanager
    def tuned_for(self, tokens: int) -> Iterator[None]:
        """Use the order for that many tokens, if it may be chosen; see :meth:`Attention.tuned_for`."""
        original = self.order
        if original == "auto":
            width = self.num_heads * self.head_dim
            self.order = self.order_for(torch.empty(1, tokens, width, device="meta"))  # type: ignore[assignment]
        try:
            yield
        finally:
            self.order = original

    @classmethod
    def cost(cls, shape: Shape) -> AttentionCost:
        """Compute the cost for a shape; see :meth:`Attention.cost`."""
        return seqnorm_cost(shape, gram=shape.tokens >= GRAM_FROM * shape.width)


def _drop_qkv_bias(module: SeqNormAttention, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Drop the biases that the mean removes; others become shifts, unless the state dict has shifts."""
    bias = state_dict.pop(f"{prefix}qkv.bias", None)
    if bias is None:
        return
    for letter, letter_bias in zip("qkv", bias.chunk(3), strict=True):
        name = f"{prefix}{letter}_norm"
        if letter not in module.normalized and f"{name}.bias" not in state_dict:
            gamma = state_dict.get(f"{name}.weight", getattr(module, f"{letter}_norm").init[0])
            state_dict[f"{name}.bias"] = gamma * letter_bias


def choose_init(name: str, width: int) -> Init:
    """Look up an initialization for heads of ``width`` features.

    Raises:
        UserError: An unknown name.
    """
    if name not in INITS:
        raise unknown_name("init of SeqNormAttention:", name, INITS)
    return INITS[name](width)


def choose_order(x: Tensor) -> str:
    """Choose "folded" or "gram" for tokens (B, N, C)."""
    # An exported graph is for any number of tokens, and meant for long sequences.
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return "gram"
    return "gram" if x.shape[1] >= GRAM_FROM * x.shape[2] else "folded"
