"""SimA by parts, as a CPU evaluates long sequences without gradients."""

import pytest
import torch

from softfree.attention import SimaAttention
from softfree.attention.sima import module as sima


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)]
)
def test_parts_are_the_whole(
    monkeypatch: pytest.MonkeyPatch, bias: bool, masked: bool, dtype: torch.dtype, tolerance: float
) -> None:
    module = SimaAttention(24, 3, qkv_bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.3)
    x = torch.randn(2, 1000, 24, dtype=torch.float64) + 1
    mask = torch.rand(2, 1000) < 0.6 if masked else None
    want = module(x, mask)
    chunks = []
    sums = SimaAttention._sums
    monkeypatch.setattr(
        SimaAttention, "_sums", lambda self, chunk, *rest: chunks.append(chunk) or sums(self, chunk, *rest)
    )
    monkeypatch.setattr(sima, "PART", 300 * 72)
    with torch.no_grad():
        got = module.to(dtype)(x.to(dtype), mask)
    assert [chunk.shape[1] for chunk in chunks] == [300, 300, 300, 100]
    real = torch.ones(2, 1000, dtype=torch.bool) if mask is None else mask
    error = (got[real].double() - want[real]).abs().max() / want[real].abs().max()
    assert error < tolerance
