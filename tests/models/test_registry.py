"""Every named model runs, and timm knows it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import timm
import torch

from softfree.attention import ATTENTIONS
from softfree.models import VisionTransformer, create_model, list_models
from softfree.models.registry import IMAGE_MODELS, supported_arguments
from softfree_runtime.core.errors import UserError

WIDTHS = {"nano": (128, 6, 4), "tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}


def test_names() -> None:
    sides = (8, 16, 32)
    assert set(IMAGE_MODELS) == {f"{a}_vit_{size}_patch{p}" for a in ATTENTIONS for size in WIDTHS for p in sides}
    assert set(IMAGE_MODELS) <= set(list_models())
    assert set(timm.list_models("seqnorm_*")) == {name for name in list_models() if name.startswith("seqnorm")}


@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_shape(name: str) -> None:
    """Parameters counted from the published sizes."""
    attention, _, size, patch = name.rsplit("_", 3)
    width, depth, heads = WIDTHS[size]
    side = int(patch.removeprefix("patch"))
    with torch.device("meta"):
        model = create_model(name, img_size=224, num_classes=10)
    # SeqNorm has scales and shifts in place of a bias, Galerkin has them for K and V, Linformer two stacks of maps;
    # SOFT has no keys.
    keys = -(width**2) - width
    own = {"seqnorm": 3 * width, "galerkin": 4 * width, "linformer": 2 * 64 * 14**2, "soft": keys, "soft_norm": keys}
    block = 12 * width**2 + 13 * width + own.get(attention, 0)
    want = depth * block + (3 * side**2 + 1) * width + (224 // side) ** 2 * width + 2 * width + 10 * (width + 1)
    assert sum(p.numel() for p in model.parameters()) == want
    assert model.blocks[0].attn.num_heads == heads
    assert type(model.blocks[0].attn) is ATTENTIONS[attention]


# Each attention at each patch size; base differs from small in its width only.
RUN = ("nano_patch8", "tiny_patch16", "small_patch32", "seqnorm_vit_base_patch16")


@pytest.mark.parametrize("name", [name for name in IMAGE_MODELS if name.endswith(RUN)])
def test_runs(name: str) -> None:
    """Forward and backward, an odd size, other channel counts, a mask, checkpointing; one block, to save time."""
    model = timm.create_model(name, img_size=64, num_classes=3, depth=1).eval()
    x = torch.randn(1, 3, 70, 45)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(g.isfinite().all() for g in gradients[0])
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 250, 187)).shape == (1, 3)
        gray = torch.randn(1, 1, 64, 64)
        for channels in (3, 4):
            torch.testing.assert_close(model(gray), model(gray.expand(-1, channels, -1, -1)), rtol=1e-3, atol=1e-4)
        tokens = 64 // model.patch_size
        mask = torch.zeros(1, tokens, tokens, dtype=torch.bool)
        mask[:, : tokens // 2, : tokens // 2] = True
        image = torch.randn(1, 3, 32, 32)
        zeros, noise = (torch.nn.functional.pad(image, (0, 32, 0, 32), value=value) for value in (0.0, 99.0))
        torch.testing.assert_close(model(noise, mask.flatten(1)), model(zeros, mask.flatten(1)))


def test_options_win_over_the_name() -> None:
    model = timm.create_model("seqnorm_vit_small_patch16", img_size=1024, depth=1, num_classes=2, in_chans=1)
    assert isinstance(model, VisionTransformer)
    assert model.pos_embed.shape == (1, 64 * 64, 384)
    assert len(model.blocks) == 1
    assert model.patch_embed.proj.weight.shape[1] == 1


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="did you mean seqnorm_vit_tiny_patch16"):
        create_model("seqnorm_vit_tiny_patch_16")


def test_unknown_option() -> None:
    with pytest.raises(UserError, match="option of sima_vit_nano_patch16: 'clas_token': did you mean class_token"):
        create_model("sima_vit_nano_patch16", clas_token=True)


def test_pretrained_weights_cannot_be_downloaded() -> None:
    with pytest.raises(UserError, match="load_pretrained"):
        timm.create_model("seqnorm_vit_tiny_patch16", pretrained=True)


def test_training_options_that_a_pyramid_lacks() -> None:
    arguments = {"name": "soft_tiny", "stem": "pool", "pool": "mean_topk", "layer_scale": None, "mlp_chunk": 64}
    assert supported_arguments(arguments) == {"name": "soft_tiny", "mlp_chunk": 64}
    vit = arguments | {"name": "seqnorm_vit_tiny_patch16", "stem": "patch"}
    assert supported_arguments(vit) == vit
    for option, value in (("stem", "patch"), ("pool", "token"), ("layer_scale", 0.1)):
        flag = option.replace("_", "-")
        with pytest.raises(UserError, match=f"--{flag} {value} with --model soft_tiny: .*leave --{flag} out"):
            supported_arguments(arguments | {option: value})


def test_training_options_that_a_bag_lacks() -> None:
    arguments = {"name": "seqnorm_bag_nano", "stem": "pool", "pool": "token", "mlp_chunk": None}
    assert supported_arguments(arguments) == {"name": "seqnorm_bag_nano", "pool": "token"}
    assert supported_arguments(arguments | {"mlp_chunk": 64})["mlp_chunk"] == 64
    with pytest.raises(UserError, match="--stem patch with --model seqnorm_bag_nano: its tiles are already encoded"):
        supported_arguments(arguments | {"stem": "patch"})
    assert arguments["stem"] == "pool", "the input is unchanged"


@pytest.mark.cpu("runs in a process of its own")
def test_a_plugin_may_import_the_models_that_import_it() -> None:
    code = "import softfree.models as m; from softfree.models.registry import MODELS; print('timm_resnet18' in MODELS)"
    environment = os.environ | {"SOFTFREE_PLUGINS": "softfree_lab.studies.peers"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr
