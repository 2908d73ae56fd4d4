"""The base class of attention methods: timm's projections, heads, padding, and hooks for the rest of the project."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from softfree.attention.mask import real_tokens
from softfree_runtime.core.errors import UserError, unknown_name

if TYPE_CHECKING:
    from softfree.attention.cost import AttentionCost, Shape
    from softfree.attention.streaming import StreamingAttention

Grid = tuple[int, ...]
Parameters = dict[str, Tensor]

# Elements per chunk of a large tensor on a CPU: 3 MB of bfloat16, where products run at full speed and the chunk is
# still in the cache afterwards.
PART = 3 * 2**19


class Attention(nn.Module, ABC):
    """Multi-head self-attention without its token mixer: a method implements :meth:`mix`.

    That is enough for training, prediction, export, plans and gradient-based saliency maps. Class attributes and other
    methods declare further capabilities; each has a default, and a missing one is refused by name.

    The parameters have timm's names (``qkv``, ``proj``, and ``norm`` with ``scale_norm``), and every keyword that timm
    passes to an ``attn_layer`` is accepted, so that a method can be used in any of timm's vision transformers.

    Args:
        dim: Width C of the tokens.
        num_heads: Number of heads H; C must be a multiple of H.
        qkv_bias: Add a bias to the projection to Q, K and V.
        qk_norm: Normalize Q and K. Methods that always normalize them accept and ignore it.
        scale_norm: Normalize the result over its C features before the output projection.
        proj_bias: Add a bias to the output projection.
        attn_drop: Dropout on the attention weights; only for methods that compute them.
        proj_drop: Dropout after the output projection.
        norm_layer: Layer for ``qk_norm`` and ``scale_norm``; default ``torch.nn.LayerNorm``.
        device: Device of the parameters.
        dtype: Type of the parameters.
        **unused: Keywords of other timm releases: ``depth`` is ignored, others must be unset.

    Attributes:
        shared_keys: One projection for Q and K: ``qkv`` has 2C rows, and loads those of Q and V from a state dict with
            3C.
        linear_in_values: The result is ``o_i = sum_j w_ij v_j`` with w independent of v, so that attention weights
            follow by differentiation.
        streaming: The streaming form, for samples whose tokens do not fit in memory or on one machine.
        fixed_size: Exported graphs are for one number of tokens, since the exporter cannot handle a symbolic one.
        functional_projections: The projections are applied as functions of their weights, not as modules; exported
            products of tokens and weights count as linear layers, also in int8 and float16.

    Raises:
        UserError: An option that this method cannot honor.
    """

    shared_keys: ClassVar[bool] = False
    linear_in_values: ClassVar[bool] = False
    streaming: ClassVar[type[StreamingAttention] | None] = None
    fixed_size: ClassVar[bool] = False
    functional_projections: ClassVar[bool] = False

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        scale_norm: bool = False,
        proj_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Callable[..., nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise UserError(f"Got width {dim} for {num_heads} heads: expected a multiple of the number of heads.")
        if attn_drop:
            raise UserError(
                f"{type(self).__name__} got attn_drop={attn_drop}, but has no attention weights to drop: use proj_drop."
            )
        self._refuse(unused)
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.qkv = nn.Linear(dim, (2 if self.shared_keys else 3) * dim, bias=qkv_bias, device=device, dtype=dtype)
        norm_layer = norm_layer or nn.LayerNorm
        self.norm = norm_layer(dim, device=device, dtype=dtype) if scale_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=proj_bias, device=device, dtype=dtype)
        if self.shared_keys:
            self.register_load_state_dict_pre_hook(_drop_keys)
        self.proj_drop = nn.Dropout(proj_drop)

    def _refuse(self, unused: dict[str, Any]) -> None:
        for name, value in unused.items():
            if name != "depth" and value is not None and value is not False:
                raise unknown_name(f"option of {type(self).__name__}:", name, option_names(type(self)))

    @abstractmethod
    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: Grid | None = None) -> Tensor:
        """Mix the tokens: the core of a method.

        Args:
            q: Queries (B, H, N, D); like ``k`` and ``v``, a strided view of the projection.
            k: Keys (B, H, N, D); with ``shared_keys`` these are ``q`` itself.
            v: Values (B, H, N, D).
            mask: True for real tokens (B, 1, N, 1), or None when all are real. The input of padded tokens is
                zero, so their q, k and v are the bias of the projection.
            grid: Sides of the grid of the last tokens, or None for a plain sequence.

        Returns:
            (B, H, N, D); rows of padded tokens may be any finite numbers.
        """

    def forward(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, grid: Grid | None = None
    ) -> Tensor:
        """Apply the attention.

        Args:
            x: Tokens (B, N, C).
            attn_mask: Boolean (B, N), True for real tokens; None when all are real. Also masks in the format of
                timm's models and torch's fused kernel, if they only mask keys: see :func:`real_tokens`.
            is_causal: timm's keyword; must be False.
            grid: Rows and columns (preceded by slices) of the last tokens; tokens before these, such as a class token,
                have no position. Only methods with landmarks use it; without it, they treat the tokens as a sequence.

        Returns:
            (B, N, C); rows of padded tokens are meaningless.

        Raises:
            UserError: A mask of another shape or type, a causal mask, or more positions on the grid than tokens.
        """
        attn_mask = real_tokens(x, attn_mask, is_causal)
        check_grid(x, grid)
        mask = None
        if attn_mask is not None:
            # Padding, which may even be NaN, must not reach the sums over tokens.
            x = x.masked_fill(~attn_mask.unsqueeze(-1), 0)
            mask = attn_mask[:, None, :, None]  # (B, 1, N, 1)
        q, *k, v = (self.split_heads(t) for t in self.qkv(x).split(x.shape[-1], dim=-1))  # (B, H, N, D)
        mixed = self.mix(q, k[0] if k else q, v, mask, grid, **self.mix_inputs(x, attn_mask))  # (B, H, N, D)
        return self.proj_drop(self.proj(self.norm(mixed.transpose(1, 2).flatten(2))))

    def mix_inputs(self, x: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """Compute further arguments of a method's :meth:`mix` from the tokens x (B, N, C) and their mask (B, N)."""
        return {}

    def split_heads(self, t: Tensor) -> Tensor:
        """Reshape (..., N, C) to (..., H, N, D), without a copy."""
        return t.unflatten(-1, (self.num_heads, self.head_dim)).transpose(-3, -2)

    def init_projections(self) -> None:
        """Initialize projections in the method's own way; models call it after initializing all linear layers."""

    @classmethod
    def cost(cls, shape: Shape) -> AttentionCost | None:
        """Compute the cost for a shape, with default options; None to have it traced."""
        return None

    def reference_mix(self, q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
        """Evaluate the plain formula on (B, H, N, D) without padding or grid; tests compare :meth:`mix` with it.

        Args:
            q: Queries.
            k: Keys.
            v: Values.
            parameters: Parameters and buffers of this module by name, which the formula uses instead of its own.
        """
        raise NotImplementedError(f"{type(self).__name__} has no reference formula")

    def why_not_streaming(self) -> str:
        """Explain why this module cannot stream; empty if it can."""
        if self.streaming is None:
            return "has no streaming form"
        if not isinstance(self.norm, nn.Identity):
            return "normalizes its result (scale_norm=True)"
        return "" if self.projections_are_plain() else "has a projection that was replaced or has hooks"

    def weighted_rows(self, x: Tensor, weights: Tensor, mask: Tensor | None = None, grid: Grid | None = None) -> Tensor:
        """Compute ``u^T W`` for the attention weights W (N x N) of each head, which are never materialized.

        Args:
            x: Input of the module (B, N, C), in evaluation mode.
            weights: u, (B, N), float32 or better; 0 for padded tokens.
            mask: True for real tokens (B, N), or None for all.
            grid: See :meth:`forward`.

        Returns:
            (B, H, N), float32 or better; 0 for padded tokens.

        Raises:
            UserError: The method has no attention weights.
        """
        if not self.linear_in_values:
            raise UserError(
                f"{type(self).__name__} has no attention weights: set linear_in_values or implement weighted_rows, or "
                "use a saliency method that needs none, such as gradient"
            )
        with torch.no_grad():
            q, k, heads = self.queries_and_keys(x, mask)
        with torch.enable_grad():
            values = torch.zeros_like(q, requires_grad=True)
            out = (self.mix(q, k, values, heads, grid)[..., 0] * weights.unsqueeze(1)).sum()
        (rows,) = torch.autograd.grad(out, values)
        rows = rows[..., 0].detach()
        return rows if mask is None else rows.masked_fill(~mask.unsqueeze(1), 0)

    def queries_and_keys(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Project tokens (B, N, C) to Q and K (B, H, N, D), float32 or better; also return the mask (B, 1, N, 1)."""
        heads = None if mask is None else mask[:, None, :, None]
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)
        projections = self.qkv(x).to(wide_type(x)).split(x.shape[-1], dim=-1)
        q, *k, _ = (self.split_heads(t) for t in projections)
        return q, k[0] if k else q, heads

    def tuned_for(self, tokens: int) -> AbstractContextManager[None]:
        """Choose the fastest implementation for a number of tokens, whatever the length of an exporter's example."""
        return nullcontext()

    def begin_batch(self, first_of_step: bool) -> None:
        """Prepare for a training batch; several may share one optimizer step."""

    def projections_are_plain(self) -> bool:
        """Whether only two matrices surround the mixing, so that a method may fold them into it.

        It may not if the result is normalized, if an adapter has replaced a projection, or if a projection has hooks
        (pruning computes its weight in one).
        """
        projections = (self.qkv, self.proj)
        plain = all(type(layer) is nn.Linear for layer in projections)
        hooked = any(layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks for layer in projections)
        return plain and not hooked and isinstance(self.norm, nn.Identity)


def _drop_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    width = module.num_heads * module.head_dim  # type: ignore[operator]
    for name in (f"{prefix}qkv.weight", f"{prefix}qkv.bias"):
        if name in state_dict and len(state_dict[name]) == 3 * width:
            state_dict[name] = torch.cat([state_dict[name][:width], state_dict[name][2 * width :]])


def check_grid(x: Tensor, grid: Grid | None) -> None:
    """Refuse a grid with more positions than x (B, N, C) has tokens."""
    if grid is not None and math.prod(grid) > x.shape[1]:
        raise UserError(
            f"Got a grid of {' x '.join(map(str, grid))} for {x.shape[1]} tokens: expected one position per token."
        )


def transformed() -> bool:
    """Whether torch.func (vmap, grad, jacrev, ...) or forward differentiation is active.

    They support plain operations only: neither autograd functions without rules for them nor decisions that depend on
    values.
    """
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def plain_only() -> bool:
    """Whether only plain operations work: a graph is being compiled, or :func:`transformed`."""
    return torch.compiler.is_compiling() or transformed()


def narrow_as_autocast(x: Tensor) -> tuple[Tensor, AbstractContextManager[Any]]:
    """Cast ``x`` as autocast would before a product; the returned context prevents further casts."""
    device = x.device.type
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return x, nullcontext()
    return x.to(torch.get_autocast_dtype(device)), torch.autocast(device, enabled=False)


def widen(*tensors: Tensor) -> tuple[list[Tensor], AbstractContextManager[Any]]:
    """Cast to float32, or keep float64; the returned context keeps autocast from narrowing them again.

    If autocast is off, the context does nothing, so that exported graphs stay free of it.
    """
    device = tensors[0].device.type
    narrowing = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    exact = torch.autocast(device, enabled=False) if narrowing else nullcontext()
    return [t.to(wide_type(t)) for t in tensors], exact


def wide_type(x: Tensor) -> torch.dtype:
    """Return the type for statistics: float32, or float64 if ``x`` has it."""
    return torch.promote_types(x.dtype, torch.float32)


def mean_product(k: Tensor, v: Tensor, number: Tensor | float) -> Tensor:
    """Return ``K^T V / number`` for (B, H, N, D) in float32 or better, (B, H, D, D).

    In float16 both factors are divided before the sum, which would overflow.
    """
    wide = wide_type(k)
    if k.dtype == torch.float16:
        k, v = ((t * number**-0.5).to(t.dtype) for t in (k, v))
        return (k.mT @ v).to(wide)
    return (k.mT @ v).to(wide) / number


def option_names(method: type[nn.Module]) -> set[str]:
    """Return all keywords of the constructors of a method and its bases."""
    signatures = (inspect.signature(cls.__init__) for cls in method.__mro__ if issubclass(cls, Attention))
    names = {p.name for s in signatures for p in s.parameters.values() if p.kind is not p.VAR_KEYWORD}
    return names - {"self"}


def dot_rows(q: Tensor, k: Tensor, weights: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``u^T W`` for ``W = Q K^T / N``, (B, H, N), from Q and K (B, H, N, D), u (B, N) and mask (B, 1, N, 1)."""
    if mask is not None:
        k = k.masked_fill(~mask, 0)
    tokens = q.shape[2] if mask is None else mask.sum(dim=2, keepdim=True).clamp(min=1)
    row: Tensor = weights[:, None, None] @ q @ k.mT / tokens  # (B, H, 1, N)
    return row.squeeze(2)
