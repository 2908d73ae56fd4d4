from __future__ import annotations

import pytest
import torch

from softfree.attention import ATTENTIONS
from softfree.models import create_model
from softfree.pretraining.masked_autoencoder import MaskedAutoencoder
from softfree_runtime.core.errors import UserError

TINY = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 0}


def encoder(name: str = "seqnorm_vit_nano_patch8", **options: object) -> torch.nn.Module:
    sizes = {"img_size": 32} if "3d" not in name else {"img_size": (8, 16, 16)}
    return create_model(name, **{**TINY, **sizes, "in_chans": 1, **options})


@pytest.mark.parametrize("shape", [(2, 1, 30, 21), (1, 1, 8, 8)])
def test_patches_put_together_again_are_the_image(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    model = MaskedAutoencoder(encoder())
    patches = model.patchify(x)
    assert torch.equal(patches[0, 0], torch.nn.functional.pad(x, (0, 8, 0, 8))[0, 0, :8, :8].flatten())
    assert torch.equal(model.unpatchify(patches, shape[2:]), x)


def test_patches_of_a_volume_put_together_again_are_the_volume() -> None:
    x = torch.randn(2, 1, 7, 16, 20)
    model = MaskedAutoencoder(encoder("seqnorm_vit3d_nano"))
    assert torch.equal(model.unpatchify(model.patchify(x), x.shape[2:]), x)


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_pixels_of_hidden_patches_do_not_reach_the_prediction(stem: str) -> None:
    model = MaskedAutoencoder(encoder(stem=stem)).eval()
    x = torch.randn(1, 1, 32, 32)
    torch.manual_seed(0)
    first = model(x)
    patches = model.patchify(x)
    patches[first.hidden] += 5
    torch.manual_seed(0)
    second = model(model.unpatchify(patches, (32, 32)))
    assert torch.equal(first.hidden, second.hidden)
    assert torch.equal(first.patches, second.patches)


def test_the_share_that_is_hidden_is_the_one_asked_for() -> None:
    hidden = MaskedAutoencoder(encoder(), mask_ratio=0.75)(torch.randn(3, 1, 32, 32)).hidden
    assert hidden.sum(dim=1).tolist() == [12, 12, 12]


def test_the_loss_is_that_of_hidden_patches_normalized_each() -> None:
    model = MaskedAutoencoder(encoder()).eval()
    x = torch.randn(2, 1, 32, 32)
    result = model(x)
    errors = []
    patches = model.patchify(x).double()
    for image, number in result.hidden.nonzero().tolist():
        patch = patches[image, number]
        wanted = (patch - patch.mean()) / (patch.var(unbiased=False) + 1e-6).sqrt()
        errors.append((result.patches[image, number].double() - wanted).square().mean())
    assert torch.allclose(result.loss.double(), torch.stack(errors).mean(), atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_with_every_attention_the_loss_reaches_each_weight(attention: str) -> None:
    torch.manual_seed(0)
    model = MaskedAutoencoder(encoder(f"{attention}_vit_nano_patch8"), attention)
    model(torch.randn(4, 1, 32, 32)).loss.backward()
    unused = {name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()}
    # The norm after the pooling belongs to the head; SeqNorm's values have mean zero at the start, so that a shift of
    # the keys adds nothing yet.
    assert {name for name in unused if "fc_norm" not in name and not name.endswith("k_norm.bias")} == set()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


def test_a_class_token_stays_visible() -> None:
    model = MaskedAutoencoder(encoder(pool="token"))
    loss = model(torch.randn(2, 1, 32, 32)).loss
    loss.backward()
    assert model.encoder.cls_token.grad.abs().sum() > 0


@pytest.mark.parametrize("ratio", [0.0, 1.0, -1.0])
def test_a_share_that_hides_nothing_or_everything_is_refused(ratio: float) -> None:
    with pytest.raises(UserError, match="mask-ratio"):
        MaskedAutoencoder(encoder(), mask_ratio=ratio)


def test_a_share_that_rounds_to_no_patch_is_refused() -> None:
    with pytest.raises(UserError, match=r"--mask-ratio 0\.02 hides none of 16 patches: expected 0\.062 or more"):
        MaskedAutoencoder(encoder(), mask_ratio=0.02)
    with pytest.raises(UserError, match="hides some patches of each sample, and it has 1"):
        MaskedAutoencoder(encoder(patch_size=32))


def test_of_few_patches_one_is_hidden_and_one_is_not() -> None:
    for ratio in (0.1, 0.9):
        result = MaskedAutoencoder(encoder(), mask_ratio=ratio)(torch.randn(2, 1, 8, 16))
        assert result.hidden.sum(dim=1).tolist() == [1, 1]
        assert result.loss.isfinite()


def test_positional_convolutions_are_refused() -> None:
    with pytest.raises(UserError, match="pos_conv"):
        MaskedAutoencoder(encoder(pos_conv=True))
