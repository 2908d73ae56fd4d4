"""Closed forms of what each layer of a vision transformer costs: parameters, products, bytes kept for backward.

Every number follows from the shapes: B pictures, N tokens, width C, H heads, D = C / H. One entry in :data:`ATTENTIONS`
describes an attention method; a method without one is refused with a message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from softfree.attention.seqnorm.rule import GRAM_FROM
from softfree.errors import UserError


@dataclass(frozen=True)
class Shape:
    """What formulas are made of.

    Attributes:
        batch: B.
        tokens: N.
        width: C.
        heads: H.
        narrow: Bytes of a number that a product reads or writes.
        stream: Bytes of a number of the residual stream.
        autocast: Whether weights are cast for each product.
    """

    batch: int
    tokens: int
    width: int
    heads: int
    narrow: int
    stream: int
    autocast: bool

    @property
    def sheet(self) -> int:
        """Numbers in B N C, the unit that most tensors are a multiple of."""
        return self.batch * self.tokens * self.width

    @property
    def square(self) -> int:
        """Numbers in a C x C matrix."""
        return self.width**2

    @property
    def strip(self) -> int:
        """Numbers in H matrices of D x D."""
        return self.width * self.width // self.heads


@dataclass(frozen=True)
class AttentionCost:
    """One attention method, each as a function of the shape.

    Attributes:
        parameters: Parameters of an attention module.
        products: Multiply-adds for one picture.
        sheets: Tensors of B N C numbers that are kept for backward, the layer's input among them.
        details: Bytes kept beside them: statistics, small matrices, casts of weights.
        inference: Tensors of B N C numbers at once in inference, the layer's input among them.
    """

    parameters: Callable[[Shape], int]
    products: Callable[[Shape], int]
    sheets: Callable[[Shape], int]
    details: Callable[[Shape], int]
    inference: Callable[[Shape], int]


def is_gram(s: Shape) -> bool:
    """Whether SeqNorm takes the Gram order; the rule is that of ``choose_order``."""
    return s.tokens >= GRAM_FROM * s.width


def heads_copied(s: Shape) -> int:
    """Copies of K and V: the heads of several pictures are no plain stack of matrices, those of one picture are."""
    return 2 if s.batch > 1 else 0


def _seqnorm_products(s: Shape) -> int:
    n, c, square, strip = s.tokens, s.width, s.square, s.strip
    if is_gram(s):
        # S and its shift, W S, Cov(K, V), beta_q M, M Wo and its constant, W_q^T R, the shift of c, X A
        project = square * (s.width // s.heads) + square
        return n * square + square + 3 * c**3 + c * strip + strip + project + c**3 + square + n * square
    return 3 * n * square + n * strip + strip + n * strip + n * square  # Q K V, K^T V, beta_q M, Q M, Wo


def _widened(s: Shape) -> int:
    """Numbers of the output projection, copied in float32 for the products of statistics."""
    return s.square if s.stream < 4 and s.batch == 1 else 0


def _seqnorm_details(s: Shape) -> int:
    vectors = 16 * s.batch * s.width  # statistics and scales of the features
    if is_gram(s):
        small = vectors + s.batch * ((7 if s.batch == 1 else 10) * s.square + 3 * s.strip)
        widened = 3 * s.square if s.stream < 4 else 0  # the projection to Q, K and V
        return 4 * (small + widened + _widened(s))
    return 4 * (vectors + s.batch * 3 * s.strip) + s.narrow * s.batch * s.strip + _cast(s, 4)


def _sima_details(s: Shape) -> int:
    vectors = 5 * s.batch * s.width  # norms of the features
    small = vectors + s.batch * ((0 if s.batch == 1 else 1) * s.square + 2 * s.strip)
    return 4 * (small + _widened(s)) + s.narrow * s.batch * s.square + _cast(s, 3)


def _cast(s: Shape, squares: int) -> int:
    """Bytes of C x C weights that autocast has cast."""
    return 2 * squares * s.square if s.autocast else 0


def _softmax_details(s: Shape) -> int:
    return 4 * s.batch * s.heads * s.tokens + _cast(s, 4)  # log-sum-exp of each row


ATTENTIONS: dict[str, AttentionCost] = {
    "seqnorm": AttentionCost(
        parameters=lambda s: 4 * s.square + 7 * s.width,  # no bias on Q, K, V; gamma and beta of each
        products=_seqnorm_products,
        sheets=lambda s: 1 if is_gram(s) else 5 + (3 if s.batch > 1 else 0),  # in a batch Q, too, is copied
        details=_seqnorm_details,
        inference=lambda s: 2 if is_gram(s) else 6 + heads_copied(s),
    ),
    "sima": AttentionCost(
        parameters=lambda s: 4 * s.square + 4 * s.width,
        products=lambda s: 3 * s.tokens * s.square + s.tokens * s.strip + s.strip * s.width + s.tokens * s.square,
        sheets=lambda s: 4 + heads_copied(s),
        details=_sima_details,
        inference=lambda s: 5 + heads_copied(s),
    ),
    "softmax": AttentionCost(
        parameters=lambda s: 4 * s.square + 4 * s.width,
        products=lambda s: 4 * s.tokens * s.square + 2 * s.tokens**2 * s.width,
        sheets=lambda s: 5,
        details=_softmax_details,
        inference=lambda s: 6,
    ),
}


def attention_cost(name: str) -> AttentionCost:
    """Look up the formulas of an attention method.

    Raises:
        UserError: a method that has none.
    """
    if name not in ATTENTIONS:
        raise UserError(
            f"Got attention {name!r}, which has no formula for its memory: expected one of {', '.join(ATTENTIONS)}."
        )
    return ATTENTIONS[name]


@dataclass(frozen=True)
class StemCost:
    """The tokenizer.

    Attributes:
        parameters: Its parameters.
        products: Multiply-adds for one picture.
        kept: Numbers kept for backward beside the pictures themselves, for one picture.
        forward: Numbers at once in a forward pass beside the pictures and what is kept, for one picture.
        backward: The same in a backward pass.
        largest: Numbers of its largest tensor.
    """

    parameters: int
    products: int
    kept: int
    forward: int
    backward: int
    largest: int


def stem_cost(stem: str, patch: int, channels: int, width: int, side: int) -> StemCost:
    """Derive the cost of a tokenizer for a picture whose ``side`` is a multiple of ``patch``.

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
    for level, (inner, outer) in enumerate(pairwise(widths), start=1):
        pixels = (side >> level) ** 2
        parameters += 9 * inner * outer + outer
        products += 9 * inner * outer * pixels
        kept += 2 * outer * pixels if level < steps else 0  # before and after GELU
    first = widths[1] * (side // 2) ** 2
    grouped = -(-widths[1] // 16) * 16 * (side // 2) ** 2
    forward = max(0, 3 * first // 2 + grouped - kept) if steps > 1 else 0
    backward = max(0, 16 * side**2 + (44 * first + 25 * grouped) // 10 - kept)
    return StemCost(parameters, products, kept, forward, backward, max(first, channels * side**2))
