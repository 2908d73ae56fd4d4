"""SOFT and SOFT++ (Lu et al. 2021, 2022)."""

from softfree.attention.soft.module import SoftAttention, SoftNormAttention

__all__ = ["SoftAttention", "SoftNormAttention"]
