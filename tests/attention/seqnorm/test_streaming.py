"""What merging the moments of chunks does to their last digits."""

from __future__ import annotations

import torch
from torch import Tensor

from softfree.attention import create_attention
from softfree.attention.streaming import StreamingAttention, streaming_form

WIDTH, HEADS = 24, 3


def merged(streaming: StreamingAttention, h: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    return streaming.from_raw(sum(streaming.raw(streaming.gather(chunk)) for chunk in h.split(sizes, dim=1))).values  # type: ignore[arg-type]


def test_merging_keeps_float32_at_a_large_mean() -> None:
    """Mean 100 times the spread, 64 chunks of unlike means: as exact as two passes in float64, to float32."""
    torch.manual_seed(0)
    streaming = streaming_form(create_attention("seqnorm", WIDTH, HEADS))
    h = torch.randn(1, 6400, WIDTH) + 100 + 0.5 * torch.randn(1, 64, 1).repeat_interleave(100, dim=1)
    mean, covariance = merged(streaming, h, [100] * 64)
    exact = h[0].double()
    torch.testing.assert_close(mean[0].double(), exact.mean(0), rtol=1e-6, atol=0)
    want = exact.T.cov(correction=0)
    assert (covariance[0].double() - want).abs().max() < 1e-5 * want.abs().max()


def test_constant_channel_has_no_negative_variance() -> None:
    streaming = streaming_form(create_attention("seqnorm", WIDTH, HEADS))
    h = torch.randn(1, 500, WIDTH)
    h[..., 3] = 77.7
    _, covariance = merged(streaming, h, [123, 377])
    assert covariance.diagonal(dim1=1, dim2=2).min() >= 0
