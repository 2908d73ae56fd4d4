"""Performer (Choromanski et al. 2021)."""

from softfree.attention.performer.module import PerformerAttention

__all__ = ["PerformerAttention"]
