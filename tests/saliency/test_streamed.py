"""Streamed maps against the maps in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from softfree.core.options import StreamOptions
from softfree.inference.run import Run
from softfree.models import BagTransformer, VisionTransformer, VolumeTransformer
from softfree.saliency.activations import classify, encoder_input, run_blocks
from softfree.saliency.maps import Map, explain_tensor, forward_pass
from softfree.saliency.methods import METHODS, STREAMED, MapRequest
from softfree.saliency.options import ExplainOptions, MapMethod
from softfree.saliency.streamed import explain_as_fits, explain_streamed
from softfree.streaming import Streaming
from softfree.streaming.adaptive import AdaptiveForward
from softfree.streaming.forward import Stream
from softfree_runtime.core.errors import ReadError, UserError

ATTENTIONS = ("seqnorm", "sima", "galerkin")
ASKED: dict[str, list[dict[str, Any]]] = {
    "split": [{}],
    "gradient": [{}, {"layer": 1}, {"layer": -1}],
    "gradcam": [{}, {"layer": 0}],
    "rollout": [{}],
    "attention": [{}, {"layer": 1, "head": 1}, {"layer": 0, "at": "corner"}],
}


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)  # torch.empty and its kin are then filled with NaN
    yield
    torch.use_deterministic_algorithms(False)


def lively(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def image_model(attention: str = "seqnorm", **options: Any) -> VisionTransformer:
    return lively(VisionTransformer(24, 4, 1, 3, 24, 3, 3, attention=attention, **options))  # type: ignore[return-value]


def volume_model(**options: Any) -> nn.Module:
    return lively(VolumeTransformer((8, 16, 16), (2, 4, 4), 1, num_classes=3, embed_dim=24, depth=3, num_heads=3,
                                    **options))  # fmt: skip


def questions(model: Any, axes: int) -> Iterator[tuple[Any, dict[str, Any]]]:
    """All that can be asked of a model; of a class token not the last layer's gradient, which its norm makes zero."""
    for method in STREAMED:
        for asked in ASKED[method] if model.pool != "token" or method != "split" else []:
            if not (model.pool == "token" and asked == {"layer": -1}):
                yield method, asked | ({"at": [0.1] * axes} if "at" in asked else {})


def same(got: Map, want: Map, tolerance: float) -> None:
    assert got.values.shape == want.values.shape
    scale = np.abs(want.values).max()
    assert scale > 1e-7
    assert np.abs(got.values - want.values).max() < tolerance * scale, got.method
    np.testing.assert_allclose(got.logits, want.logits, rtol=tolerance, atol=tolerance)
    if want.method == "split":
        assert got.values.sum() == pytest.approx(got.log_odds, abs=10 * tolerance)
    assert got.log_odds == pytest.approx(want.log_odds, rel=tolerance, abs=tolerance)
    assert (got.target, got.method, got.description, got.signed) == (
        want.target, want.method, want.description, want.signed
    )  # fmt: skip


@pytest.mark.parametrize("pool", ["topk", "mean_topk"])
def test_heads(pool: str) -> None:
    test_images("seqnorm", {"pool": pool, "class_token": True})


@pytest.mark.parametrize("options", [{}, {"pool": "token"}, {"class_token": True, "pos": "none"}, {"stem": "conv"}])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_images(attention: str, options: dict[str, Any]) -> None:
    model = image_model(attention, **options).double()
    pixels = torch.randn(1, 23, 30, dtype=torch.float64)  # 6 x 8 tokens, the last row and column padded
    for method, asked in questions(model, 2):
        want = explain_tensor(model, pixels, method, target=1, **asked)
        same(explain_streamed(model, pixels, method, target=1, streaming=Streaming(chunk=17), **asked), want, 1e-9)


@pytest.mark.parametrize(("attention", "chunk"), [*((attention, 1) for attention in ATTENTIONS), ("seqnorm", 100)])
def test_float32(attention: str, chunk: int) -> None:
    model, pixels = image_model(attention), torch.randn(1, 23, 30)
    for method, asked in questions(model, 2):
        want = explain_tensor(model, pixels, method, **asked)
        same(explain_streamed(model, pixels, method, streaming=Streaming(chunk=chunk), **asked), want, 1e-5)


