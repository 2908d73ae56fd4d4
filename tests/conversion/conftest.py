from pathlib import Path

import pytest
import torch

from softfree.attention import SeqNormAttention, SoftmaxAttention
from softfree.core.options import TrainOptions
from softfree.training.loop import train

DEPTH, WIDTH, HEADS = 2, 32, 2


@pytest.fixture
def make_attention():
    """A softmax attention in float64 with biases, whose scores have about the deviation ``scores``."""

    def make(scores: float = 1.0, width: int = 24, heads: int = 3) -> SoftmaxAttention:
        torch.manual_seed(0)
        attention = SoftmaxAttention(width, heads, qkv_bias=True, dtype=torch.float64)
        with torch.no_grad():
            attention.qkv.weight.normal_(std=width**-0.5)
            attention.qkv.bias.normal_()
            attention.qkv.weight[: 2 * width] *= scores**0.5
            attention.qkv.bias[: 2 * width] *= scores**0.5
        return attention.eval()

    return make


@pytest.fixture
def make_target():
    """The SeqNorm attention with the weights of a softmax attention."""

    def make(source: SoftmaxAttention, normalized: str = "qk") -> SeqNormAttention:
        width = source.num_heads * source.head_dim
        target = SeqNormAttention(width, source.num_heads, normalized=normalized, dtype=torch.float64)
        target.load_state_dict(source.state_dict(), strict=False)
        return target

    return make


@pytest.fixture(scope="session")
def softmax_run(tmp_path_factory, make_small_table) -> Path:
    """The run directory of a small softmax model, beside its data."""
    folder = tmp_path_factory.mktemp("conversion")
    table = make_small_table(folder / "data")
    shape = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS, "patch_size": 8}
    options = TrainOptions(
        table=table, out=folder / "run", model="softmax_vit_nano_patch16", model_options=shape, size=32, epochs=6,
        batch_size=4, lr=2e-3, progress=False, accelerator="cpu",
    )  # fmt: skip
    return train(options).run.folder
