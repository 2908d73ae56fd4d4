"""The cost of a tokenizer for images, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class StemCost:
    """The tokenizer.

    Attributes:
        parameters: Its parameters.
        products: Multiply-adds for one image.
        kept: Numbers kept for backward beside the images themselves, for one image.
        forward: Numbers at once in a forward pass beside the images and what is kept, for one image.
        backward: The same in a backward pass.
        largest: Numbers of its largest tensor.
    """

    parameters: int
    products: int
    kept: int
    forward: int
    backward: int
    largest: int


def stem_cost(stem: str, patch: int, channels: int, width: int, side: int, narrow: int = 4) -> StemCost:
    """Derive the cost of a tokenizer for an image whose ``side`` is a multiple of ``patch``.

    ``narrow`` is the number of bytes of a number that is kept.

    Beside the maps of each convolution, the CPU's convolutions hold copies with channels in groups of 16; how many at
    once was measured.
    """
    tokens = (side // patch) ** 2
    if stem == "patch":
        weights = channels * patch**2 * width
        pixels = channels * side**2
        return StemCost(weights + width, tokens * weights, 0, tokens * width, pixels + 2 * tokens * width, pixels)
    steps = patch.bit_length() - 1
    widths = [channels, *(max(8, width >> step) for step in reversed(range(1, steps))), width]
    parameters = products = kept = 0
    places = 8 // narrow
    for level, (inner, outer) in enumerate(pairwise(widths), start=1):
        pooled = stem == "pool" and level > 1  # the convolution keeps the size, the maximum halves it
        pixels = (side >> (level - pooled)) ** 2
        parameters += 9 * inner * outer + outer
        products += 9 * inner * outer * pixels
        kept += 2 * outer * pixels if level < steps else pooled * outer * pixels  # before and after GELU
        if pooled:  # places of the maxima, 8 bytes each, and what the next convolution takes
            kept += (places + (level < steps)) * outer * pixels // 4
    first = widths[1] * (side // 2) ** 2
    grouped = -(-widths[1] // 16) * 16 * (side // 2) ** 2
    forward = max(0, 3 * first // 2 + grouped - kept) if steps > 1 else 0
    backward = max(0, 16 * side**2 + (44 * first + 25 * grouped) // 10 - kept)
    return StemCost(parameters, products, kept, forward, backward, max(first, channels * side**2))
