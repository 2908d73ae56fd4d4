"""The formulas against softmax itself, token by token."""

from itertools import pairwise

import pytest
import torch

from softfree.conversion.closed_form import error, first_order, least_squares, set_scales
from softfree.conversion.statistics import Statistics

BOTH = pytest.mark.parametrize("normalized", ["qk", "qkv"])


def tokens(*batches: int, number: int = 40, width: int = 24) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(batch, number, width, dtype=torch.float64) + torch.randn(width) for batch in batches]


def heads(attention, x):
    """Outputs of the heads, (B, H, N, D)."""
    q, k, v = (attention.split_heads(t) for t in attention.qkv(x).chunk(3, dim=-1))
    return attention.mix(q, k, v, None)


def off(source, target, inputs) -> torch.Tensor:
    """Mean square per head of what differs."""
    gaps = [(heads(source, x) - heads(target, x)).square().sum(-1).mean(2) for x in inputs]
    return torch.cat(gaps).mean(0)


def collect(source, target, inputs) -> Statistics:
    return Statistics.collect(source, inputs, target.normalized, target.eps)


def test_small_scores_are_softmax_up_to_their_square(make_attention, make_target):
    """With one feature of Q that is the same in all tokens, the share of the mean of V can be 1 for all of them."""
    errors = []
    for scores in (0.1, 0.05, 0.025):
        source = make_attention(scores)
        first = torch.arange(3) * 8
        with torch.no_grad():
            source.qkv.weight[first] = 0
        target, inputs = make_target(source), tokens(1)
        target.eps = target.q_norm.eps = target.k_norm.eps = 1e-12
        set_scales(target, first_order(collect(source, target, inputs)))
        errors.append(off(source, target, inputs).sum().sqrt().item())
    assert errors[0] < 0.02
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.15)


def test_the_part_with_the_scores_is_exact_on_one_image(make_attention, make_target):
    source = make_attention()
    target, (x,) = make_target(source), tokens(1)
    scales = first_order(collect(source, target, [x]))
    set_scales(target, scales)
    q, k, v = (source.split_heads(t) for t in source.qkv(x).chunk(3, dim=-1))
    covariance = (k - k.mean(2, keepdim=True)).mT @ v / x.shape[1]
    scored = q @ covariance / 8**0.5
    q_hat = (q - q.mean(2, keepdim=True)) / (q.var(2, keepdim=True, correction=0) + 1e-5).sqrt()
    share = (q_hat * scales.gamma_q[:, None] + scales.beta_q[:, None]) @ scales.beta_k.unsqueeze(-1)  # (1, H, N, 1)
    torch.testing.assert_close(share.mean(2), torch.ones(1, 3, 1, dtype=torch.float64))
    torch.testing.assert_close(heads(target, x), scored + share * v.mean(2, keepdim=True), rtol=1e-6, atol=1e-8)


def test_no_other_shift_of_k_gives_steadier_shares(make_attention, make_target):
    source = make_attention()
    target, inputs = make_target(source), tokens(5)
    statistics = collect(source, target, inputs)
    scales = first_order(statistics)

    def spread(beta_k):
        return torch.einsum("hd,phde,he->h", scales.gamma_q * beta_k, statistics.qq, scales.gamma_q * beta_k)

    other = torch.randn_like(scales.beta_k)
    for step in (1e-3, 1.0):
        moved = scales.beta_k + step * other
        moved = moved / (moved * scales.beta_q).sum(-1, keepdim=True)
        assert (spread(moved) > spread(scales.beta_k)).all()


@BOTH
def test_the_error_is_that_of_the_tokens(make_attention, make_target, normalized):
    source = make_attention(4.0)
    target, inputs = make_target(source, normalized), tokens(3, 2)
    statistics = collect(source, target, inputs)
    scales = least_squares(statistics, first_order(statistics), 1)
    set_scales(target, scales)
    outputs = torch.cat([heads(source, x) for x in inputs])
    spread = (outputs - outputs.mean((0, 2), keepdim=True)).square().sum(-1).mean((0, 2))
    torch.testing.assert_close(error(statistics, scales), off(source, target, inputs) / spread)


@BOTH
def test_least_squares_ends_where_no_scale_or_shift_can_do_better(make_attention, make_target, normalized):
    source = make_attention(4.0)
    target, inputs = make_target(source, normalized), tokens(6)
    statistics = collect(source, target, inputs)
    start = first_order(statistics)
    set_scales(target, start)
    norms = {name: p for name, p in target.named_parameters() if "_norm." in name}
    before = torch.autograd.grad(off(source, target, inputs).sum(), norms.values())
    set_scales(target, least_squares(statistics, start, 2000))
    after = torch.autograd.grad(off(source, target, inputs).sum(), norms.values())
    for name, steep, flat in zip(norms, before, after, strict=True):
        assert flat.norm() < 2e-3 * steep.norm(), name


@BOTH
def test_each_sweep_comes_closer(make_attention, make_target, normalized):
    source = make_attention(4.0)
    target, inputs = make_target(source, normalized), tokens(4)
    statistics = collect(source, target, inputs)
    errors = [error(statistics, least_squares(statistics, first_order(statistics), sweeps)) for sweeps in range(5)]
    assert all((later < earlier).all() for earlier, later in pairwise(errors))
    assert (errors[-1] < 0.8 * errors[0]).all()


def test_the_bias_of_v_is_kept(make_attention, make_target):
    source = make_attention(0.01)
    with torch.no_grad():
        source.qkv.bias[-24:] += 100
    target, inputs = make_target(source), tokens(2)
    scales = first_order(collect(source, target, inputs))
    torch.testing.assert_close(scales.beta_v.flatten(), source.qkv.bias[-24:])
    set_scales(target, scales)
    wanted = source(inputs[0])
    torch.testing.assert_close(target(inputs[0]).mean((0, 1)), wanted.mean((0, 1)), rtol=1e-2, atol=0.1)


def test_images_of_other_sizes_go_together(make_attention, make_target):
    source = make_attention()
    target = make_target(source)
    inputs = [*tokens(2, number=30), *tokens(1, number=50)]
    statistics = collect(source, target, inputs)
    assert statistics.qq.shape == (3, 3, 8, 8)
    assert error(statistics, least_squares(statistics, first_order(statistics))).max() < 1


def test_a_feature_that_never_varies_stays_finite(make_attention, make_target):
    source = make_attention()
    with torch.no_grad():
        source.qkv.weight[[0, 24, 48]] = 0
        source.qkv.bias[[0, 24, 48]] = 0
    target, inputs = make_target(source, "qkv"), tokens(2)
    statistics = collect(source, target, inputs)
    scales = least_squares(statistics, first_order(statistics))
    assert all(t.isfinite().all() and t.abs().max() < 1e3 for t in vars(scales).values())
    set_scales(target, scales)
    assert target(inputs[0]).isfinite().all()
