"""The Triton kernels on trial, run by Triton's interpreter, against float64.

The interpreter is chosen when Triton is imported, so that all cases run in one process of their own.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

# Of max|x - reference| / max|reference|. The interpreter rounds to bfloat16 toward zero.
TOLERANCES = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 5e-2}
# Samples, tokens, features, heads: odd numbers, less than a tile, several tiles, several runs of tokens.
SIZES = [(2, 77, 40, 2), (1, 17, 32, 1), (1, 1030, 96, 3)]
VALUES = ("values", "gradient", "weights", "scales")


def compared(name: str, batch: int, tokens: int, width: int, heads: int) -> dict[str, float]:
    """Compare the sublayer with the literal order in float64: values and gradients of the input and the parameters."""
    from softfree.attention import SeqNormAttention
    from softfree_lab.bench.gpu.triton_moments import TritonGramOrder

    torch.manual_seed(0)
    dtype = getattr(torch, name)
    attention = SeqNormAttention(width, heads, order="gram")
    with torch.no_grad():
        for norm in (attention.q_norm, attention.k_norm, attention.v_norm):
            norm.weight.normal_(1, 0.3)
            norm.bias.normal_(0, 0.3)
    exact = copy.deepcopy(attention).to(dtype).double()
    exact.order = "literal"
    module = TritonGramOrder(attention.to(dtype))
    x = (torch.randn(batch, tokens, width) + 3 * torch.randn(width)).to(dtype)
    grad = torch.randn(batch, tokens, width).to(dtype)

    def run(module: torch.nn.Module, inner: SeqNormAttention, x: Tensor) -> tuple[Tensor, ...]:
        leaf = x.detach().requires_grad_()
        y = module(leaf)
        y.backward(grad.to(x.dtype))
        parts = (y.detach(), leaf.grad, inner.qkv.weight.grad, inner.k_norm.weight.grad)
        return tuple(part.double() for part in parts if part is not None)

    got, want = run(module, attention, x), run(exact, exact, x.double())
    errors = [((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item() for a, b in zip(got, want, strict=True)]
    return dict(zip(VALUES, errors, strict=True))


@pytest.fixture(scope="module")
def errors() -> dict[str, dict[str, float]]:
    completed = subprocess.run(
        [sys.executable, __file__], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr[-2000:]
    result: dict[str, dict[str, float]] = json.loads(completed.stdout)
    return result


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("precision", TOLERANCES)
def test_kernels_agree_with_float64(
    errors: dict[str, dict[str, float]], precision: str, size: tuple[int, ...], value: str
) -> None:
    assert errors[f"{precision} {size}"][value] < TOLERANCES[precision]


@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("tile", [0, 1, 2])
@pytest.mark.parametrize("kind", ["PRODUCTS", "AFFINE"])
def test_kernels_compile_for_a_gpu(kind: str, tile: int) -> None:
    """NVIDIA's assembler, which Triton brings, needs no GPU; the tensor cores of the H100 are used."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from softfree_lab.bench.gpu import triton_moments

    kernel = getattr(triton_moments, kind)[0]
    tokens, features, warps, stages = triton_moments.TILES[tile]
    kinds = dict.fromkeys(("tokens", "width", "run"), "i32") | dict.fromkeys(("outer", "total", "constant"), "*fp32")
    constants = {"SYMMETRIC": True, "RESIDUAL": True, "TOKENS": tokens, "FEATURES": features}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    signature = {name: kinds.get(name, "*bf16") for name in kernel.arg_names} | dict.fromkeys(constants, "constexpr")
    compiled = triton.compile(
        ASTSource(kernel, signature, constants),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": warps, "num_stages": stages},
    )
    assert "wgmma" in compiled.asm["ptx"]
    assert compiled.metadata.shared <= 227 * 1024


def test_masks_and_importance_are_refused() -> None:
    from softfree_lab.bench.gpu.triton_moments import affine, moments

    x, mask = torch.randn(1, 4, 8), torch.ones(1, 4, dtype=torch.bool)
    with pytest.raises(NotImplementedError, match="masks"):
        moments(x, mask)
    with pytest.raises(NotImplementedError, match="weights"):
        moments(x, None, mask.float())
    with pytest.raises(NotImplementedError, match="masks"):
        affine(x, x[:, 0], x.mT @ x, x[:, 0], mask)


if __name__ == "__main__":
    print(json.dumps({f"{name} {size}": compared(name, *size) for name in TOLERANCES for size in SIZES}))
