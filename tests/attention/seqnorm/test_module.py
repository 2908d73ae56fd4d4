"""SeqNorm's start, its bias, its edges, and each switch against its own formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softfree.attention import SeqNormAttention, SoftmaxAttention
from softfree_runtime.core.errors import UserError

Heads = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def heads() -> Heads:
    """q, k, v of two samples, three heads, 15 tokens and 8 features."""
    q, k, v = torch.randn(3, 2, 3, 15, 8, dtype=torch.float64) * 2 + 1
    return q, k, v


def make(**options: object) -> SeqNormAttention:
    module = SeqNormAttention(24, 3, dtype=torch.float64, **options)
    with torch.no_grad():
        for norm in (module.q_norm, module.k_norm, module.v_norm):
            for parameter in norm.parameters():
                parameter.normal_()
    return module


def expected(module: SeqNormAttention, standardized: Heads) -> Tensor:
    """Q' (K'^T V') / N from T^ = (T - mean) / deviation, one sample and one head after the other."""
    out = torch.zeros_like(standardized[0])
    for sample, head in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        scaled = []
        for t, norm in zip(standardized, (module.q_norm, module.k_norm, module.v_norm), strict=True):
            features = slice(8 * head, 8 * head + 8)
            affine = norm.weight is not None
            gamma, beta = (norm.weight[features], norm.bias[features]) if affine else (1.0, 0.0)
            scaled.append(gamma * t[sample, head] + beta)
        q, k, v = scaled
        out[sample, head] = q @ (k.T @ v) / len(q)
    return out


