"""Linformer (Wang et al. 2020)."""

from softfree.attention.linformer.module import LinformerAttention

__all__ = ["LinformerAttention"]
