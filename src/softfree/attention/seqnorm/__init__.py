"""SeqNorm attention (Khader et al. 2024): the module, and the orders of evaluation that it chooses from."""

from softfree.attention.seqnorm.module import SeqNormAttention

__all__ = ["SeqNormAttention"]
