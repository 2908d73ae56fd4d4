"""The orders of evaluation against the literal one: results, what they keep for backward, and where they must work."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from softfree.attention import SeqNormAttention

FAST = ["folded", "gram"]
ORDERS = ["literal", *FAST]
Gradients = dict[str, Tensor]


def make(order: str, dim: int = 24, num_heads: int = 3, **options: object) -> SeqNormAttention:
    """A module whose parameters are all random, so that none hides behind a zero or a one."""
    module = SeqNormAttention(dim, num_heads, order=order, **{"dtype": torch.float64, **options})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return module


def in_order(module: SeqNormAttention, order: str) -> SeqNormAttention:
    other = copy.deepcopy(module)
    other.order = order
    return other


def run(module: nn.Module, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Gradients]:
    """Values of the real tokens, and the gradient of everything under one random cotangent."""
    module.zero_grad()
    x = x.detach().requires_grad_()
    y = module(x, mask)
    if mask is not None:
        y = y[mask]
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    return y.detach(), {"x": x.grad, **{name: p.grad.clone() for name, p in module.named_parameters()}}


def assert_same(
    got: tuple[Tensor, Gradients], want: tuple[Tensor, Gradients], tolerance: float = 1e-11, real: Tensor | None = None
) -> None:
    """Equal against the size of what is compared, or against 1 where that is smaller."""
    gradients = [{**run, "x": run["x"] if real is None else run["x"][real]} for _, run in (got, want)]
    for name in ("value", *gradients[1]):
        ours, theirs = (got[0], want[0]) if name == "value" else (gradients[0][name], gradients[1][name])
        error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)
        assert error < tolerance, f"{name}: {error:.1e}"  # false for a NaN too


@pytest.mark.parametrize("order", FAST)
@pytest.mark.parametrize("num_heads", [1, 3, 12])
@pytest.mark.parametrize("tokens", [1, 2, 63, 197, 1000])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    batch=st.sampled_from([1, 5]),
    masked=st.booleans(),
    constant=st.sampled_from([0, 1, 5, 12]),
    mean=st.sampled_from([0.0, 1.0, 1e4]),
    normalized=st.sampled_from(["qkv", "qk", "kv", "v"]),
    seed=st.integers(0, 2**16),
)
def test_values_and_gradients_are_those_of_the_literal_order(
    order: str,
    num_heads: int,
    tokens: int,
    batch: int,
    masked: bool,
    constant: int,
    mean: float,
    normalized: str,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    if normalized != "qkv":
        mean = min(mean, 10.0)  # nothing takes it off, and products of three such numbers grow with its cube
    module = make("literal", 12, num_heads, normalized=normalized)
    x = torch.randn(batch, tokens, 12, dtype=torch.float64) + mean
    x[..., :constant] = mean
    mask = None
    if masked:
        mask = torch.rand(batch, tokens) < 0.6
        mask[torch.arange(batch), torch.randint(tokens, (batch,))] = True
        x[~mask] = float("nan")
    # A mean of 1e4 costs four of the sixteen digits, in the literal order too, and eps = 1e-5 lets a constant channel
    # magnify what is lost by 1 / sqrt(eps).
    tolerance = 1e-11 if mean < 10 else 1e-7
    assert_same(run(in_order(module, order), x, mask), run(module, x, mask), tolerance, real=mask)


@pytest.mark.parametrize("order", FAST)
@pytest.mark.parametrize(
    "options",
    [
        {"affine": False},
        {"proj_bias": False},
        {"eps": 0.5},
        {"normalized": "qk"},
        {"importance": 4.0},
        {"importance": 0.5, "normalized": "kv"},
    ],
    ids=str,
)
def test_options_are_those_of_the_literal_order(order: str, options: dict[str, object]) -> None:
    module, x = make("literal", **options), torch.randn(2, 40, 24, dtype=torch.float64)
    assert_same(run(in_order(module, order), x), run(module, x))


@pytest.mark.parametrize("order", FAST)
def test_dropout_of_the_result_stays(order: str) -> None:
    module, x = make(order, proj_drop=0.5), torch.randn(1, 400, 24, dtype=torch.float64)
    assert 0.4 < (module(x) == 0).double().mean() < 0.6
    assert (module.eval()(x) != 0).all()


@pytest.mark.parametrize("order", ORDERS)
def test_views_of_other_strides(order: str) -> None:
    module, x = make(order), torch.randn(24, 50, 4, dtype=torch.float64)
    strided = x.permute(2, 1, 0)[::2, 5:45:2]
    assert_same(run(module, strided), run(module, strided.contiguous()))


@pytest.mark.parametrize("order", ORDERS)
def test_no_gradient_for_an_input_that_needs_none(order: str) -> None:
    module, x = make(order), torch.randn(2, 40, 24, dtype=torch.float64)
    _, want = run(module, x)
    module.zero_grad()
    y = module(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter.grad, want[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_frozen_attention_passes_the_gradient_on(order: str) -> None:
    module, x = make(order), torch.randn(2, 40, 24, dtype=torch.float64)
    want = run(module, x)[1]["x"]
    module.requires_grad_(False)
    x.requires_grad_()
    y = module(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    torch.testing.assert_close(x.grad, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", FAST)
def test_gradients_twice_from_one_graph(order: str) -> None:
    module, x = make(order), torch.randn(2, 40, 24, dtype=torch.float64, requires_grad=True)
    y = module(x)
    cotangent = torch.randn_like(y)
    kept = cotangent.clone()
    first, second = (torch.autograd.grad(y, x, cotangent, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(cotangent, kept)  # backward writes into no tensor of the caller


# The mean over the tokens removes every constant in front of it.


@pytest.mark.parametrize("order", ORDERS)
def test_a_bias_of_the_projection_counts_for_nothing(order: str) -> None:
    module, x = make(order), torch.randn(2, 60, 24, dtype=torch.float64)
    want = module(x)
    module.qkv.bias = nn.Parameter(torch.randn(72, dtype=torch.float64))
    got = module(x)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    (got * torch.randn_like(got)).sum().backward()
    assert module.qkv.bias.grad is None or module.qkv.bias.grad.abs().max() < 1e-12


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_the_shift_of_a_layer_norm_in_front_has_no_gradient(order: str, masked: bool) -> None:
    module, norm = make(order), nn.LayerNorm(24, dtype=torch.float64)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 60, 24, dtype=torch.float64) + 1
    mask = torch.arange(60).expand(2, -1) < torch.tensor([[60], [37]]) if masked else None
    y = module(norm(x), mask)
    if mask is not None:
        y = y[mask]
    (y * torch.randn_like(y)).sum().backward()
    assert norm.bias.grad.abs().max() < 1e-12
    assert norm.weight.grad.abs().max() > 1e-3


# What is kept for backward.


def kept_storages(module: nn.Module, x: Tensor) -> dict[int, int]:
    """Bytes of each storage that the graph of ``module(x)`` keeps for a tensor whose size grows with N."""
    tokens, kept = x.shape[1], dict[int, int]()

    def keep(t: Tensor) -> Tensor:
        if any(size and size % tokens == 0 for size in t.shape):  # B N too, so N must divide no other size
            kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        y = module(x)
    assert y.requires_grad
    return kept


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("tokens", [509, 8191])
def test_gram_keeps_nothing_of_the_size_of_its_input_but_that(batch: int, tokens: int) -> None:
    x = torch.randn(batch, tokens, 24, requires_grad=True).mul(1)
    kept = kept_storages(make("gram", dtype=torch.float32), x)
    assert set(kept) == {x.untyped_storage().data_ptr()}


def test_gram_with_importance_keeps_its_input_and_one_number_a_token() -> None:
    x = torch.randn(1, 8191, 24, requires_grad=True).mul(1)
    kept = kept_storages(make("gram", dtype=torch.float32, importance=4.0), x)
    assert kept.pop(x.untyped_storage().data_ptr()) == 4 * x.numel()
    assert len(kept) <= 3
    assert set(kept.values()) <= {4 * 8191}


def test_gram_under_autocast_keeps_one_narrow_copy() -> None:
    x = torch.randn(2, 509, 24, requires_grad=True).mul(1)
    with torch.autocast(torch.get_default_device().type, torch.bfloat16):
        kept = kept_storages(make("gram", dtype=torch.float32), x)
    assert list(kept.values()) == [2 * x.numel()]


@pytest.mark.parametrize(("batch", "tensors"), [(1, 5), (2, 8)])
def test_folded_keeps_few_tensors_of_the_size_of_its_input(batch: int, tensors: int) -> None:
    """The centered input, Q, K, V and O; in a batch the products copy Q, K and V."""
    x = torch.randn(batch, 509, 24, requires_grad=True).mul(1)
    kept = kept_storages(make("folded", dtype=torch.float32), x)
    assert sum(kept.values()) <= tensors * 4 * x.numel()


# Surroundings.


@pytest.mark.parametrize("order", ORDERS)
def test_autocast(order: str) -> None:
    """Products in bfloat16, gradients in the type of the parameters."""
    module, x = make(order, dtype=torch.float32), torch.randn(2, 300, 24, requires_grad=True)
    want = module.double()(x.double())
    with torch.autocast(torch.get_default_device().type, torch.bfloat16):
        y = module.float()(x)
    y.float().square().mean().backward()
    assert y.dtype == torch.bfloat16
    assert (y - want).abs().max() / want.abs().max() < 1.2e-2
    assert {p.grad.dtype for p in (x, *module.parameters())} == {torch.float32}
    assert all(p.grad.isfinite().all() for p in (x, *module.parameters()))


@pytest.mark.parametrize("order", ORDERS)
def test_inference_mode(order: str) -> None:
    module, x = make(order), torch.randn(2, 300, 24, dtype=torch.float64)
    mask = torch.arange(300).expand(2, -1) < 280
    with torch.inference_mode():
        got = module(x), module(x, mask)
        inside = module(x.clone())  # an inference tensor itself
    assert torch.equal(got[0], module(x))
    assert torch.equal(got[1], module(x, mask))
    assert torch.equal(got[0], inside)


class Checkpointed(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return checkpoint(self.module, x, mask, use_reentrant=False)


@pytest.mark.parametrize("order", ORDERS)
def test_gradient_checkpointing(order: str) -> None:
    module, x = make(order), torch.randn(2, 60, 24, dtype=torch.float64)
    mask = torch.arange(60).expand(2, -1) < 41
    value, gradients = run(Checkpointed(module), x, mask)
    assert_same((value, {n.removeprefix("module."): g for n, g in gradients.items()}), run(module, x, mask), 1e-13)


@pytest.mark.parametrize(
    "order",
    [
        "auto",  # Gram for these tokens
        "folded",
        pytest.param("gram", marks=pytest.mark.slow),
        pytest.param("literal", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_as_one_graph(order: str, backend: str) -> None:
    torch._dynamo.reset()
    module, x = make(order), torch.randn(2, 60, 24, dtype=torch.float64)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    mask = torch.arange(60).expand(2, -1) < torch.tensor([[60], [41]])
    x[1, 50] = float("nan")
    value, gradients = run(compiled, x, mask)
    gradients = {name.removeprefix("_orig_mod."): gradient for name, gradient in gradients.items()}
    assert_same((value, gradients), run(module, x, mask))


@pytest.mark.parametrize("order", FAST)
def test_compiled_under_autocast(order: str) -> None:
    torch._dynamo.reset()
    module, x = make(order, dtype=torch.float32), torch.randn(1, 60, 24)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.autocast(torch.get_default_device().type, torch.bfloat16):
        got, want = compiled(x), module(x)
    assert got.dtype == torch.bfloat16
    assert (got - want).abs().max() / want.abs().max() < 1.2e-2


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of this process alone."""
    if not (dist.is_available() and dist.is_gloo_available()) or dist.is_initialized():
        pytest.skip("needs gloo, and no process group yet")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("order", ORDERS)
