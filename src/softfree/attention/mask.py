"""Real tokens, from a mask in any format that vision transformers pass to an attention."""

from __future__ import annotations

import torch
from torch import Tensor

from softfree_runtime.core.errors import UserError

FORMS = (
    "expected a boolean (B, N), True for real tokens, or a mask of keys (B, 1, 1, N) or (B, 1, N, N), boolean or "
    "additive (0 or minus infinity)"
)


def real_tokens(x: Tensor, attn_mask: Tensor | None, is_causal: bool = False) -> Tensor | None:
    """Return the real tokens, boolean (B, N), or None for all.

    Masks with four axes are those of torch's fused kernel and of timm (``NaFlexVit`` creates them): True, or an added
    0, where a query may attend to a key; False, or an added minus infinity (or the type's smallest number), where not.
    Without weights between tokens, an attention can only mask keys for all queries together. Each real token must
    therefore attend to all real ones; the rows of padded queries are ignored.

    Args:
        x: Tokens (B, N, C).
        attn_mask: Boolean (B, N), or boolean or floating (B or 1, 1, 1 or N, N); None when all are real.
        is_causal: timm's keyword; must be False.

    Raises:
        UserError: A mask of another shape or type, one that is not a mask of keys, or a causal one.
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
    agrees = (allowed == real.unsqueeze(1)) | ~real.unsqueeze(2)
    _require(agrees.all(), "Got an attn_mask whose queries attend to different keys (as a causal or window mask)")
    return real


def _allowed(mask: Tensor) -> Tensor:
    """Convert an additive mask to boolean."""
    if mask.dtype == torch.bool:
        return mask
    allowed = mask == 0
    # Half the smallest number, so that the sum of two such masks does not overflow.
    _require(
        (allowed | (mask <= torch.finfo(mask.dtype).min / 2)).all(),
        "Got an attn_mask with numbers other than 0 and minus infinity, a bias on the scores",
    )
    return allowed


def _require(condition: Tensor, problem: str) -> None:
    """Refuse the mask unless the condition, a single boolean, holds; a compiled graph checks when it runs."""
    message = f"{problem}: softfree's attentions have no scores between tokens; {FORMS}."
    if torch.compiler.is_compiling():
        torch._assert_async(condition, message)
    elif not torch._C._are_functorch_transforms_active() and not condition:
        raise UserError(message)
