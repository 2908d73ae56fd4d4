"""A streamed model against the same model in memory: logits, and the gradient of every parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from softfree.models import VisionTransformer
from softfree.models.pooling import POOLINGS
from softfree.streaming import StreamedModel, Streaming, can_stream, stream_backward, stream_forward, streamed
from softfree_runtime.core.errors import UserError

Make = Callable[..., VisionTransformer]
GradientsOf = Callable[[nn.Module, Tensor], dict[str, Tensor]]

MODELS: dict[str, dict[str, Any]] = {
    "seqnorm": {},
    "seqnorm token": {"pool": "token"},
    "seqnorm avg with class token": {"class_token": True, "pos": "none"},
    "seqnorm qk": {"attention_options": {"normalized": "qk", "init": "first_order"}, "layer_scale": 0.5},
    "seqnorm weighted": {"attention_options": {"importance": 4.0}},
    "seqnorm weighted token": {"attention_options": {"importance": 4.0}, "pool": "token", "stem": "conv"},
    "seqnorm sincos": {"pos": "sincos"},
    "seqnorm conv": {"stem": "conv", "pos": "none"},
    "seqnorm pool": {"stem": "pool"},
    "seqnorm mlp_chunk": {"mlp_chunk": 10},
    "sima": {"attention": "sima"},
    "sima token": {"attention": "sima", "pool": "token", "layer_scale": 0.5},
    "galerkin": {"attention": "galerkin", "pos": "sincos"},
    "galerkin token": {"attention": "galerkin", "pool": "token", "stem": "conv"},
    "one layer": {"depth": 1, "pool": "token"},
    "features": {"num_classes": 0},
    "topk": {"pool": "topk", "pool_options": {"one_in": 5}},
    "topk class token": {"pool": "topk", "class_token": True, "attention": "sima"},
    "topk features": {"pool": "topk", "num_classes": 0},
    "mean_topk": {"pool": "mean_topk", "pool_options": {"one_in": 3}, "stem": "conv", "pos": "none"},
}


def relative(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max().clamp(min=1e-30))


def check(
    got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float, precise: dict[str, Tensor] | None = None
) -> None:
    """Compare gradients: where terms cancel, those in memory are no better than twice as near to the precise ones."""
    assert got.keys() == want.keys()
    largest = max(float(grad.abs().max()) for grad in want.values())
    for name, grad in (precise or want).items():
        size = float(grad.abs().max())
        # SeqNorm's mean removes some biases: their gradient is zero by nature, and rounding is all there is to see.
        scale = size if size > 1e-6 * largest else largest
        rounding = float((want[name] - grad).abs().max())
        assert float((got[name] - grad).abs().max()) < max(tolerance * scale, 2 * rounding), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", MODELS)
def test_as_in_memory(name: str, dtype: torch.dtype, make_model: Make, gradients_of: GradientsOf) -> None:
    model = make_model(**MODELS[name]).to(dtype)
    x = torch.randn(1, 3, 23, 22, dtype=dtype)  # 6 x 6 tokens, the last row and column padded
    tolerance = 1e-5 if dtype == torch.float32 else 1e-9
    logits = model(x)
    want = gradients_of(model, logits)
    exact = copy.deepcopy(model).double()
    precise = gradients_of(exact, exact(x.double()))
    for chunk in (100, 13, 1) if dtype == torch.float64 else (13,):  # the parts are the same in both
        streaming = Streaming(chunk=chunk)
        assert relative(stream_forward(model, x, streaming), logits.detach()) < tolerance
        got = streamed(model, x, streaming)
        assert relative(got.detach(), logits.detach()) < tolerance
        check(gradients_of(model, got), want, tolerance, precise)


@pytest.mark.parametrize("pos", ["learn", "sincos"])
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_resized_positions(pos: str, pool: str, make_model: Make, gradients_of: GradientsOf) -> None:
    model, x = make_model(pos=pos, pool=pool), torch.randn(1, 3, 40, 12)  # 10 x 3 tokens from 6 x 6
    want = model(x)
    got = streamed(model, x, Streaming(chunk=7))
    assert relative(got.detach(), want.detach()) < 1e-5
    check(gradients_of(model, got), gradients_of(model, want), 1e-5)


@pytest.mark.parametrize("stem", ["patch", "conv", "pool"])
@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("attention", ["seqnorm", "sima", "galerkin"])
def test_masks(attention: str, pool: str, stem: str, make_model: Make, gradients_of: GradientsOf) -> None:
    model = make_model(attention=attention, pool=pool, stem=stem).double()
    x = torch.randn(1, 3, 24, 24, dtype=torch.float64)
    mask = torch.rand(1, 36) < 0.5
    mask[0, 12:18] = False  # a whole band
    want = model(x, mask)
    got = streamed(model, x, Streaming(chunk=6), mask)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    check(gradients_of(model, got), gradients_of(model, want), 1e-8)


@pytest.mark.parametrize("pool", ["topk", "mean_topk"])
def test_masks_of_heads(pool: str, make_model: Make, gradients_of: GradientsOf) -> None:
    test_masks("seqnorm", pool, "patch", make_model, gradients_of)


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("pool", POOLINGS)
def test_no_real_token(pool: str, class_token: bool, make_model: Make) -> None:
    model = make_model(pool=pool, class_token=class_token or pool == "token")
    x, mask = torch.randn(1, 3, 24, 24), torch.zeros(1, 36, dtype=torch.bool)
    got = streamed(model, x, mask=mask)
    torch.testing.assert_close(got, model(x, mask), rtol=1e-5, atol=1e-5)
    got.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_store_on_disk_gives_the_same(make_model: Make, gradients_of: GradientsOf, tmp_path: Path) -> None:
    model, x = make_model(), torch.randn(1, 3, 24, 24)
    for dtype in (None, torch.bfloat16):
        ram = streamed(model, x, Streaming("ram", dtype, chunk=7))
        disk = streamed(model, x, Streaming(tmp_path / "tokens", dtype, chunk=7))
        assert torch.equal(ram, disk)
        in_ram, on_disk = gradients_of(model, ram), gradients_of(model, disk)
        assert all(torch.equal(in_ram[name], on_disk[name]) for name in in_ram)
        assert torch.equal(
            stream_forward(model, x, Streaming("ram", dtype, chunk=7)),
            stream_forward(model, x, Streaming(tmp_path, dtype, chunk=7)),
        )
    assert not list(tmp_path.rglob("*token*/*"))


def errors(model: nn.Module, run: Callable[[], Tensor], gradients_of: GradientsOf, exact: dict[str, Tensor]) -> Tensor:
    got = gradients_of(model, run())
    return torch.stack([(got[name].double() - want).norm() / want.norm() for name, want in exact.items()])


@pytest.mark.parametrize("pos", ["learn", "none"])
@pytest.mark.parametrize("attention", ["seqnorm", "sima", "galerkin"])
def test_autocast_is_as_exact_as_in_memory(
    attention: str, pos: str, make_model: Make, gradients_of: GradientsOf
) -> None:
    """The residual stream in float32 (as positions are) and in bfloat16, kept in its own type and rounded.

    The rounding of a few logits moves all gradients alike, so that one draw may be three times as lucky as another.
    """
    ways = (None, Streaming(chunk=100), Streaming(dtype=torch.bfloat16, chunk=100))
    results: dict[Streaming | None, list[Tensor]] = {way: [] for way in ways}
    for _ in range(4):
        model, x = make_model(attention=attention, pos=pos, img_size=64), torch.randn(1, 3, 64, 64)
        exact = gradients_of(model.double(), model(x.double()))
        exact = {name: want for name, want in exact.items() if want.norm() > 1e-9}  # not norm1.bias of SeqNorm
        model.float()

        def run(way: Streaming | None, model: VisionTransformer = model, x: Tensor = x) -> Tensor:
            with torch.autocast(torch.get_default_device().type, torch.bfloat16):
                return model(x) if way is None else streamed(model, x, way)

        for way in ways:
            results[way].append(errors(model, partial(run, way), gradients_of, exact))
    in_memory, *as_streams = (torch.stack(results[way]) for way in ways)
    for as_stream in as_streams:
        assert as_stream.mean() < 2 * in_memory.mean()
        assert as_stream.max() < 3 * in_memory.max()


def test_autocast_leaves_no_cast_weights_behind(make_model: Make, gradients_of: GradientsOf) -> None:
    """Casts made without a graph must not serve the model afterwards."""
    model, x = make_model(), torch.randn(1, 3, 24, 24)
    with torch.autocast(torch.get_default_device().type, torch.bfloat16):
        stream_forward(model, x)
        after = model(x)
    assert gradients_of(model, after)["blocks.0.mlp.fc1.weight"].count_nonzero() > 0


def test_weights_in_half(make_model: Make, gradients_of: GradientsOf) -> None:
    model, x = make_model(img_size=64), torch.randn(1, 3, 64, 64)
    exact = model(x).detach()
    model.bfloat16()
    want, got = model(x.bfloat16()), streamed(model, x.bfloat16(), Streaming(chunk=50))
    assert got.dtype == torch.bfloat16
    assert relative(got.detach().float(), exact) < max(0.02, 2 * relative(want.detach().float(), exact))
    assert all(grad.dtype == torch.bfloat16 for grad in gradients_of(model, got).values())


def test_stochastic_depth_draws_as_the_model_does(make_model: Make, gradients_of: GradientsOf) -> None:
    model, x = make_model(drop_path_rate=0.6, depth=4).double().train(), torch.randn(1, 3, 24, 24, dtype=torch.float64)
    outputs = set()
    for seed in range(4):
        torch.manual_seed(seed)
        want = model(x)
        torch.manual_seed(seed)
        got = streamed(model, x, Streaming(chunk=12))
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
        check(gradients_of(model, got), gradients_of(model, want), 1e-8)
        outputs.add(round(float(got.detach()[0, 0]), 6))
    assert len(outputs) > 1


def test_frozen_parameters(make_model: Make, gradients_of: GradientsOf) -> None:
    """Only what is asked for gets a gradient, such as a head alone, or the last block."""
    for pool, own in (("avg", "fc_norm"), ("topk", "norm")):
        model, x = make_model(pool=pool).double(), torch.randn(1, 3, 24, 24, dtype=torch.float64)
        for trained in ("head", "blocks.2", "blocks.0.attn", "pos_embed", own):
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name.startswith(trained))
            check(gradients_of(model, streamed(model, x)), gradients_of(model, model(x)), 1e-8)


def test_batch_of_a_streamed_model(make_model: Make, gradients_of: GradientsOf) -> None:
    model = make_model().double()
    wrapped, x = StreamedModel(model, Streaming(chunk=12)), torch.randn(3, 3, 24, 24, dtype=torch.float64)
    mask = torch.rand(3, 36) < 0.7
    want = model(x, mask)
    torch.testing.assert_close(wrapped(x, mask), want, rtol=1e-9, atol=1e-10)
    check(gradients_of(model, wrapped(x, mask)), gradients_of(model, want), 1e-8)
    assert {f"model.{name}" for name in model.state_dict()} == set(wrapped.state_dict())
    with torch.no_grad():
        assert not wrapped(x, mask).requires_grad


def test_stream_backward_adds_to_grad(make_model: Make) -> None:
    model, x = make_model().double(), torch.randn(1, 3, 24, 24, dtype=torch.float64)
    model(x).logsumexp(1).sum().backward()
    want = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    loss, logits = stream_backward(model, x, lambda logits: logits.logsumexp(1).sum())
    assert loss == logits.logsumexp(1).sum()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * want[name], rtol=1e-7, atol=1e-10)


def test_second_backward_is_refused(make_model: Make) -> None:
    logits = streamed(make_model(), torch.randn(1, 3, 24, 24))
    logits.sum().backward(retain_graph=True)
    with pytest.raises(UserError, match="second backward"):
        logits.sum().backward()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attention": "softmax"}, "SoftmaxAttention has no streaming form"),
        ({"attention_options": {"norm": "layer"}}, "over the sequence"),
        ({"pos_conv": True}, "pos_conv"),
    ],
)
def test_refused_models(options: dict[str, Any], reason: str, make_model: Make) -> None:
    model = make_model(**options)
    assert not can_stream(model)
    with pytest.raises(UserError, match=reason):
        StreamedModel(model)
    with pytest.raises(UserError, match=reason):
        stream_forward(model, torch.randn(1, 3, 24, 24))


def test_dropout_streams_in_evaluation_only(make_model: Make) -> None:
    model = make_model(proj_drop=0.1)
    assert can_stream(model)
    assert not can_stream(model.train())
    with pytest.raises(UserError, match="proj_drop"):
        streamed(model, torch.randn(1, 3, 24, 24))


def test_other_models_are_refused() -> None:
    assert not can_stream(nn.Linear(2, 2))
    with pytest.raises(UserError, match="Linear cannot stream"):
        StreamedModel(nn.Linear(2, 2))


@pytest.mark.parametrize("options", [{"chunk": 0}, {"dtype": torch.float16}, {"dtype": torch.int8}])
def test_impossible_streaming(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected"):
        Streaming(**options)
