"""The mean token halfway through a model, of whole and streamed samples."""

import pytest
import torch

from softfree.core.options import StreamOptions
from softfree.models import create_model
from softfree.models.token_mean import middle_layer, token_mean
from softfree.streaming.adaptive import AdaptiveForward

TINY = {"depth": 4, "embed_dim": 32, "num_heads": 2, "num_classes": 3}


def model_and_samples(kind: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if kind == "image":
        return create_model("seqnorm_vit_nano_patch8", img_size=64, stem="conv", **TINY).eval(), torch.randn(
            3, 3, 72, 64
        )
    if kind == "class token":
        model = create_model("seqnorm_vit_nano_patch8", img_size=64, stem="patch", pool="token", **TINY)
        return model.eval(), torch.randn(2, 3, 64, 64)
    if kind == "volume":
        model = create_model("seqnorm_vit3d_nano", img_size=(16, 32, 24), in_chans=1, patch_size=(4, 8, 8), **TINY)
        return model.eval(), torch.randn(2, 1, 16, 32, 24)
    bags = torch.randn(2, 70, 11)
    bags[..., -1] = 0
    return create_model("seqnorm_bag_nano", in_features=8, **TINY).eval(), bags


@pytest.mark.parametrize("kind", ["image", "class token", "volume", "bag"])
def test_streamed_samples_have_the_mean_of_whole_ones(kind: str) -> None:
    model, samples = model_and_samples(kind)
    tokens: list[torch.Tensor] = []
    middle_layer(model).register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0]))  # type: ignore[union-attr]
    with torch.inference_mode():
        model(samples)
        expected = tokens[0].mean(dim=1)
        for stream in ("never", "always"):
            options = StreamOptions(stream=stream, token_chunk=16)  # type: ignore[arg-type]
            adaptive = AdaptiveForward(model, options, watched=True)
            adaptive(samples)
            (means,) = adaptive.take_token_means()
            torch.testing.assert_close(means, expected, rtol=1e-5, atol=1e-5)
            assert adaptive.take_token_means() == []
    assert expected.std(dim=0).min() > 0, "samples differ"


def test_the_block_is_the_middle_one() -> None:
    model, images = model_and_samples("image")
    assert middle_layer(model) is model.blocks[2].norm1  # type: ignore[index, union-attr]
    with torch.inference_mode(), token_mean(model) as means:
        model(images)
    tokens, _, grid = model.embed(images)  # type: ignore[operator]
    for block in model.blocks[:2]:  # type: ignore[index]
        tokens = block(tokens, None, grid)
    torch.testing.assert_close(means[0], tokens.mean(dim=1), rtol=1e-5, atol=1e-5)


def test_pyramids_have_one_and_other_networks_none() -> None:
    pyramid = create_model("soft_tiny", img_size=64, num_classes=2, embed_dims=(8, 16, 16, 16), num_heads=(1, 1, 2, 2))
    with torch.inference_mode(), token_mean(pyramid.eval()) as means:
        pyramid(torch.randn(2, 3, 64, 64))
    assert means[0].shape == (2, 16)
    other = torch.nn.Linear(4, 2)
    with token_mean(other) as means:
        other(torch.randn(2, 4))
    assert means == []


def test_nothing_stays_behind() -> None:
    model, images = model_and_samples("image")
    with pytest.raises(ValueError, match="broken"), token_mean(model):
        raise ValueError("broken")
    assert not middle_layer(model)._forward_pre_hooks  # type: ignore[union-attr]
    adaptive = AdaptiveForward(model, StreamOptions())
    adaptive(images)
    assert adaptive.take_token_means() == []
