"""Activations without erf and exp, in every way that a block's MLP is computed; chunks give what the whole gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from softfree.models import BagTransformer, VisionTransformer, VolumeTransformer, create_model, load_inflated
from softfree.models.layers import ACTS, PART, ReluSquared, act_layer, apply_in_chunks
from softfree_runtime.core.errors import UserError

SMALL: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
FLAT: dict[str, Any] = SMALL | {"img_size": 32, "patch_size": 8}
TRANSCENDENT = {"Erf", "Exp", "Gelu", "Tanh", "Sigmoid", "Softmax", "Pow", "Log"}


def started(model: nn.Module) -> nn.Module:
    """Random weights, none of which is zero or one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def relu2(x: Tensor) -> Tensor:
    return torch.where(x > 0, x**2, 0)


def hardswish(x: Tensor) -> Tensor:
    return x * (x + 3).clamp(0, 6) / 6


@pytest.mark.parametrize(("name", "formula"), [("relu2", relu2), ("hardswish", hardswish)])
def test_values_and_gradients(name: str, formula: Any) -> None:
    x = torch.tensor([-5, -3.5, -1, -0.25, 0.25, 1, 2.9, 3.1, 5], dtype=torch.float64, requires_grad=True)
    got, want = act_layer(name)()(x), formula(x)
    torch.testing.assert_close(got, want, rtol=1e-14, atol=0)
    (gradient,) = torch.autograd.grad(got.cumsum(0).sum(), x)
    torch.testing.assert_close(gradient, torch.autograd.grad(want.cumsum(0).sum(), x)[0], rtol=1e-14, atol=0)
    assert torch.autograd.gradcheck(act_layer(name)(), x)


def test_relu2_leaves_its_input() -> None:
    x = torch.tensor([-1.0, 2.0])
    assert ReluSquared()(x).tolist() == [0, 4]
    assert x.tolist() == [-1, 2]


def test_the_default_is_what_it_was() -> None:
    torch.manual_seed(0)
    before = VisionTransformer(**FLAT)
    torch.manual_seed(0)
    named = VisionTransformer(**FLAT, act="gelu")
    other = VisionTransformer(**FLAT, act="relu2")
    assert isinstance(before.blocks[0].mlp.act, nn.GELU)
    assert before.state_dict().keys() == other.state_dict().keys()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(before(x), named(x))
    other.load_state_dict(before.state_dict())
    assert not torch.allclose(before(x), other(x))


@pytest.mark.parametrize("act", ACTS)
def test_every_kind_of_model_takes_it(act: str) -> None:
    for name in ("seqnorm_vit_nano_patch16", "softmax_vit3d_nano", "sima_bag_nano"):
        model = create_model(name, act=act, depth=2)
        assert [type(block.mlp.act) for block in model.blocks] == [ACTS[act]] * 2


def test_an_unknown_one_is_told() -> None:
    with pytest.raises(UserError, match=r"'relu3'.*relu2"):
        BagTransformer(**SMALL, in_features=8, act="relu3")


def test_the_block_computes_it() -> None:
    model = started(VisionTransformer(**FLAT, act="relu2")).double()
    block = model.blocks[0]
    x = torch.randn(2, 16, 24, dtype=torch.float64)
    y = x + block.attn(block.norm1(x))
    want = y + block.mlp.fc2(relu2(block.mlp.fc1(block.norm2(y))))
    torch.testing.assert_close(block(x), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("attention", ["seqnorm", "sima"])
@pytest.mark.parametrize("act", ["relu2", "hardswish"])
def test_a_stream_computes_it(act: str, attention: str) -> None:
    from softfree.streaming import Streaming, streamed

    model = started(VisionTransformer(**FLAT, attention=attention, act=act)).double()
    x = torch.randn(1, 3, 30, 27, dtype=torch.float64)  # 4 x 4 tokens
    results: list[dict[str, Tensor]] = []
    for logits in (model(x), streamed(model, x, Streaming(chunk=7))):
        model.zero_grad()
        logits.cumsum(1).square().sum().backward()
        results.append({"logits": logits.detach()} | {n: p.grad.clone() for n, p in model.named_parameters()})
    for name, want in results[0].items():
        torch.testing.assert_close(results[1][name], want, rtol=1e-8, atol=1e-10 * float(want.abs().max()) + 1e-12)


def test_inflated_weights_give_the_logits_of_the_image(tmp_path: Path) -> None:
    flat = started(VisionTransformer(**FLAT, act="relu2", in_chans=1)).double()
    save_file(flat.state_dict(), tmp_path / "weights.safetensors")
    deep = VolumeTransformer(
        **SMALL, img_size=(8, 32, 32), patch_size=(2, 8, 8), in_chans=1, pos="learn", act="relu2"
    ).double()
    load_inflated(deep.eval(), tmp_path / "weights.safetensors")
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    volume = x.unsqueeze(2).expand(-1, -1, 8, -1, -1)
    torch.testing.assert_close(deep(volume), flat(x), rtol=1e-9, atol=1e-9)


@pytest.fixture
def branch() -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)).double()


@pytest.mark.parametrize("chunk", [None, 1, 7, 30, 60, 1000])
def test_chunks_give_the_whole(branch: nn.Sequential, chunk: int | None) -> None:
    x = torch.randn(2, 30, 8, dtype=torch.float64, requires_grad=True)
    want = branch(x)
    (want_x, *want_p) = torch.autograd.grad(want.square().sum(), [x, *branch.parameters()])
    got = apply_in_chunks(branch, x, 32, chunk)
    (got_x, *got_p) = torch.autograd.grad(got.square().sum(), [x, *branch.parameters()])
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got_x, want_x)
    torch.testing.assert_close(got_p, want_p)
    with torch.no_grad():
        torch.testing.assert_close(apply_in_chunks(branch, x, 32, chunk), want)


def test_only_the_tokens_are_kept_for_backward(branch: nn.Sequential) -> None:
    kept: list[Tensor] = []
    x = torch.randn(1, 1000, 8, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        apply_in_chunks(branch, x, 32, 100)
    assert max(t.untyped_storage().nbytes() for t in kept) == x.nbytes
    assert {t.untyped_storage().data_ptr() for t in kept if t.shape[-2:] != (32, 8)} >= {x.data_ptr()}
    assert not [t for t in kept if t.shape[-1] == 32 and t.ndim == 3]


def test_inference_chunks_fit_the_cache() -> None:
    sizes: list[int] = []

    def double(part: Tensor) -> Tensor:
        sizes.append(part.shape[1])
        return part * 2

    x = torch.randn(3, 1000, 4)
    with torch.no_grad():
        assert torch.equal(apply_in_chunks(double, x, PART // 700), x * 2)
    assert len(sizes) == 5
    assert max(sizes) * (PART // 700) <= PART
    assert sum(sizes) == 3000


def test_recomputed_dropout_is_the_same() -> None:
    branch = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).double()
    x = torch.eye(8, dtype=torch.float64).repeat(4, 1)[None].requires_grad_()
    out = apply_in_chunks(branch, x, 8, 5)
    (out.sum()).backward()
    assert x.grad is not None
    zero = (out == 0).all(-1)
    kept = (out != 0).double() * 2
    torch.testing.assert_close(x.grad, kept @ branch[0].weight)
    assert not zero.all()
