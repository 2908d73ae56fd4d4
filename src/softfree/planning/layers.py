"""Closed forms of what each layer of a vision transformer costs: parameters, products, bytes kept for backward.

Every number follows from the shapes: B pictures, N tokens, width C, H heads, D = C / H. One entry in :data:`ATTENTIONS`
describes an attention method; a method without one is refused with a message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isqrt, prod

from softfree.attention import linformer, nystromformer, soft
from softfree.attention.grid import landmark_sides
from softfree.attention.performer import default_features
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


def _wide(s: Shape, sheets: int) -> int:
    """Bytes of tensors that are kept in float32 because the method computes in it; in float32 they are no others."""
    return 4 * sheets * s.sheet if s.narrow < 4 else 0


def _features(s: Shape) -> int:
    """Performer's features of the queries of one picture: H N M."""
    return s.heads * s.tokens * default_features(s.width // s.heads)


def _performer_details(s: Shape) -> int:
    features = default_features(s.width // s.heads)
    sums = s.batch * features * (s.width + s.heads) + 2 * features * s.width // s.heads
    return 4 * (2 * s.batch * _features(s) + sums) + 5 * s.batch * s.heads * s.tokens + _wide(s, 4) + _cast(s, 4)


def _performer_inference(s: Shape) -> int:
    # Features of the queries, and three stages of those of the keys; Q, K and V in float32.
    wide = 4 * -(-_features(s) // (s.tokens * s.width)) + (3 if s.narrow < 4 else 0)
    return 4 + wide * 4 // s.narrow


def _linformer_products(s: Shape) -> int:
    side, (rows, columns) = isqrt(s.tokens), linformer.REFERENCE
    maps = linformer.LANDMARKS * (rows * columns * side + columns * side * side)
    return 4 * s.tokens * s.square + 4 * linformer.LANDMARKS * s.tokens * s.width + 2 * maps


def _linformer_details(s: Shape) -> int:
    resized = 2 * linformer.LANDMARKS * s.tokens + 2 * sum(linformer.REFERENCE) * isqrt(s.tokens)
    compressed = 2 * s.batch * linformer.LANDMARKS * s.width
    return 4 * (resized + compressed) + _wide(s, 4) + _softmax_details(s)


def _windows(s: Shape, landmarks: int = nystromformer.LANDMARKS) -> tuple[int, ...]:
    """Windows along each side of a square grid."""
    return landmark_sides((isqrt(s.tokens),) * 2, landmarks)


def _nystromformer_products(s: Shape) -> int:
    side, windows = isqrt(s.tokens), _windows(s)
    m = prod(windows)
    means = 2 * s.width * (side * side * windows[0] + side * m)
    inverse = 4 * nystromformer.ITERATIONS * s.heads * m**3
    return 4 * s.tokens * s.square + means + 4 * m * s.tokens * s.width + inverse + 2 * m * m * s.width


def _nystromformer_details(s: Shape) -> int:
    m = prod(_windows(s))
    matrices = (5 * nystromformer.ITERATIONS + 2) * s.heads * m * m
    means = 5 * m * s.width + 3 * m * s.heads
    return 4 * s.batch * (matrices + means) + _wide(s, 4) + _softmax_details(s)


def _soft_products(s: Shape) -> int:
    side, windows = isqrt(s.tokens), _windows(s, soft.LANDMARKS)
    m = prod(windows)
    means = s.width * (side * side * windows[0] + side * m)
    inverse = (2 * soft.ITERATIONS + 2) * s.heads * m**3  # and the residual
    return 3 * s.tokens * s.square + means + 3 * m * s.tokens * s.width + inverse + 2 * m * m * s.width


def _soft_details(s: Shape) -> int:
    m = prod(_windows(s, soft.LANDMARKS))
    kernels = s.heads * m * s.tokens + 4 * s.heads * m * m + 5 * m * s.width
    return 4 * s.batch * kernels + _wide(s, 2) + _cast(s, 3)


def _soft_norm_details(s: Shape) -> int:
    m = prod(_windows(s, soft.LANDMARKS))
    return _soft_details(s) + 4 * s.batch * (2 * m * s.width + 2 * m * s.heads)


def _soft_sheets(s: Shape) -> int:
    """Input, result, and in float32 the centred queries and V or, of one picture, the projection it is part of."""
    return 2 if s.narrow < 4 else 4 if s.batch > 1 else 5


def _soft_inference(s: Shape) -> int:
    kernels = -(-s.heads * prod(_windows(s, soft.LANDMARKS)) // s.width)
    return 4 + (4 + kernels) * 4 // s.narrow


def _galerkin_sheets(s: Shape) -> int:
    """Input, result, K and V normalised and scaled, and Q or, of one picture, all of the projection it is part of."""
    if s.narrow < 4:
        return 5 if s.batch > 1 else 7
    return 10 if s.batch > 1 else 9  # LayerNorm keeps K and V, and so the projection


def _galerkin_details(s: Shape) -> int:
    return 16 * s.batch * s.heads * s.tokens + s.narrow * s.batch * s.strip + _wide(s, 4) + _cast(s, 4)


SOFT = AttentionCost(
    parameters=lambda s: 3 * s.square + 3 * s.width,
    products=_soft_products,
    sheets=_soft_sheets,
    details=_soft_details,
    inference=_soft_inference,
)

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
    "soft": SOFT,
    "soft_norm": replace(SOFT, details=_soft_norm_details),
    "performer": AttentionCost(
        parameters=lambda s: 4 * s.square + 4 * s.width,
        products=lambda s: 4 * s.tokens * s.square + 4 * _features(s) * (s.width // s.heads) + _features(s),
        sheets=lambda s: 2 if s.narrow < 4 else 7 if s.batch > 1 else 6,
        details=_performer_details,
        inference=_performer_inference,
    ),
    "linformer": AttentionCost(
        parameters=lambda s: 4 * s.square + 4 * s.width + 2 * linformer.LANDMARKS * prod(linformer.REFERENCE),
        products=_linformer_products,
        sheets=lambda s: 2 if s.narrow < 4 else 5 + heads_copied(s),
        details=_linformer_details,
        inference=lambda s: 12 if s.narrow < 4 else 6 + heads_copied(s),  # Q, K, V and the result in float32, too
    ),
    "nystromformer": AttentionCost(
        parameters=lambda s: 4 * s.square + 4 * s.width,
        products=_nystromformer_products,
        sheets=lambda s: 2 if s.narrow < 4 else 5,
        details=_nystromformer_details,
        inference=lambda s: 12 if s.narrow < 4 else 6,
    ),
    "galerkin": AttentionCost(
        parameters=lambda s: 4 * s.square + 8 * s.width,
        products=lambda s: 4 * s.tokens * s.square + 2 * s.tokens * s.strip,
        sheets=_galerkin_sheets,
        details=_galerkin_details,
        inference=lambda s: 11 if s.narrow < 4 else 8,  # one of K and V after the other in float32
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