@pytest.mark.parametrize(
    "options", [{"normalized": "qk", "init": "first_order"}, {"normalized": "kv"}, {"affine": False}]
)
def test_variants_of_seqnorm(options: dict[str, Any]) -> None:
    model = image_model(attention_options=options).double()
    pixels = torch.randn(1, 24, 24, dtype=torch.float64) + 3
    for method in STREAMED:
        want = explain_tensor(model, pixels, method)  # type: ignore[arg-type]
        same(explain_streamed(model, pixels, method, streaming=Streaming(chunk=7)), want, 1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_volumes(pool: str) -> None:
    model = volume_model(pool=pool).double()
    voxels = torch.randn(1, 7, 16, 13, dtype=torch.float64)
    for method, asked in questions(model, 3):
        want = explain_tensor(model, voxels, method, **asked)
        same(explain_streamed(model, voxels, method, streaming=Streaming(chunk=20), **asked), want, 1e-9)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_bags_with_padding(attention: str) -> None:
    model = lively(BagTransformer(6, 3, 24, 2, 3, attention=attention)).double()
    bag = torch.rand(19, 9, dtype=torch.float64)
    bag[[4, 5, 6, 18], -1] = float("nan")
    for method, asked in questions(model, 1):
        want = explain_tensor(model, bag, method, **asked)
        got = explain_streamed(model, bag, method, streaming=Streaming(chunk=5), **asked)
        same(got, want, 1e-9)
        assert (got.values[[4, 5, 6, 18]] == 0).all()


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_masks(attention: str) -> None:
    """Against the methods themselves: explain_tensor takes no mask."""
    model = image_model(attention).double()
    pixels = torch.randn(1, 1, 24, 24, dtype=torch.float64)
    mask = torch.rand(1, 36) < 0.5
    mask[0, 12:18] = False  # a whole band
    inputs: list[Any] = []
    handle = model.blocks.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments))
    logits = model(pixels, mask)
    handle.remove()
    entry = encoder_input(model, pixels)._replace(tokens=inputs[0][0].detach(), mask=mask)
    torch.testing.assert_close(classify(model, entry, run_blocks(model, entry)), logits)
    for method in ("split", "gradient", "gradcam", "rollout"):
        want = METHODS[method].compute(forward_pass(model, pixels, entry, method), MapRequest(1, METHODS[method].layer))
        got = explain_streamed(model, pixels, method, target=1, streaming=Streaming(chunk=6), mask=mask)  # type: ignore[arg-type]
        np.testing.assert_allclose(got.values, want[0].detach().reshape(6, 6), atol=1e-9 * float(want.abs().max()))
        assert (got.values[~mask.numpy().reshape(6, 6)] == 0).all()
    real = divmod(int(mask[0].nonzero()[5]), 6)
    unreal = divmod(int((~mask[0]).nonzero()[5]), 6)
    at = [[(position[1] + 0.5) / 6, (position[0] + 0.5) / 6] for position in (real, unreal)]
    row = explain_streamed(model, pixels, "attention", at=at[0], streaming=Streaming(chunk=6), mask=mask)
    want = METHODS["attention"].compute(forward_pass(model, pixels, entry, "attention"), MapRequest(1, at=at[0]))
    np.testing.assert_allclose(row.values, want[0].detach().reshape(6, 6), atol=1e-10)
    with pytest.raises(UserError, match="the mask has no token there"):
        explain_streamed(model, pixels, "attention", at=at[1], mask=mask)


def test_nothing_real_is_a_map_of_zeros() -> None:
    none = torch.zeros(1, 36, dtype=torch.bool)
    for method in ("split", "gradient", "gradcam", "rollout"):
        result = explain_streamed(image_model(), torch.randn(1, 24, 24), method, mask=none)  # type: ignore[arg-type]
        assert (result.values == 0).all()
        assert result.values.shape == (6, 6)


def test_a_store_on_disk_gives_the_same_and_is_given_back(tmp_path: Path) -> None:
    model, pixels = image_model(), torch.randn(1, 24, 24)
    for method in STREAMED:
        ram, disk = (
            explain_streamed(model, pixels, method, streaming=Streaming(location, chunk=7))  # type: ignore[arg-type]
            for location in ("ram", tmp_path / "tokens")
        )
        assert np.array_equal(ram.values, disk.values)
    assert not any((tmp_path / "tokens").iterdir())


def test_rounded_tokens_give_nearly_the_same() -> None:
    model, pixels = image_model(), torch.randn(1, 24, 24)
    for method in ("split", "gradient", "rollout"):
        want = explain_streamed(model, pixels, method, target=1).values  # type: ignore[arg-type]
        got = explain_streamed(model, pixels, method, target=1, streaming=Streaming(dtype=torch.bfloat16)).values  # type: ignore[arg-type]
        assert 1e-6 < np.abs(got - want).max() / np.abs(want).max() < 0.1


def test_autocast_is_nearly_the_same_and_leaves_nothing_behind() -> None:
    model, pixels = image_model(), torch.randn(1, 24, 24)
    for method in STREAMED:
        want = explain_tensor(model, pixels, method, target=1).values  # type: ignore[arg-type]
        with torch.autocast("cpu", torch.bfloat16):
            got = explain_streamed(model, pixels, method, target=1, streaming=Streaming(chunk=9)).values  # type: ignore[arg-type]
            model(pixels[None]).sum().backward()
        assert np.abs(got - want).max() < 0.1 * np.abs(want).max(), method
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "weight" in name)


