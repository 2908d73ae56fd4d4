"""SimA (Koohpayegani and Pirsiavash 2024)."""

from softfree.attention.sima.module import SimaAttention

__all__ = ["SimaAttention"]
