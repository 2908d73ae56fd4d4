"""The block against its formula, and the encoder around it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softfree.attention import ATTENTIONS
from softfree.models import Block, Encoder


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    return weight * centered / (centered.square().mean(-1, keepdim=True) + 1e-6).sqrt() + bias


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


@pytest.mark.parametrize("layer_scale", [None, 0.3])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_block_formula(attention: str, layer_scale: float | None) -> None:
    block = Block(24, 3, attention=attention, mlp_ratio=3.0, layer_scale=layer_scale).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    p = dict(block.named_parameters())
    x = torch.randn(2, 30, 24, dtype=torch.float64)
    mask = torch.arange(30).expand(2, -1) < 20

    scales = (p["ls1.gamma"], p["ls2.gamma"]) if layer_scale else (1, 1)
    want = x + scales[0] * block.attn(layer_norm(x, p["norm1.weight"], p["norm1.bias"]), attn_mask=mask)
    hidden = gelu(layer_norm(want, p["norm2.weight"], p["norm2.bias"]) @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
    want = want + scales[1] * (hidden @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"])

    assert p["mlp.fc1.weight"].shape == (72, 24)
    torch.testing.assert_close(block(x, mask), want, rtol=1e-12, atol=1e-12)


def test_mask_reaches_every_block() -> None:
    encoder = Encoder.build(3, 24, 3, attention="seqnorm").double()
    x = torch.randn(1, 30, 24, dtype=torch.float64)
    mask = torch.arange(30).expand(1, -1) < 20
    torch.testing.assert_close(encoder(x, mask)[:, :20], encoder(x[:, :20]), rtol=1e-12, atol=1e-12)


def test_drop_path_grows_linearly() -> None:
    encoder = Encoder.build(4, 24, 3, drop_path_rate=0.3)
    assert [block.drop_path1.drop_prob for block in encoder] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [block.drop_path2.drop_prob for block in encoder] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_drop_path_skips_whole_samples_in_training_only() -> None:
    block, x = Block(24, 3, drop_path=0.5), torch.randn(64, 5, 24)
    skipped = (block(x) == x).flatten(1).all(1)
    assert 0 < skipped.sum() < 40  # both branches skipped: a quarter
    block.eval()
    assert torch.equal(block(x), block(x))
    assert not (block(x) == x).flatten(1).all(1).any()


def test_options_of_the_attention() -> None:
    block = Block(24, 3, attention="seqnorm", attention_options={"affine": False}, proj_drop=0.25)
    assert block.attn.q_norm.weight is None
    assert block.attn.proj_drop.p == block.mlp.drop1.p == block.mlp.drop2.p == 0.25
    assert Block(24, 3, attention="softmax").attn.qkv.bias is not None
    assert Block(24, 3, attention="softmax", attention_options={"qkv_bias": False}).attn.qkv.bias is None


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_checkpointing_changes_no_gradient(attention: str) -> None:
    encoder = Encoder.build(3, 24, 3, drop_path_rate=0.3, attention=attention, proj_drop=0.1).double()
    x, mask = torch.randn(4, 30, 24, dtype=torch.float64), torch.rand(4, 30) > 0.3
    gradients = []
    for encoder.grad_checkpointing in (False, True):
        torch.manual_seed(0)
        leaf = x.clone().requires_grad_()
        encoder.zero_grad()
        out = encoder(leaf, mask)
        out[mask].square().sum().backward()
        gradients.append([leaf.grad, *(p.grad for p in encoder.parameters())])
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_checkpointing_keeps_less() -> None:
    """Between the passes only the inputs of the blocks are kept."""
    encoder = Encoder.build(3, 24, 3)
    kept: dict[bool, int] = {}
    for checkpointing in (False, True):
        encoder.grad_checkpointing = checkpointing
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            encoder(torch.randn(2, 100, 24, requires_grad=True))
        kept[checkpointing] = sum(sizes)
    assert kept[True] < kept[False] / 10
