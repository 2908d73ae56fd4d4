"""The cost of a model before and after its blocks: the tokenizer, and norm, pooling and head."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from softfree.attention.cost import Shape


@dataclass(frozen=True)
class StemCost:
    """The tokenizer.

    Attributes:
        parameters: Its parameters.
        kept: Numbers kept for backward besides the images themselves, for one image.
        forward: Numbers alive at once in a forward pass besides the images and those kept, for one image.
        backward: The same in a backward pass.
    """

    parameters: int
    kept: int
    forward: int
    backward: int


def stem_cost(stem: str, patch: int, channels: int, width: int, side: int, narrow: int = 4) -> StemCost:
    """Derive the cost of a tokenizer for an image whose ``side`` is a multiple of ``patch``.

    ``narrow`` is the number of bytes per number that is kept. Besides the maps of each convolution, convolutions on a
    CPU hold copies with channels in groups of 16; how many at once was measured.
    """
    tokens = (side // patch) ** 2
    if stem == "patch":
        weights = channels * patch**2 * width
        return StemCost(weights + width, 0, tokens * width, channels * side**2 + 2 * tokens * width)
    steps = patch.bit_length() - 1
    widths = [channels, *(max(8, width >> step) for step in reversed(range(1, steps))), width]
    parameters = kept = 0
    indices = 8 // narrow
    for level, (inner, outer) in enumerate(pairwise(widths), start=1):
        pooled = stem == "pool" and level > 1  # the convolution keeps the size, the maximum halves it
        pixels = (side >> (level - pooled)) ** 2
        parameters += 9 * inner * outer + outer
        last = level == steps
        if pooled:  # before the maximum; of a quarter the indices, 8 bytes each, and the values before and after GELU
            kept += outer * pixels + (indices + (0 if last else 2)) * outer * pixels // 4
        elif not last:
            kept += 2 * outer * pixels  # before and after GELU
    first = widths[1] * (side // 2) ** 2
    grouped = -(-widths[1] // 16) * 16 * (side // 2) ** 2
    forward = max(0, 3 * first // 2 + grouped - kept) if steps > 1 else 0
    backward = max(0, 16 * side**2 + (44 * first + 25 * grouped) // 10 - kept)
    return StemCost(parameters, kept, forward, backward)


@dataclass(frozen=True)
class HeadCost:
    """The end of a model.

    Attributes:
        parameters: Number of parameters, including the norm's.
        kept: Bytes kept for backward.
    """

    parameters: int
    kept: int


def head_cost(pool: str, classes: int, s: Shape) -> HeadCost:
    """Derive the cost of a head; ``pool`` is a name of :data:`~softfree.models.pooling.POOLINGS`.

    Only the average is normalized after pooling: all other poolings keep the tokens before their norm, and nothing of
    their result. In inference no pooling needs more memory at its peak than an MLP.
    """
    norm, last = 2 * s.width, s.width * classes
    if pool == "avg":
        return HeadCost(norm + last + classes, 0)
    statistics = 2 * s.batch * s.tokens * s.stream
    if pool == "token":
        return HeadCost(norm + last + classes + 2 * s.width, s.bnc * s.stream + statistics)
    return HeadCost(norm + last + classes, s.bnc * s.stream + statistics)
