"""Attention methods: each a module that also serves as ``attn_layer`` in timm's vision transformers.

A folder contains everything about one method: the module, its cost, its plain reference formula and, if it has one, its
streaming form. Adding a method changes no other file of the project.
"""

from importlib import import_module
from pkgutil import iter_modules

from softfree.attention.base import Attention
from softfree.attention.galerkin import GalerkinAttention
from softfree.attention.linformer import LinformerAttention
from softfree.attention.nystromformer import NystromformerAttention
from softfree.attention.performer import PerformerAttention
from softfree.attention.registry import (
    ATTENTIONS,
    attention_class,
    attention_name,
    create_attention,
    for_each_attention,
    import_plugins,
    register_attention,
)
from softfree.attention.seqnorm import SeqNormAttention
from softfree.attention.sima import SimaAttention
from softfree.attention.soft import SoftAttention, SoftNormAttention
from softfree.attention.softmax import SoftmaxAttention

__all__ = [
    "ATTENTIONS",
    "Attention",
    "GalerkinAttention",
    "LinformerAttention",
    "NystromformerAttention",
    "PerformerAttention",
    "SeqNormAttention",
    "SimaAttention",
    "SoftAttention",
    "SoftNormAttention",
    "SoftmaxAttention",
    "attention_class",
    "attention_name",
    "create_attention",
    "for_each_attention",
    "import_plugins",
    "register_attention",
]

for _module in iter_modules(__path__):
    if _module.ispkg:
        import_module(f"{__name__}.{_module.name}")
import_plugins()
