"""Galerkin attention (Cao 2021)."""

from softfree.attention.galerkin.module import GalerkinAttention

__all__ = ["GalerkinAttention"]
