"""The cost of one attention for a shape, and terms shared by several methods; all of it for `softfree plan`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes that the formulas depend on.

    Attributes:
        batch: B.
        tokens: N, on a square grid.
        width: C.
        heads: H.
        narrow: Bytes per number that a product reads or writes.
        stream: Bytes per number of the residual stream.
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
    def bnc(self) -> int:
        """B N C, the size of most tensors."""
        return self.batch * self.tokens * self.width

    @property
    def cc(self) -> int:
        """C^2, the size of a C x C matrix."""
        return self.width**2

    @property
    def cd(self) -> int:
        """C D, the size of H matrices of D x D."""
        return self.width * self.width // self.heads


@dataclass(frozen=True)
class AttentionCost:
    """The cost of one attention module.

    Attributes:
        parameters: Number of parameters.
        kept_tensors: Tensors of B N C numbers kept for backward, including the module's input.
        kept_bytes: Other bytes kept for backward: statistics, small matrices, casts of weights.
        inference_tensors: Tensors of B N C numbers alive at the same time in inference, including the module's input.
        implementation: Name of the implementation that is chosen; a change may reduce what is kept.
    """

    parameters: int
    kept_tensors: int
    kept_bytes: int
    inference_tensors: int
    implementation: str = ""


def copied_heads(s: Shape) -> int:
    """Return the copies of K and V: the heads of several images are not a plain stack of matrices."""
    return 2 if s.batch > 1 else 0


def cast_bytes(s: Shape, matrices: int) -> int:
    """Return the bytes of C x C weights cast by autocast."""
    return 2 * matrices * s.cc if s.autocast else 0


def float32_bytes(s: Shape, tensors: int) -> int:
    """Return the bytes of B N C tensors kept in float32 by the method; 0 if everything is in float32 anyway."""
    return 4 * tensors * s.bnc if s.narrow < 4 else 0


def widened_projection(s: Shape) -> int:
    """Return the numbers of the output projection copied to float32 for the products of statistics."""
    return s.cc if s.stream < 4 and s.batch == 1 else 0


def softmax_bytes(s: Shape) -> int:
    """Return the bytes of the log-sum-exp of each row and of the casts of all weights."""
    return 4 * s.batch * s.heads * s.tokens + cast_bytes(s, 4)
