"""Modules with random parameters, and batches, to hold against the plain float64 formulas."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from softfree.attention import ATTENTIONS, Attention, create_attention
from softfree.attention.base import Parameters

NAMES = list(ATTENTIONS)
# A name, and where a method has several orders of evaluation, each by itself, and with importance of the tokens.
ORDERS = ["seqnorm literal", "seqnorm folded", "seqnorm gram"]
FORMS = [*NAMES, *ORDERS, *(f"{order} weighted" for order in ORDERS)]
GAIN = 2.0


# With a ridge the landmarks' kernel has one inverse, which all digits can be compared with.
RIDGE = 0.1
OPTIONS: dict[str, dict[str, object]] = {name: {"ridge": RIDGE, "iterations": 40} for name in ("soft", "soft_norm")}
# What looks at the order of the tokens.
ORDERED = ("soft", "soft_norm", "linformer", "nystromformer")


def reference(module: Attention, x: Tensor, parameters: Parameters) -> Tensor:
    """The whole module, (B, N, C) to (B, N, C): projection, heads, formula, output projection."""
    batch, tokens, width = x.shape
    qkv = x @ parameters["qkv.weight"].T
    if "qkv.bias" in parameters:
        qkv = qkv + parameters["qkv.bias"]
    heads = [t.reshape(batch, tokens, module.num_heads, -1).permute(0, 2, 1, 3) for t in qkv.split(width, dim=2)]
    further = {}
    if "importance.weight" in parameters:
        scores = x @ parameters["importance.weight"][0] + parameters["importance.bias"]
        further["importance"] = torch.log(1 + torch.exp(GAIN * scores))
    out = module.reference_mix(heads[0], heads[-2], heads[-1], parameters, **further)
    out = out.permute(0, 2, 1, 3).reshape(batch, tokens, width)
    return out @ parameters["proj.weight"].T + parameters["proj.bias"]


def make(form: str, dim: int = 24, num_heads: int = 3, **options: object) -> Attention:
    """A module whose parameters are all random, so that none hides behind a zero or a one."""
    name, *order = form.split()
    options = {"qkv_bias": True, "dtype": torch.float64, **OPTIONS.get(name, {}), **options}
    options |= {"order": order[0]} if order else {}
    options |= {"importance": GAIN} if "weighted" in order else {}
    module = create_attention(name, dim, num_heads, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) / math.sqrt(parameter.shape[-1]))
    return module


def leaves(module: nn.Module) -> Parameters:
    parameters = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    return {**dict(module.named_buffers()), **parameters}


def padded_batch() -> tuple[Tensor, Tensor]:
    """Three samples of 40, 17 and 1 real tokens at random positions; NaN and infinity elsewhere."""
    mask = torch.zeros(3, 40, dtype=torch.bool)
    for row, real in enumerate((40, 17, 1)):
        mask[row, torch.randperm(40)[:real]] = True
    x = torch.randn(3, 40, 24, dtype=torch.float64) + 1
    x[1, ~mask[1]] = float("inf")
    x[2, ~mask[2]] = float("nan")
    return x, mask


def assert_same(got: Tensor, want: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * max(1.0, want.abs().max().item()))
