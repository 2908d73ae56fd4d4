"""Every attention method against a plain float64 reference, and what all of them promise."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import timm
import torch
from tests.attention.references import (
    FORMS,
    NAMES,
    ORDERED,
    assert_same,
    leaves,
    make,
    padded_batch,
    reference,
)
from torch import Tensor

from softfree.attention import ATTENTIONS, create_attention
from softfree_runtime.core.errors import UserError


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param


@pytest.mark.parametrize("tokens", [1, 2, 63, 197, 1000, 4096])
def test_values_and_gradients(form: str, tokens: int) -> None:
    if form == "softmax" and tokens > 1000:
        pytest.skip("N x N in float64 takes 20 s, and its kernel is torch's")
    module = make(form)
    mine = torch.randn(2, tokens, 24, dtype=torch.float64).add(1).requires_grad_()
    theirs, parameters = mine.detach().clone().requires_grad_(), leaves(module)
    got, want = module(mine), reference(module, theirs, parameters)
    assert_same(got, want)
    weights = torch.randn_like(want)
    (got * weights).sum().backward()
    (want * weights).sum().backward()
    assert_same(mine.grad, theirs.grad)
    for key, parameter in module.named_parameters():
        assert_same(parameter.grad, parameters[key].grad)


def test_padding_changes_nothing(form: str) -> None:
    """Values and gradients of real tokens are those of each sample alone, without its padding."""
    module = make(form)
    x, mask = padded_batch()
    mine, theirs, parameters = x.clone().requires_grad_(), x.clone().requires_grad_(), leaves(module)
    got = module(mine, attn_mask=mask)
    want = torch.cat([reference(module, theirs[row, mask[row]][None], parameters)[0] for row in range(len(x))])
    assert_same(got[mask], want)
    weights = torch.randn_like(want)
    (got[mask] * weights).sum().backward()
    (want * weights).sum().backward()
    assert_same(mine.grad[mask], theirs.grad[mask])
    assert (mine.grad[~mask] == 0).all()
    for key, parameter in module.named_parameters():
        assert_same(parameter.grad, parameters[key].grad)


def test_full_mask_is_no_mask(form: str) -> None:
    module, x = make(form), torch.randn(2, 50, 24, dtype=torch.float64)
    assert_same(module(x, torch.ones(2, 50, dtype=torch.bool)), module(x))


def test_a_sample_of_padding_only_is_finite(form: str) -> None:
    module, x = make(form), torch.randn(2, 9, 24, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True] * 9, [False] * 9])
    out = module(x, mask)
    out.sum().backward()
    assert out.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


def test_neighbors_in_the_batch_change_nothing(form: str) -> None:
    module, x = make(form), torch.randn(4, 65, 24, dtype=torch.float64)
    assert_same(module(x)[2:3], module(x[2:3]))


def test_permuted_tokens_give_permuted_results(form: str) -> None:
    if form in ORDERED:
        pytest.skip("its landmarks or maps have positions")
    module, x, order = make(form), torch.randn(2, 65, 24, dtype=torch.float64), torch.randperm(65)
    assert_same(module(x[:, order]), module(x)[:, order])


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_image(form: str, value: float) -> None:
    module = make(form, qkv_bias=False, dtype=torch.float32)
    x = torch.full((2, 30, 24), value, requires_grad=True)
    module(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)], ids=["bf16", "fp16"])
def test_half_precision(form: str, dtype: torch.dtype, tolerance: float) -> None:
    """Long sequences whose K and V coincide: no sum overflows, no 1 / N vanishes, errors are those of the type.

    All in the type, and under autocast.
    """
    tokens = 65_536 if dtype == torch.float16 else 16_384  # sums beyond float16, and beyond what bfloat16 can count
    tokens = 2048 if form == "softmax" else tokens  # it would take minutes
    module = make(form, dim=16, num_heads=2, dtype=dtype)
    with torch.no_grad():
        module.proj.bias.zero_()
        module.qkv.weight[-16:] = module.qkv.weight[-32:-16]
        for part in ("k_norm", "v_norm"):
            if form.startswith("seqnorm"):
                module.get_submodule(part).weight.fill_(2)
    # A mean is hard for SeqNorm's statistics, and its absence for SimA's 1 / N; SOFT's sum of it would be beyond fp16,
    # and Performer's features would be lost in its eps.
    mean = 0 if form in ("sima", "soft", "soft_norm", "performer") else 4
    x = (torch.randn(1, tokens, 16) + mean).to(dtype)
    parameters = {key: t.detach().double() for key, t in module.state_dict().items()}
    want = reference(module, x.double(), parameters)
    for autocast in (False, True):
        module.to(torch.float32 if autocast else dtype).zero_grad()
        leaf = (x.float() if autocast else x).clone().requires_grad_()
        with torch.autocast(torch.get_default_device().type, dtype, enabled=autocast):
            got = module(leaf)
        assert got.dtype == dtype
        error = (got.double() - want).abs().max() / want.abs().max()
        assert error < tolerance, f"autocast {autocast}"
        (got.float() / want.abs().max()).square().mean().backward()  # SOFT's are of size N
        assert leaf.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in module.parameters())


def test_state_dict_round_trip(name: str) -> None:
    module, other, x = make(name), make(name), torch.randn(1, 20, 24, dtype=torch.float64)
    assert not torch.equal(module(x), other(x))
    assert not any(other.load_state_dict(module.state_dict()))
    assert torch.equal(module(x), other(x))


def test_deep_copy(form: str) -> None:
    module, x = make(form), torch.randn(1, 20, 24, dtype=torch.float64)
    other = copy.deepcopy(module)
    assert torch.equal(module(x), other(x))
    with torch.no_grad():
        other.qkv.weight.mul_(0)
    other.load_state_dict(module.state_dict())
    assert torch.equal(module(x), other(x))


def test_export_keeps_the_number_of_tokens_free(form: str) -> None:
    # Each step of an iteration is exported: few are needed where the landmarks' kernel is well-conditioned.
    steps = {"soft": {"ridge": 100.0, "iterations": 6}, "nystromformer": {"iterations": 2}}
    options = steps.get(form.removesuffix("_norm"), {})
    module, free = make(form, **options), torch.export.Dim.DYNAMIC
    example = (torch.randn(2, 40, 24, dtype=torch.float64), torch.ones(2, 40, dtype=torch.bool))
    program = torch.export.export(module, example, dynamic_shapes={"x": {1: free}, "attn_mask": {1: free}})
    for tokens in (5, 111):
        x, mask = torch.randn(2, tokens, 24, dtype=torch.float64), torch.arange(tokens).expand(2, -1) < tokens - 2
        assert_same(program.module()(x, mask), module(x, mask))


@pytest.mark.parametrize(
    "form",
    [pytest.param(f, marks=[] if f == "seqnorm" else [pytest.mark.slow]) for f in FORMS],
)
def test_training_compiled_for_any_grid(form: str) -> None:
    """The second size makes the graph of any size; another follows without a new one."""
    torch._dynamo.reset()
    module = make(form)
    compiled = torch.compile(module, backend="aot_eager")
    for grid in ((4, 5), (6, 7), (3, 9)):
        x = torch.randn(2, grid[0] * grid[1], 24, dtype=torch.float64)
        slopes = []
        for run in (compiled, module):
            module.zero_grad()
            leaf = x.clone().requires_grad_()
            y = run(leaf, grid=grid)
            y.square().sum().backward()
            slopes.append([y, leaf.grad, *(p.grad for p in module.parameters())])
        for got, want in zip(*slopes, strict=True):
            assert_same(got, want, 1e-9)


@pytest.mark.slow
def test_compiled(form: str) -> None:
    module = make(form)
    compiled = torch.compile(module)
    for tokens in (5, 40, 111):
        x = torch.randn(2, tokens, 24, dtype=torch.float64)
        assert_same(compiled(x), module(x))


def test_in_the_vision_transformer_of_timm(name: str) -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", attn_layer=ATTENTIONS[name], depth=2, img_size=64, num_classes=5, proj_drop_rate=0.1
    )
    assert type(model.blocks[0].attn) is ATTENTIONS[name]
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_timm_loads_its_names(name: str) -> None:
    """qkv and proj are where timm has them, and with equal shapes."""
    theirs = timm.create_model("vit_tiny_patch16_224", depth=1).blocks[0].attn.state_dict()
    module, weight = create_attention(name, 192, 3, qkv_bias=True), theirs["qkv.weight"]
    unfit = module.load_state_dict(theirs, strict=False)
    assert not unfit.unexpected_keys
    own = ("q_norm", "k_norm", "v_norm", "k_maps", "v_maps", "projection", "clock")
    assert all(key.split(".")[0] in own for key in unfit.missing_keys)
    first, last = slice(192), slice(-192, None)  # all three, or without the keys
    assert torch.equal(module.qkv.weight[first], weight[first])
    assert torch.equal(module.qkv.weight[last], weight[last])


def test_result_norm(name: str) -> None:
    module = make(name, scale_norm=True)
    x = torch.randn(2, 12, 24, dtype=torch.float64)
    parameters = leaves(module)
    bare = {**parameters, "proj.weight": torch.eye(24, dtype=x.dtype), "proj.bias": torch.zeros(24, dtype=x.dtype)}
    mixed = reference(module, x, bare)
    normed = (mixed - mixed.mean(-1, keepdim=True)) / (mixed.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    normed = normed * parameters["norm.weight"] + parameters["norm.bias"]
    assert_same(module(x), normed @ parameters["proj.weight"].T + parameters["proj.bias"])


@pytest.mark.parametrize("options", [{"depth": 3}, {"gated": False}, {"attn_head_dim": None}, {"qk_norm": True}])
def test_options_of_other_timm_releases(name: str, options: dict[str, object]) -> None:
    create_attention(name, 24, 3, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gated": True}, "Unknown option of .*Attention: 'gated'"),
        ({"proj_drp": 0.1}, "did you mean proj_drop"),
        ({"dim": 25}, "25 for 3 heads"),
        ({"num_heads": 0}, "0 heads"),
    ],
)
def test_options_that_cannot_be_honored(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_attention(name, **{"dim": 24, "num_heads": 3, **options})


@pytest.mark.parametrize("name", [name for name in NAMES if name != "softmax"])
def test_no_weights_to_drop(name: str) -> None:
    with pytest.raises(UserError, match="use proj_drop"):
        create_attention(name, 24, 3, attn_drop=0.1)


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="Unknown attention 'seqnrom': did you mean seqnorm"):
        create_attention("seqnrom", 24, 3)


@pytest.mark.parametrize("mask", [torch.ones(2, 12), torch.ones(12, 12, dtype=torch.bool), torch.ones(2, 1, 12) > 0])
def test_mask_of_another_kind(name: str, mask: Tensor) -> None:
    with pytest.raises(UserError, match="expected a boolean"):
        make(name)(torch.randn(2, 12, 24, dtype=torch.float64), mask)


def test_causal(name: str) -> None:
    with pytest.raises(UserError, match="is_causal"):
        make(name)(torch.randn(2, 12, 24, dtype=torch.float64), is_causal=True)
