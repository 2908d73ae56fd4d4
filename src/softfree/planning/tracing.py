"""The cost of an attention that has no formula, traced without data."""

from __future__ import annotations

import weakref
from functools import lru_cache
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from softfree.attention import Attention
from softfree.attention.cost import AttentionCost, Shape
from softfree_runtime.core.errors import UserError


@lru_cache(maxsize=1024)
def traced_cost(method: type[Attention], shape: Shape) -> AttentionCost:
    """Measure the memory that an attention, as in a block of the named models, would use for a shape on a CPU.

    Raises:
        UserError: A method that cannot run without data.
    """
    try:
        with FakeTensorMode(), torch.autocast("cpu", torch.bfloat16, enabled=shape.autocast):
            weights_type = torch.bfloat16 if shape.stream < 4 else torch.float32
            module = method(shape.width, shape.heads, qkv_bias=True, dtype=weights_type)
            tokens_type = torch.bfloat16 if shape.narrow < 4 else torch.float32
            x = torch.empty(shape.batch, shape.tokens, shape.width, dtype=tokens_type)
            kept, peak = _kept_bytes(module.train(), x), _peak_bytes(module.eval(), x)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{method.__name__} has no cost, and cannot be traced without data ({reason}): implement its method 'cost'"
        ) from None
    tensor = shape.bnc * shape.narrow
    return AttentionCost(
        parameters=sum(p.numel() for p in module.parameters()),
        kept_tensors=kept // tensor,
        kept_bytes=kept % tensor,
        inference_tensors=-(-peak // tensor),
    )


def _kept_bytes(module: Attention, x: Tensor) -> int:
    """Return the bytes that autograd keeps, without parameters."""
    parameters = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
    kept: dict[int, Tensor] = {}  # tensors, so that no storage is freed and its key reused

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in parameters:
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _run(module, x.detach().requires_grad_())
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _peak_bytes(module: Attention, x: Tensor) -> int:
    """Return the most bytes alive at the same time in inference, including the input."""
    with torch.no_grad(), _Allocations() as allocations:
        _run(module, x)
    return allocations.peak + x.untyped_storage().nbytes()


def _run(module: Attention, x: Tensor) -> Tensor:
    side = isqrt(x.shape[1])
    out: Tensor = module(x, grid=(side, side) if side * side == x.shape[1] else None)
    return out


class _Allocations(TorchDispatchMode):
    """Track the bytes of the storages that operations create, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in inputs and key not in self.alive:
                    self.alive[key] = storage.nbytes()
                    weakref.finalize(storage, self.alive.pop, key, None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return out
