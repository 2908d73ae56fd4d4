"""Masks in the forms that vision transformers and torch's fused kernel have."""

import pytest
import timm
import torch
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg, create_attention_mask
from torch import Tensor

from softfree.attention import ATTENTIONS, create_attention
from softfree.attention.mask import real_tokens
from softfree_runtime.core.errors import UserError

X = torch.zeros(2, 5, 6)
REAL = torch.tensor([[True, True, False, True, False], [True] * 5])
KEYS = REAL[:, None, None, :]
PAIRS = KEYS & KEYS.mT


def additive(mask: Tensor, dtype: torch.dtype = torch.float32, low: float = -torch.inf) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, low)


@pytest.mark.parametrize(
    "mask",
    [
        REAL,
        KEYS,
        PAIRS,
        KEYS.expand(2, 1, 5, 5),
        additive(KEYS),
        additive(PAIRS),
        additive(KEYS, torch.bfloat16, torch.finfo(torch.bfloat16).min),
        additive(PAIRS, torch.float16, torch.finfo(torch.float16).min),
        create_attention_mask(REAL),
        create_attention_mask(REAL[:, 1:], num_prefix_tokens=1),
        create_attention_mask(REAL, symmetric=False),
        create_attention_mask(REAL, symmetric=False, q_len=1),
    ],
)
def test_every_form_gives_the_real_tokens(mask: Tensor) -> None:
    assert torch.equal(real_tokens(X, mask), REAL)


def test_one_mask_for_the_whole_batch() -> None:
    assert torch.equal(real_tokens(X, additive(KEYS[:1])), REAL[:1].expand(2, -1))


def test_nothing_and_nobody() -> None:
    assert real_tokens(X, None) is None
    assert not real_tokens(X, torch.zeros(2, 1, 5, 5, dtype=torch.bool)).any()


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(2, 5),  # not known to be additive
        torch.ones(2, 6, dtype=torch.bool),
        torch.ones(5, dtype=torch.bool),
        torch.ones(5, 5, dtype=torch.bool),
        torch.ones(2, 1, 5, dtype=torch.bool),
        torch.ones(2, 3, 5, 5, dtype=torch.bool),  # one for each head
        torch.ones(3, 1, 1, 5, dtype=torch.bool),
        torch.ones(2, 1, 1, 6, dtype=torch.bool),
        torch.ones(2, 1, 1, 5, dtype=torch.long),
    ],
)
def test_another_shape_or_type(mask: Tensor) -> None:
    with pytest.raises(UserError, match=r"Got attn_mask \(.*expected a boolean \(B, N\)"):
        real_tokens(X, mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 1, 5, 5).tril().bool(), "different keys"),
        (additive(torch.ones(2, 1, 5, 5).tril().bool()), "different keys"),
        (torch.block_diag(torch.ones(2, 2), torch.ones(3, 3)).bool().expand(2, 1, 5, 5), "different keys"),
        (torch.ones(2, 1, 1, 5), "a bias on the scores"),
        (additive(KEYS) - 0.5, "a bias on the scores"),
        (torch.full((2, 1, 5, 5), float("nan")), "a bias on the scores"),
    ],
)
def test_what_has_scores_between_tokens_is_refused(mask: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        real_tokens(X, mask)


def test_causal() -> None:
    with pytest.raises(UserError, match="no order"):
        real_tokens(X, None, True)


def test_in_a_compiled_graph() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(real_tokens, fullgraph=True, backend="aot_eager")
    for mask in (additive(KEYS), create_attention_mask(REAL)):
        assert torch.equal(compiled(X, mask), REAL)
    with pytest.raises(RuntimeError, match="a bias on the scores"):
        compiled(X, torch.ones(2, 1, 1, 5))


@pytest.mark.parametrize("key_only", [False, True])
@pytest.mark.parametrize("name", ATTENTIONS)
def test_naflexvit_sees_no_padding(name: str, key_only: bool) -> None:
    """A smaller image beside a larger one gives what it gives alone."""
    cfg = NaFlexVitCfg(
        patch_size=4,
        embed_dim=24,
        depth=2,
        num_heads=3,
        attn_layer=ATTENTIONS[name],
        use_key_only_attn_mask=key_only,
        reg_tokens=1,
        global_pool="avg",
    )
    model = NaFlexVit(cfg, num_classes=3).double().eval()
    patches = torch.randn(2, 12, 48, dtype=torch.float64)
    coord = torch.cartesian_prod(torch.arange(3), torch.arange(4)).expand(2, -1, -1).clone()
    valid = torch.arange(12).expand(2, -1) < torch.tensor([[12], [8]])
    patches[1, 8:], coord[1, 8:] = 100, 0
    together = model(patches, patch_coord=coord, patch_valid=valid)
    for row, number in enumerate((12, 8)):
        part = slice(row, row + 1), slice(number)
        alone = model(patches[part], patch_coord=coord[part], patch_valid=valid[part])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-6, atol=1e-7)  # positions are float32


def test_vision_transformer_of_timm() -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224",
        attn_layer=ATTENTIONS["seqnorm"],
        depth=1,
        img_size=32,
        num_classes=2,
        class_token=False,
        global_pool="avg",
    ).eval()
    x, mask = torch.randn(1, 3, 32, 32), torch.ones(1, 1, 4, 4)
    torch.testing.assert_close(model(x, attn_mask=additive(mask > 0)), model(x))
    with pytest.raises(UserError, match="different keys"):
        model(x, attn_mask=mask.tril() > 0)
    with pytest.raises(UserError, match="no order"):
        create_attention("seqnorm", 24, 3)(torch.zeros(1, 4, 24), is_causal=True)
