"""Nyströmformer (Xiong et al. 2021)."""

from softfree.attention.nystromformer.module import NystromformerAttention

__all__ = ["NystromformerAttention"]
