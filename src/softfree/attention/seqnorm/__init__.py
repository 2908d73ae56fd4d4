"""SeqNorm attention (Khader et al. 2024)."""

from softfree.attention.seqnorm.module import SeqNormAttention

__all__ = ["SeqNormAttention"]