def standardize(t: Tensor, over: Tensor, axes: tuple[int, ...]) -> Tensor:
    """``t`` by the mean and the biased variance of ``over``."""
    return (t - over.mean(axes, keepdim=True)) / (over.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()


def assert_same(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


def test_start() -> None:
    module = SeqNormAttention(24, 3)
    start = {key: value.unique().tolist() for key, value in module.state_dict().items() if "_norm" in key}
    assert start == {
        "q_norm.weight": [pytest.approx(8**-0.5)],
        "q_norm.bias": [pytest.approx(0.2)],
        "k_norm.weight": [1.0],
        "k_norm.bias": [pytest.approx(0.2)],
        "v_norm.weight": [1.0],
        "v_norm.bias": [0.0],
    }
    assert all(module.state_dict()[key].shape == (24,) for key in start)


def test_start_that_was_asked_for() -> None:
    module = SeqNormAttention(24, 3, gamma_q=1.0, beta_q=0.0, beta_k=-1.0)
    assert (module.q_norm.weight == 1).all()
    assert (module.q_norm.bias == 0).all()
    assert (module.k_norm.bias == -1).all()
    with torch.no_grad():
        module.k_norm.bias.zero_()
    module.k_norm.reset_parameters()
    assert (module.k_norm.bias == -1).all()


@pytest.mark.parametrize(
    ("init", "gamma_q", "beta_q", "beta_k"),
    [
        ("unit", 1, 0, 0),
        ("scaled", 0.25, 0, 0),
        ("open", 0.25, 0.2, 0.2),
        ("balanced", 0.25, 0.25, 0.25),
        ("first_order", 0.25, 1, 1 / 16),
    ],
)
def test_named_inits(init: str, gamma_q: float, beta_q: float, beta_k: float) -> None:
    module = SeqNormAttention(32, 2, init=init)
    got = (module.q_norm.weight, module.q_norm.bias, module.k_norm.weight, module.k_norm.bias, module.v_norm.weight)
    for parameter, value in zip(got, (gamma_q, beta_q, 1, beta_k, 1), strict=True):
        torch.testing.assert_close(parameter, torch.full((32,), float(value)))
    assert (module.v_norm.bias == 0).all()


def test_unknown_init() -> None:
    with pytest.raises(UserError, match="did you mean first_order"):
        SeqNormAttention(24, 3, init="first-order")


@pytest.mark.parametrize("init", ["first_order", "balanced"])
def test_where_the_shifts_multiply_to_one_small_scores_give_softmax(init: str) -> None:
    """softmax(s) V = (1 + s) V / N + O(s^2) for scores s = q' . k^ of mean zero, when the mean of V is kept."""
    torch.manual_seed(0)
    module = SeqNormAttention(24, 3, init=init, normalized="qk", dtype=torch.float64)
    q, k, v = torch.randn(3, 2, 3, 50, 8, dtype=torch.float64)
    q, k = (standardize(t, t, (2,)) for t in (q, k))
    with torch.no_grad():
        module.k_norm.weight.fill_(1e-4)
        scaled = q * module.q_norm.weight[0]
    shifted = scaled + module.q_norm.bias[0]
    average = v.mean(2, keepdim=True)
    softmax = torch.softmax(1e-4 * shifted @ k.mT, dim=-1) @ v
    # What q brings by itself is the same for all keys: softmax does not see it.
    row = (scaled * module.k_norm.bias[0]).sum(-1, keepdim=True)
    got = module.mix(q, k, v, None) - row * average
    assert (got - softmax).abs().max() < 1e-2 * (softmax - average).abs().max()


@pytest.mark.parametrize("norm", ["sequence", "batch"])
def test_bias_that_the_mean_removes_is_left_out(norm: str) -> None:
    module = SeqNormAttention(24, 3, norm=norm, qkv_bias=True)
    assert module.qkv.bias is None
    state = {**module.state_dict(), "qkv.bias": torch.ones(72)}
    module.load_state_dict(state)
    assert "qkv.bias" in state  # the caller's own is untouched
    wrapped = torch.nn.Sequential(module)
    wrapped.load_state_dict({f"0.{key}": value for key, value in state.items()})
    with pytest.raises(RuntimeError, match="nonsense"):
        module.load_state_dict({**state, "qkv.nonsense": torch.ones(1)})


def test_bias_of_what_is_not_normalized_goes_into_its_shift() -> None:
    """Softmax weights loaded into normalized="qk" keep the function of V."""
    module, softmax = SeqNormAttention(24, 3, normalized="qk"), SoftmaxAttention(24, 3, qkv_bias=True)
    torch.nn.init.normal_(softmax.qkv.bias)
    state = softmax.state_dict()
    module.load_state_dict(dict(state), strict=False)
    assert torch.equal(module.v_norm.bias, state["qkv.bias"][48:])
    assert (module.q_norm.bias == 0.2).all()
    module.load_state_dict({**state, "v_norm.bias": torch.ones(24)}, strict=False)
    assert (module.v_norm.bias == 1).all(), "what a state dict says itself is not changed"


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_bias_that_counts_is_kept(norm: str) -> None:
    assert SeqNormAttention(24, 3, norm=norm, qkv_bias=True).qkv.bias is not None
    assert SeqNormAttention(24, 3, norm=norm).qkv.bias is None


def test_one_token_gives_the_shifts(heads: Heads) -> None:
    module = make()
    one = tuple(t[:, :, :1] for t in heads)
    beta_q, beta_k, beta_v = (norm.bias.view(3, 8) for norm in (module.q_norm, module.k_norm, module.v_norm))
    want = (beta_q * beta_k).sum(1, keepdim=True) * beta_v  # (H, D)
    assert_same(module.mix(*one, None), want.view(1, 3, 1, 8).expand(2, -1, -1, -1))


def test_without_affine(heads: Heads) -> None:
    module = make(affine=False)
    assert not [key for key in module.state_dict() if "_norm" in key]
    assert_same(module.mix(*heads, None), expected(module, tuple(standardize(t, t, (2,)) for t in heads)))


@pytest.mark.parametrize("normalized", ["qk", "kv", "q", "v"])
def test_only_some_are_normalized(heads: Heads, normalized: str) -> None:
    module = make(normalized=normalized)
    treated = tuple(
        standardize(t, t, (2,)) if letter in normalized else t for letter, t in zip("qkv", heads, strict=True)
    )
    assert_same(module.mix(*heads, None), expected(module, treated))


@pytest.mark.parametrize("normalized", ["", "vq", "qkx", "qq"])
def test_what_is_normalized_must_be_letters_in_order(normalized: str) -> None:
    with pytest.raises(UserError, match="expected 'qkv' or some of its letters"):
        SeqNormAttention(24, 3, normalized=normalized)


def test_layer(heads: Heads) -> None:
    module = make(norm="layer")
    assert_same(module.mix(*heads, None), expected(module, tuple(standardize(t, t, (3,)) for t in heads)))


def test_none(heads: Heads) -> None:
    module = make(norm="none")
    assert_same(module.mix(*heads, None), expected(module, heads))


def test_batch_in_training(heads: Heads) -> None:
    module = make(norm="batch")
    assert_same(module.mix(*heads, None), expected(module, tuple(standardize(t, t, (0, 2)) for t in heads)))


@pytest.mark.parametrize("padded", [False, True])
def test_batch_statistics_are_those_of_torch(heads: Heads, padded: bool) -> None:
    """Running statistics after two steps, and evaluation with them, as torch.nn.BatchNorm1d over the real tokens."""
    module, torchs = make(norm="batch"), torch.nn.BatchNorm1d(24, dtype=torch.float64)
    mask = torch.ones(2, 1, 15, 1, dtype=torch.bool)
    mask[0, :, 9:] = not padded
    q = heads[0]
    for step in range(2):
        module.mix(q + step, *heads[1:], mask if padded else None)
        torchs((q + step).transpose(1, 2).flatten(2)[mask[:, 0, :, 0]])
    torch.testing.assert_close(module.q_norm.running_mean.double(), torchs.running_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(module.q_norm.running_var.double(), torchs.running_var, rtol=1e-6, atol=0)
    module.eval()
    got = module.q_norm(q, None, None)
    mean, variance = (s.double().view(3, 1, 8) for s in (module.q_norm.running_mean, module.q_norm.running_var))
    want = (q - mean) / (variance + 1e-5).sqrt()
    assert_same(got, want * module.q_norm.weight.view(3, 1, 8) + module.q_norm.bias.view(3, 1, 8))


@pytest.mark.parametrize("norm", ["layer", "none", "batch"])
def test_padding_with_other_norms(heads: Heads, norm: str) -> None:
    module = make(norm=norm, qkv_bias=True)
    x = torch.randn(2, 15, 24, dtype=torch.float64)
    mask = torch.arange(15).expand(2, -1) < 9
    got = module(torch.where(mask[..., None], x, float("nan")), mask)
    assert_same(got[:, :9], module(x[:, :9]))


@pytest.mark.parametrize("padded", [False, True])
def test_class_token_outside_the_statistics(heads: Heads, padded: bool) -> None:
    """It is normalized with the others' statistics, takes part in the sum, and counts in N."""
    module = make(class_token_in_statistics=False, num_prefix_tokens=2)
    real = 11 if padded else 15
    mask = (torch.arange(15) < real).view(1, 1, 15, 1).expand(2, -1, -1, -1) if padded else None
    cut = tuple(t[:, :, :real] for t in heads)
    want = expected(module, tuple(standardize(t, t[:, :, 2:], (2,)) for t in cut))
    assert_same(module.mix(*heads, mask)[:, :, :real], want)
    inside = make(class_token_in_statistics=True, num_prefix_tokens=2)
    inside.load_state_dict(module.state_dict())
    assert not torch.allclose(inside.mix(*heads, mask)[:, :, :real], want, rtol=1e-3)


@pytest.mark.parametrize("norm", ["sequence", "batch"])
def test_large_mean_small_spread(norm: str) -> None:
    """A channel of mean 1000 and deviation 0.01 in float32: a difference of squares would lose it."""
    module = make(norm=norm, gamma_q=1.0).float()
    t = 1000 + 0.01 * torch.randn(1, 3, 4000, 8)
    with torch.no_grad():
        module.q_norm.weight.fill_(1)
        module.q_norm.bias.fill_(0)
    wide = t.double()
    want = standardize(wide, wide, (2,))
    torch.testing.assert_close(module.q_norm(t, None, None).double(), want, rtol=0, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_of_halves(dtype: torch.dtype) -> None:
    """Mean 1000 and deviation 300: the variance is beyond float16, the mean between two bfloat16."""
    module = make(affine=False).to(dtype)
    t = (1001 + 300 * torch.randn(1, 3, 4000, 8)).to(dtype)
    wide = t.double()
    got = module.q_norm(t, None, None)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), standardize(wide, wide, (2,)), rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("order", ["literal", "folded", "gram"])
def test_importance_starts_equal(order: str) -> None:
    """As it starts, it changes nothing; and weights are those of the formula once it is learned."""
    torch.manual_seed(0)
    plain = SeqNormAttention(24, 3, order=order, dtype=torch.float64)
    weighted = SeqNormAttention(24, 3, order=order, dtype=torch.float64, importance=4.0)
    assert weighted.load_state_dict(plain.state_dict(), strict=False).missing_keys == [
        "importance.weight",
        "importance.bias",
    ]
    x = torch.randn(2, 40, 24, dtype=torch.float64)
    assert_same(weighted.token_weights(x, None), torch.ones(2, 40, dtype=torch.float64))
    assert_same(weighted(x), plain(x))
    torch.nn.init.normal_(weighted.importance.weight)
    assert not torch.allclose(weighted(x), plain(x), rtol=1e-2)


@pytest.mark.parametrize("order", ["literal", "folded", "gram"])
def test_tokens_of_no_importance_count_for_nothing(order: str) -> None:
    """The others then have the result of a sequence without them, however many there are."""
    torch.manual_seed(0)
    module = SeqNormAttention(24, 3, order=order, dtype=torch.float64, importance=4.0)
    with torch.no_grad():
        module.importance.weight[0, 0] = 1
    x = torch.randn(1, 5000, 24, dtype=torch.float64)
    x[..., 0], x[:, 4000:, 0] = -100, 0.0
    assert_same(module(x)[:, 4000:], module(x[:, 4000:]))


@pytest.mark.parametrize("order", ["literal", "folded", "gram"])
def test_a_token_of_twice_the_importance_is_a_token_twice(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = SeqNormAttention(24, 3, order=order, dtype=torch.float64, importance=4.0)
    x = torch.randn(2, 37, 24, dtype=torch.float64)
    twice = module(torch.cat([x[:, :1], x], dim=1))[:, 1:]
    assert not torch.allclose(twice, module(x), rtol=1e-3)
    weights = torch.ones(2, 37, dtype=torch.float64)
    weights[:, 0] = 2
    monkeypatch.setattr(module, "token_weights", lambda *_: weights)
    assert_same(module(x), twice)


def test_importance_of_no_token_at_all_is_finite() -> None:
    module = SeqNormAttention(24, 3, importance=4.0)
    with torch.no_grad():
        module.importance.bias.fill_(-1000)
    x = torch.randn(2, 100, 24, requires_grad=True)
    module(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "layer"}, "importance=4.0 with norm='layer'"),
        ({"class_token_in_statistics": False, "num_prefix_tokens": 1}, "with class_token_in_statistics=False"),
        ({"importance": 0.0}, "importance=0.0: expected a number above 0"),
    ],
)
def test_importance_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SeqNormAttention(24, 3, **{"importance": 4.0, **options})


def test_unknown_norm() -> None:
    with pytest.raises(UserError, match="did you mean batch"):
        SeqNormAttention(24, 3, norm="batchnorm")


def test_prefix_to_leave_out_must_be_named() -> None:
    with pytest.raises(UserError, match="set num_prefix_tokens"):
        SeqNormAttention(24, 3, class_token_in_statistics=False)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("bias", [-5.0, -22.0, -300.0])
@pytest.mark.parametrize("order", ["literal", "folded", "gram"])
def test_only_relations_of_importance_matter(order: str, bias: float, dtype: torch.dtype, tolerance: float) -> None:
    """Equal importance changes nothing, however small it is, and leaves the model something to learn from."""
    torch.manual_seed(0)
    plain = SeqNormAttention(24, 3, order="literal", dtype=torch.float64)
    weighted = SeqNormAttention(24, 3, order=order, dtype=torch.float64, importance=4.0)
    weighted.load_state_dict(plain.state_dict(), strict=False)
    torch.nn.init.constant_(weighted.importance.bias, bias)
    x = torch.randn(2, 40, 24, dtype=torch.float64)
    got, want = weighted.to(dtype)(x.to(dtype)).double(), plain(x)
    assert (got - want).abs().max() <= tolerance * want.abs().max()
