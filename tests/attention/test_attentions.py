"""Every attention method against a plain float64 reference, and what all of them promise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import timm
import torch
from torch import Tensor, nn

from softfree.attention import ATTENTIONS, Attention, create_attention
from softfree.errors import UserError

Parameters = dict[str, Tensor]
NAMES = list(ATTENTIONS)
# A name, and where a method has several orders of evaluation, each by itself.
FORMS = [*NAMES, "seqnorm literal", "seqnorm folded", "seqnorm gram"]


def softmax(q: Tensor, k: Tensor, v: Tensor, _: Parameters) -> Tensor:
    scores = (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).exp()
    return (scores / scores.sum(3, keepdim=True)) @ v


def seqnorm(q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    def normalise(t: Tensor, norm: str) -> Tensor:
        mean = t.mean(2, keepdim=True)
        deviation = torch.sqrt(((t - mean) ** 2).mean(2, keepdim=True) + 1e-5)
        gamma, beta = (parameters[f"{norm}.{part}"].view(t.shape[1], 1, t.shape[3]) for part in ("weight", "bias"))
        return gamma * (t - mean) / deviation + beta

    q, k, v = normalise(q, "q_norm"), normalise(k, "k_norm"), normalise(v, "v_norm")
    return q @ (k.transpose(2, 3) @ v) / q.shape[2]


def sima(q: Tensor, k: Tensor, v: Tensor, _: Parameters) -> Tensor:
    q, k = (t / t.abs().sum(2, keepdim=True).clamp(min=1e-6) for t in (q, k))
    return q @ (k.transpose(2, 3) @ v)


def soft(q: Tensor, _: Tensor, v: Tensor, __: Parameters, normalised: bool = False) -> Tensor:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a.unsqueeze(3) - b.unsqueeze(2)).square().sum(4) / (2 * math.sqrt(q.shape[3]))).exp()

    tokens, number = q.shape[2], min(49, q.shape[2])
    windows = [[n for n in range(tokens) if n * number // tokens == m] for m in range(number)]
    landmarks = torch.stack([q[:, :, window].mean(2) for window in windows], dim=2)
    a, p = kernel(landmarks, landmarks), kernel(landmarks, q)
    inverse = torch.linalg.inv(a + RIDGE * torch.eye(number, dtype=a.dtype))
    if normalised:
        d = torch.diag_embed(a.sum(3).rsqrt())
        inverse = d @ inverse @ d
    return p.transpose(2, 3) @ (inverse @ (p @ v))


def soft_norm(q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    return soft(q, k, v, parameters, normalised=True)


def performer(q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    def features(t: Tensor, axes: tuple[int, ...]) -> Tensor:
        t = t / t.shape[3] ** 0.25
        scores = t @ parameters["projection"].T
        largest = scores.detach().amax(axes, keepdim=True)
        return (scores - (t**2).sum(3, keepdim=True) / 2 - largest).exp() + 1e-4

    q, k = features(q, (3,)), features(k, (2, 3))
    return q @ (k.transpose(2, 3) @ v) / (q * k.sum(2, keepdim=True)).sum(3, keepdim=True)


def linformer(q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    tokens, places = q.shape[2], 14 * 14
    sampled = torch.zeros(tokens, places, dtype=q.dtype)
    for token in range(tokens):
        at = min(max((token + 0.5) * places / tokens - 0.5, 0), places - 1)
        for place in (math.floor(at), math.ceil(at)):
            sampled[token, place] = (1 - abs(at - place)) * places / tokens
    k, v = parameters["k_maps"] @ (sampled.T @ k), parameters["v_maps"] @ (sampled.T @ v)
    return (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3) @ v


def nystromformer(q: Tensor, k: Tensor, v: Tensor, _: Parameters) -> Tensor:
    tokens, number = q.shape[2], min(49, q.shape[2])
    windows = [[n for n in range(tokens) if n * number // tokens == m] for m in range(number)]
    q_means, k_means = (torch.stack([t[:, :, window].mean(2) for window in windows], dim=2) for t in (q, k))
    first, middle, last = (
        (a @ b.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(3)
        for a, b in ((q, k_means), (q_means, k_means), (q_means, k))
    )
    one = torch.eye(number, dtype=q.dtype)
    z = middle.transpose(2, 3) / (middle.sum(2).amax(2) * middle.sum(3).amax(2))[..., None, None]
    for _step in range(6):
        z = z @ (13 * one - middle @ z @ (15 * one - middle @ z @ (7 * one - middle @ z))) / 4
    return first @ (z @ (last @ v))


def galerkin(q: Tensor, k: Tensor, v: Tensor, parameters: Parameters) -> Tensor:
    def normalise(t: Tensor, norm: str) -> Tensor:
        mean = t.mean(3, keepdim=True)
        deviation = torch.sqrt(((t - mean) ** 2).mean(3, keepdim=True) + 1e-5)
        gamma, beta = (parameters[f"{norm}.{part}"].view(t.shape[1], 1, t.shape[3]) for part in ("weight", "bias"))
        return gamma * (t - mean) / deviation + beta

    return q @ (normalise(k, "k_norm").transpose(2, 3) @ normalise(v, "v_norm")) / q.shape[2]


REFERENCES: dict[str, Callable[..., Tensor]] = {
    "softmax": softmax,
    "seqnorm": seqnorm,
    "sima": sima,
    "soft": soft,
    "soft_norm": soft_norm,
    "performer": performer,
    "linformer": linformer,
    "nystromformer": nystromformer,
    "galerkin": galerkin,
}
# With a ridge the landmarks' kernel has one inverse, which all digits can be compared with.
RIDGE = 0.1
OPTIONS: dict[str, dict[str, object]] = {name: {"ridge": RIDGE, "iterations": 40} for name in ("soft", "soft_norm")}
# What looks at the order of the tokens.
ORDERED = ("soft", "soft_norm", "linformer", "nystromformer")


def reference(name: str, x: Tensor, parameters: Parameters, num_heads: int = 3) -> Tensor:
    """The whole module, (B, N, C) to (B, N, C): projection, heads, formula, output projection."""
    batch, tokens, width = x.shape
    qkv = x @ parameters["qkv.weight"].T
    if "qkv.bias" in parameters:
        qkv = qkv + parameters["qkv.bias"]
    heads = [t.reshape(batch, tokens, num_heads, -1).permute(0, 2, 1, 3) for t in qkv.split(width, dim=2)]
    out = (
        REFERENCES[name.split()[0]](heads[0], heads[-2], heads[-1], parameters)
        .permute(0, 2, 1, 3)
        .reshape(batch, tokens, width)
    )
    return out @ parameters["proj.weight"].T + parameters["proj.bias"]


def make(form: str, dim: int = 24, num_heads: int = 3, **options: object) -> Attention:
    """A module whose parameters are all random, so that none hides behind a zero or a one."""
    name, *order = form.split()
    options = {"qkv_bias": True, "dtype": torch.float64, **OPTIONS.get(name, {}), **options}
    options |= {"order": order[0]} if order else {}
    module = create_attention(name, dim, num_heads, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape) / math.sqrt(parameter.shape[-1]))
    return module


def leaves(module: nn.Module) -> Parameters:
    parameters = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
    return {**dict(module.named_buffers()), **parameters}


def padded_batch() -> tuple[Tensor, Tensor]:
    """Three samples of 40, 17 and 1 real tokens at random places; NaN and infinity elsewhere."""
    mask = torch.zeros(3, 40, dtype=torch.bool)
    for row, real in enumerate((40, 17, 1)):
        mask[row, torch.randperm(40)[:real]] = True
    x = torch.randn(3, 40, 24, dtype=torch.float64) + 1
    x[1, ~mask[1]] = float("inf")
    x[2, ~mask[2]] = float("nan")
    return x, mask


def assert_same(got: Tensor, want: Tensor, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance * max(1.0, want.abs().max().item()))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Iterator[str]:
    return request.param


def test_each_method_has_a_reference() -> None:
    assert set(REFERENCES) == set(ATTENTIONS)


@pytest.mark.parametrize("tokens", [1, 2, 63, 197, 1000, 4096])
def test_values_and_gradients(form: str, tokens: int) -> None:
    if form == "softmax" and tokens > 1000:
        pytest.skip("N x N in float64 takes 20 s, and its kernel is torch's")
    module = make(form)
    mine = torch.randn(2, tokens, 24, dtype=torch.float64).add(1).requires_grad_()
    theirs, parameters = mine.detach().clone().requires_grad_(), leaves(module)
    got, want = module(mine), reference(form, theirs, parameters)
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
    want = torch.cat([reference(form, theirs[row, mask[row]][None], parameters)[0] for row in range(len(x))])
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


def test_neighbours_in_the_batch_change_nothing(form: str) -> None:
    module, x = make(form), torch.randn(4, 65, 24, dtype=torch.float64)
    assert_same(module(x)[2:3], module(x[2:3]))


def test_permuted_tokens_give_permuted_results(form: str) -> None:
    if form in ORDERED:
        pytest.skip("its landmarks or maps have places")
    module, x, order = make(form), torch.randn(2, 65, 24, dtype=torch.float64), torch.randperm(65)
    assert_same(module(x[:, order]), module(x)[:, order])


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_picture(form: str, value: float) -> None:
    module = make(form, qkv_bias=False, dtype=torch.float32)
    x = torch.full((2, 30, 24), value, requires_grad=True)
    module(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "pure"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)], ids=["bf16", "fp16"])
def test_half_precision(form: str, dtype: torch.dtype, tolerance: float, autocast: bool) -> None:
    """Long sequences whose K and V coincide: no sum overflows, no 1 / N vanishes, errors are those of the type."""
    tokens = 2048 if form == "softmax" else 65_536  # softmax would take minutes
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
    x = (torch.randn(1, tokens, 16) + mean).to(dtype).requires_grad_()
    parameters = {key: t.detach().double() for key, t in module.state_dict().items()}
    want = reference(form, x.detach().double(), parameters, num_heads=2)
    if autocast:
        module.float()
        x = x.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=autocast):
        got = module(x)
    assert got.dtype == dtype
    error = (got.double() - want).abs().max() / want.abs().max()
    assert error < tolerance
    (got.float() / want.abs().max()).square().mean().backward()  # SOFT's are of size N
    assert x.grad.isfinite().all()
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
    module, free = make(form), torch.export.Dim.DYNAMIC
    example = (torch.randn(2, 40, 24, dtype=torch.float64), torch.ones(2, 40, dtype=torch.bool))
    program = torch.export.export(module, example, dynamic_shapes={"x": {1: free}, "attn_mask": {1: free}})
    for tokens in (5, 111):
        x, mask = torch.randn(2, tokens, 24, dtype=torch.float64), torch.arange(tokens).expand(2, -1) < tokens - 2
        assert_same(program.module()(x, mask), module(x, mask))


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
    mixed = reference(name, x, bare)
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
def test_options_that_cannot_be_honoured(name: str, options: dict[str, object], message: str) -> None:
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