def test_distributed_data_parallel(order: str) -> None:
    """Each parameter takes part in backward, or the second step would fail."""
    module, x = make(order), torch.randn(2, 60, 24, dtype=torch.float64)
    wrapped = DistributedDataParallel(module)
    want = run(module, x)
    for _ in range(2):
        value, gradients = run(wrapped, x)
        assert_same((value, {n.removeprefix("module."): g for n, g in gradients.items()}), want, 1e-13)


@pytest.mark.parametrize("order", ORDERS)
def test_pickle(order: str) -> None:
    module, x = make(order), torch.randn(2, 60, 24, dtype=torch.float64)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    for other in (pickle.loads(pickle.dumps(module)), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(x), module(x))
        other.load_state_dict({**module.state_dict(), "qkv.bias": torch.ones(72)})  # the hook came along


# Second derivatives.


@pytest.mark.parametrize("order", FAST)
@pytest.mark.parametrize("importance", [None, 2.0])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_second_derivatives(order: str, masked: bool, importance: float | None) -> None:
    """Of the input, every parameter and the cotangent, in all pairs: those of the literal order."""
    module = make("literal", 4, 2, importance=importance)
    mask = torch.arange(5).expand(2, -1) < torch.tensor([[5], [3]]) if masked else None
    names, parameters = zip(*module.named_parameters(), strict=True)
    real = 10 if mask is None else 8
    leaves = (torch.randn(2, 5, 4), *parameters, torch.randn(real, 4))
    shapes = [leaf.shape for leaf in leaves]
    point = torch.cat([leaf.detach().double().flatten() for leaf in leaves])

    def curvature(module: SeqNormAttention) -> Tensor:
        def call(point: Tensor) -> Tensor:
            parts = point.split([shape.numel() for shape in shapes])
            x, *values, cotangent = (part.view(shape) for part, shape in zip(parts, shapes, strict=True))
            y = torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x, mask))
            return ((y.flatten(0, 1) if mask is None else y[mask]) * cotangent).sum()

        return torch.autograd.functional.hessian(call, point)

    got, want = curvature(in_order(module, order)), curvature(module)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * want.abs().max().item())


