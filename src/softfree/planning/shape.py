"""What formulas are made of: B images, N tokens, width C, H heads, and the bytes of a number."""

from __future__ import annotations

from dataclasses import dataclass


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