def test_memory_keeps_only_the_layers_that_a_method_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    class Counting(Stream):
        def close(self) -> None:
            if self.store is not None:
                made.append(self.store.layers)
            super().close()

    monkeypatch.setattr("softfree.saliency.streamed.Stream", Counting)
    model, pixels = image_model(), torch.randn(1, 24, 24)
    kept = {}
    for method in STREAMED:
        explain_streamed(model, pixels, method)  # type: ignore[arg-type]
        kept[method] = made[-1]
    explain_streamed(model, pixels, "gradient", layer=2)
    assert kept == {"split": 1, "gradient": 3, "gradcam": 1, "rollout": 3, "attention": 1}
    assert made[-1] == 1


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"method": "integrated"}, "--method integrated does not stream"),
        ({"method": "gradient", "layer": 3}, "--layer 3: this model has 3 layers"),
        ({"method": "split", "layer": 0}, "--layer is not for --method split"),
        ({"method": "attention", "head": 3}, "--head 3: the layer has 3 heads"),
        ({"method": "rollup"}, "did you mean rollout"),
        ({"target": 3}, "3 classes, from 0 to 2"),
    ],
)
def test_what_cannot_be_asked(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        explain_streamed(image_model(), torch.randn(1, 24, 24), **given)


@pytest.mark.parametrize("attention", ["softmax", "soft", "performer", "linformer", "nystromformer"])
def test_models_that_cannot_stream(attention: str) -> None:
    with pytest.raises(UserError, match="tokens cannot stream: expected galerkin, seqnorm or sima"):
        explain_streamed(image_model(attention), torch.randn(1, 24, 24))
    with pytest.raises(UserError, match="pools its class token"):
        explain_streamed(image_model(pool="token"), torch.randn(1, 24, 24), "split")


def test_what_does_not_fit_streams(image_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = torch.randn(1, 64, 64)
    network: Any = image_run.model
    adaptive = AdaptiveForward(network, StreamOptions(token_chunk=5))
    streams: list[bool] = []
    real = explain_streamed

    def noted(*given: Any, **more: Any) -> Map:
        streams.append(True)
        return real(*given, **more)

    monkeypatch.setattr("softfree.saliency.streamed.explain_streamed", noted)
    want = explain_as_fits(image_run, sample, adaptive, "gradient", target="ill")
    assert not streams, "it fits"
    monkeypatch.setattr("softfree.streaming.adaptive._free", lambda gpu: 1000)
    same(explain_as_fits(image_run, sample, adaptive, "gradient", target="ill"), want, 1e-5)
    assert streams == [True]
    with pytest.raises(ReadError, match="does not fit in memory, and --method integrated") as raised:
        explain_as_fits(image_run, sample, adaptive, "integrated")
    assert raised.value.status == "too_large"
    never = AdaptiveForward(network, StreamOptions(stream="never"))
    assert explain_as_fits(image_run, sample, never, "integrated").values.shape == (4, 4)
    assert len(streams) == 1


def test_going_back_needs_more_memory_than_the_split(image_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    network: Any = image_run.model
    adaptive = AdaptiveForward(network, StreamOptions())
    asked: list[bool] = []
    monkeypatch.setattr(adaptive, "streams", lambda _: asked.append(torch.is_grad_enabled()))
    for method in ("split", "gradient"):
        explain_as_fits(image_run, torch.randn(1, 64, 64), adaptive, method)  # type: ignore[arg-type]
    assert asked == [False, True]


@pytest.mark.parametrize("stream", ["never", "always"])
@pytest.mark.parametrize("method", list(STREAMED))
def test_lower_precision_is_near_float32(image_run: Run, method: MapMethod, stream: Any) -> None:
    torch.manual_seed(0)
    sample, network = torch.randn(1, 64, 64), cast(Any, image_run.model)
    want = explain_as_fits(image_run, sample, AdaptiveForward(network, StreamOptions()), method, target="ill")
    lower = AdaptiveForward(network, StreamOptions(stream=stream, token_chunk=7), "bf16")
    result = explain_as_fits(image_run, sample, lower, method, target="ill")
    assert 0 < np.abs(result.values - want.values).max() < 0.1 * np.abs(want.values).max()
    if method == "split":
        assert result.values.sum() == pytest.approx(result.log_odds, abs=1e-4)


def test_the_options_are_those_of_predict() -> None:
    options = ExplainOptions(stream="always", token_bf16=True, token_chunk=9, token_store=Path("there"))
    streaming = AdaptiveForward(image_model(), options).streaming
    assert (streaming.dtype, streaming.chunk, streaming.store) == (torch.bfloat16, 9, Path("there"))
    with pytest.raises(UserError, match="--stream always: SoftmaxAttention"):
        AdaptiveForward(image_model("softmax"), ExplainOptions(stream="always"))
