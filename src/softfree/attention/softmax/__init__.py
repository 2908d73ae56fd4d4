"""Softmax attention (Vaswani et al. 2017), the baseline of all other methods."""

from softfree.attention.softmax.module import SoftmaxAttention

__all__ = ["SoftmaxAttention"]
