"""Which tokens are real, from a mask in any of the forms that vision transformers hand to an attention."""

from __future__ import annotations

import torch
from torch import Tensor

from softfree_runtime.core.errors import UserError

FORMS = (
    "expected a boolean (B, N), True for real tokens, or a mask of keys (B, 1, 1, N) or (B, 1, N, N), boolean or "
    "additive (0 or minus infinity)"
)


def real_tokens(x: Tensor, attn_mask: Tensor | None, is_causal: bool = False) -> Tensor | None:
    """Find the real tokens, boolean (B, N), or None for all.

    Masks of four axes are those of torch's fused kernel and of timm (``NaFlexVit`` makes them): True, or an added 0,
    where a query may look at a key; False, or an added minus infinity (or the smallest number of the type), where not.
    Without weights between tokens an attention can only leave keys out for all queries alike. So each real token must
    look at all real ones; what padded ones look at is of no meaning.

    Args:
        x: Tokens (B, N, C).
        attn_mask: Boolean (B, N), or boolean or floating (B or 1, 1, 1 or N, N); None when all are real.
        is_causal: timm's keyword; only False is possible.

    Raises:
        UserError: a mask of another shape or type, one that is no mask of keys, or a causal one.
    """
    if is_causal:
        raise UserError("Got is_causal=True: tokens of an image have no order; mark padding with attn_mask instead.")
    if attn_mask is None or (attn_mask.dtype == torch.bool and attn_mask.shape == x.shape[:2]):
        return attn_mask
    batch, tokens = x.shape[:2]
    shape = attn_mask.shape
    fits = len(shape) == 4 and shape[0] in (1, batch) and shape[1] == 1 and shape[2] in (1, tokens)
    if not fits or shape[3] != tokens or not (attn_mask.dtype == torch.bool or attn_mask.is_floating_point()):
        raise UserError(f"Got attn_mask {tuple(shape)} of {attn_mask.dtype} for tokens {tuple(x.shape)}: {FORMS}.")
    allowed = _allowed(attn_mask)[:, 0].expand(batch, -1, -1)  # (B, 1 or N, N)
    real = allowed.any(1)
    if shape[2] == 1:
        return real
    alike = (allowed == real.unsqueeze(1)) | ~real.unsqueeze(2)
    _require(alike.all(), "Got an attn_mask whose queries look at different keys (as a causal mask, or one of windows)")
    return real


def _allowed(mask: Tensor) -> Tensor:
    """Make an additive mask boolean."""
    if mask.dtype == torch.bool:
        return mask
    allowed = mask == 0
    # A half of the smallest number: whoever adds two such masks must not overflow.
    _require(
        (allowed | (mask <= torch.finfo(mask.dtype).min / 2)).all(),
        "Got an attn_mask with numbers other than 0 and minus infinity, a bias on the scores",
    )
    return allowed


def _require(condition: Tensor, problem: str) -> None:
    """Refuse the mask unless the condition, one boolean, holds; in a graph this is found when it runs."""
    message = f"{problem}: softfree's attentions have no scores between tokens; {FORMS}."
    if torch.compiler.is_compiling():
        torch._assert_async(condition, message)
    elif not torch._C._are_functorch_transforms_active() and not condition:
        raise UserError(message)
