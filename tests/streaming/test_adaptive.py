"""Whole or streamed: the same answer, chosen by the user or by what fits."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from softfree.core.options import StreamOptions
from softfree.inference.run import Run
from softfree.models import create_model
from softfree.streaming import adaptive as choice
from softfree.streaming.adaptive import AdaptiveForward
from softfree_runtime.core.errors import UserError

pytestmark = pytest.mark.usefixtures("without_figures")

TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 3}


def vit(name: str = "seqnorm_vit_nano_patch8") -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model(name, img_size=64, stem="conv", **TINY).eval()


@pytest.mark.parametrize("stream", ["auto", "always", "never"])
def test_every_choice_gives_the_same_logits(stream: str) -> None:
    model, images = vit(), torch.randn(2, 3, 72, 64)
    adaptive = AdaptiveForward(model, StreamOptions(stream=stream, token_chunk=16))  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(adaptive(images), model(images), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_streamed_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = vit(), torch.randn(2, 3, 64, 64)
    dimensions: list[int] = []
    monkeypatch.setattr(
        choice, "streamed", lambda model, sample, how: dimensions.append(sample.ndim) or model(sample[None])
    )
    adaptive = AdaptiveForward(model, StreamOptions())
    adaptive(images)
    assert dimensions == []
    monkeypatch.setattr(choice, "_free", lambda gpu: 1000)
    assert adaptive(images).shape == (2, 3)
    assert dimensions == [3, 3]


def test_samples_are_moved_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "products_in", lambda precision, device: nullcontext())  # meta has no autocast
    logits = AdaptiveForward(vit().to("meta"), StreamOptions())(torch.randn(2, 3, 64, 64))
    assert (logits.device.type, logits.shape) == ("meta", (2, 3))


def test_more_tokens_need_more_and_training_more_than_inference() -> None:
    adaptive = AdaptiveForward(vit(), StreamOptions())
    small, large = torch.empty(1, 3, 256, 256), torch.empty(1, 3, 1024, 1024)
    with torch.no_grad():
        inference = [adaptive._activation_bytes(x, False) for x in (small, large)]
    training = [adaptive._activation_bytes(x, False) for x in (small, large)]
    assert inference[0] < inference[1] < training[1]
    assert training[0] < training[1]


def test_softmax_is_whole_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = vit("softmax_vit_nano_patch8")
    monkeypatch.setattr(choice, "_free", lambda gpu: 1000)
    assert AdaptiveForward(model, StreamOptions())(torch.randn(1, 3, 64, 64)).shape == (1, 3)
    with pytest.raises(UserError, match=r"--stream always: Softmax.* cannot stream"):
        AdaptiveForward(model, StreamOptions(stream="always"))


def test_a_model_without_parameters_works_where_its_samples_are() -> None:
    """Such as the encoder that gives thumbnails."""
    samples = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(AdaptiveForward(nn.Flatten(), StreamOptions())(samples), samples.flatten(1))


@pytest.mark.cpu("trains with --accelerator cpu")
def test_a_streamed_training_is_the_training(small_table: Path, tmp_path: Path) -> None:
    from softfree.cli.main import main

    common = [
        "train", str(small_table), "--size", "32", "--epochs", "1", "--batch-size", "4", "--accelerator", "cpu",
        "--model", "seqnorm_vit_nano_patch8", "--model-options", "{depth: 2, embed_dim: 32, num_heads: 2}",
        "--progress", "false", "--lr", "0.002", "--drop-path", "0",
    ]  # fmt: skip
    for name, more in {
        "whole": ["--stream", "never"],
        "streamed": ["--stream", "always", "--token-chunk", "5", "--token-store", str(tmp_path / "store")],
    }.items():
        assert main([*common, *more, "--out", str(tmp_path / name)]) == 0
    whole, streamed = (Run.load(tmp_path / name) for name in ("whole", "streamed"))
    assert (tmp_path / "store").is_dir()
    assert not list((tmp_path / "store").iterdir())
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(streamed.model.state_dict()[name], value, rtol=1e-3, atol=1e-3)
    rows = streamed.predict(small_table, stream=StreamOptions(stream="always"))
    torch.testing.assert_close(
        torch.tensor(rows["raw_high"].to_numpy()), torch.tensor(whole.predict(small_table)["raw_high"].to_numpy()),
        atol=1e-3, rtol=1e-3,
    )  # fmt: skip