@pytest.mark.parametrize("tokens", [1, 7])
def test_second_derivatives_without_any_spread_are_finite(tokens: int) -> None:
    module, x = make("literal", 4, 2), torch.ones(1, tokens, 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), x)
    assert curvature.isfinite().all()


# Masks.


@pytest.mark.parametrize("order", ORDERS)
def test_one_real_token_gives_the_shifts(order: str) -> None:
    """With one token everything centered is zero: what remains is beta_q (beta_k beta_v^T), through proj."""
    module = make(order)
    x, mask = torch.randn(3, 30, 24, dtype=torch.float64), torch.zeros(3, 30, dtype=torch.bool)
    mask[range(3), [0, 17, 29]] = True
    x[~mask] = float("nan")
    q, k, v = (norm.bias.view(3, 8) for norm in (module.q_norm, module.k_norm, module.v_norm))
    want = module.proj(((q * k).sum(1, keepdim=True) * v).flatten())
    torch.testing.assert_close(module(x, mask)[mask], want.expand(3, -1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("padding", [float("nan"), float("inf"), 1e30])
def test_the_values_of_padding_reach_no_gradient(order: str, padding: float) -> None:
    module, x = make(order), torch.randn(2, 40, 24, dtype=torch.float64)
    mask = torch.rand(2, 40) < 0.5
    clean, dirty = (torch.where(mask[..., None], x, value) for value in (0.0, padding))
    got, want = run(module, dirty, mask), run(module, clean, mask)
    assert_same(got, want, 1e-13)
    assert (got[1]["x"][~mask] == 0).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_neighbors_change_neither_value_nor_gradient(order: str, masked: bool) -> None:
    module, x = make(order, dtype=torch.float32), torch.randn(4, 65, 24)
    x[3] *= 1e6
    mask = torch.arange(65).expand(4, -1) < torch.tensor([[65], [1], [40], [65]]) if masked else None
    apart = []
    for sample in (x, x[2:3]):
        sample = sample.clone().requires_grad_()
        y = module(sample, mask if mask is None or len(sample) == 4 else mask[2:3])[-2 if len(sample) == 4 else 0]
        (y if mask is None else y[:40]).square().sum().backward()
        apart.append((y.detach()[:40], sample.grad[-2 if len(sample) == 4 else 0]))
        assert len(sample) == 1 or (sample.grad[[0, 1, 3]] == 0).all()
    for together, alone in zip(*apart, strict=True):
        assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()
