"""What attention methods inherit, shown with the smallest method there can be."""

import pytest
import torch
from torch import Tensor, nn

from softfree.attention.base import Attention, option_names
from softfree_runtime.core.errors import UserError


class Sum(Attention):
    """Each token gets the sum of the values; keeps what it was given."""

    def __init__(self, dim: int, num_heads: int = 2, power: int = 1, **options: object) -> None:
        super().__init__(dim, num_heads, **options)  # type: ignore[arg-type]
        self.power = power

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: object = None) -> Tensor:
        self.given = q, k, v, mask
        v = v if mask is None else v * mask
        return v.sum(2, keepdim=True).expand_as(v)


def test_heads_are_neighboring_features_in_timms_order() -> None:
    module, x = Sum(6, qkv_bias=True), torch.randn(2, 5, 6)
    module(x)
    for number, heads in enumerate(module.given[:3]):
        rows = slice(6 * number, 6 * number + 6)
        whole = x @ module.qkv.weight[rows].T + module.qkv.bias[rows]
        for head in range(2):
            torch.testing.assert_close(heads[:, head], whole[..., 3 * head : 3 * head + 3])
    assert module.given[3] is None


def test_split_heads_is_a_view() -> None:
    t = torch.randn(2, 5, 6)
    heads = Sum(6).split_heads(t)
    assert heads.shape == (2, 2, 5, 3)
    assert heads.data_ptr() == t.data_ptr()


def test_the_output_is_the_projection_of_the_joined_heads() -> None:
    module, x = Sum(6), torch.randn(2, 5, 6)
    values = (x @ module.qkv.weight[12:].T).sum(1, keepdim=True).expand(2, 5, 6)
    torch.testing.assert_close(module(x), values @ module.proj.weight.T + module.proj.bias)


def test_padding_reaches_a_method_as_zeros_with_its_mask() -> None:
    module, x = Sum(6), torch.randn(2, 5, 6)
    mask = torch.tensor([[True, False, True, True, False], [True] * 5])
    x[~mask] = float("nan")
    before = x.clone()
    out = module(x, mask)
    assert out.isfinite().all()
    torch.testing.assert_close(out[:1, :1], module(x[:1, [0, 2, 3]])[:, :1])
    module(x, mask)
    *heads, given = module.given
    assert given is not None
    assert torch.equal(given, mask[:, None, :, None])
    assert all((t.transpose(1, 2)[~mask] == 0).all() for t in heads if t is not None)
    torch.testing.assert_close(x, before, equal_nan=True)  # the caller's tokens stay as they were


def test_options_make_the_layers_they_name() -> None:
    assert set(Sum(6).state_dict()) == {"qkv.weight", "proj.weight", "proj.bias"}
    module = Sum(6, qkv_bias=True, proj_bias=False, scale_norm=True, norm_layer=nn.RMSNorm, dtype=torch.float64)
    assert set(module.state_dict()) == {"qkv.weight", "qkv.bias", "proj.weight", "norm.weight"}
    assert {p.dtype for p in module.parameters()} == {torch.float64}


def test_dropout_is_for_training_only() -> None:
    module, x = Sum(6, proj_drop=0.5), torch.randn(2, 50, 6)
    assert 0.3 < (module(x) == 0).float().mean() < 0.7
    assert not (module.eval()(x) == 0).any()


def test_options_of_a_method_and_its_bases_are_known() -> None:
    assert option_names(Sum) == option_names(Attention) | {"power"}
    assert {"dim", "num_heads", "proj_drop", "dtype"} <= option_names(Attention)
    assert not {"self", "unused", "options"} & option_names(Sum)
    with pytest.raises(UserError, match="option of Sum: 'powr': did you mean power"):
        Sum(6, powr=2)
