"""What is particular to Linformer: maps over any grid, and the tokens in front of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from softfree.attention import LinformerAttention
from softfree.attention.linformer.module import resize, spread
from softfree_runtime.core.errors import UserError


def make(**options: Any) -> LinformerAttention:
    return LinformerAttention(24, 3, **{"dtype": torch.float64, "reference": (5, 6), "landmarks": 7, **options})


def heads(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(2, 3, tokens, 8, dtype=torch.float64) for _ in range(3))  # type: ignore[return-value]


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[3])).softmax(3) @ v


@pytest.mark.parametrize("grid", [None, (5, 6)])
@pytest.mark.parametrize("share_kv", [True, False])
def test_identities_give_softmax(grid: tuple[int, int] | None, share_kv: bool) -> None:
    module, (q, k, v) = make(landmarks=30, share_kv=share_kv), heads(30)
    with torch.no_grad():
        for maps in module.parameters():
            if maps.shape == (30, 30):
                maps.copy_(torch.eye(30))
    torch.testing.assert_close(module.mix(q, k, v, None, grid), softmax(q, k, v))


def test_shared_maps_are_one_parameter() -> None:
    shared, apart = make(share_kv=True), make()
    assert sum(p.numel() for p in apart.parameters()) - sum(p.numel() for p in shared.parameters()) == 7 * 30
    assert not any(make(share_kv=True).load_state_dict(shared.state_dict()))


@pytest.mark.parametrize(
    ("reference", "grid", "mode"),
    [
        ((9,), (31,), "linear"),
        ((9,), (4,), "linear"),
        ((5, 6), (11, 3), "bilinear"),
        ((5, 6), (1, 64), "bilinear"),
        ((3, 4, 5), (7, 2, 9), "trilinear"),
    ],
)
def test_maps_are_resized_as_torch_does(reference: tuple[int, ...], grid: tuple[int, ...], mode: str) -> None:
    maps = torch.randn(4, math.prod(reference), dtype=torch.float64)
    want = F.interpolate(maps.view(1, 4, *reference), size=grid, mode=mode).view(4, -1)
    torch.testing.assert_close(resize(maps, reference, grid), want * math.prod(reference) / math.prod(grid))


@pytest.mark.parametrize("grid", [(5, 6), (3, 17), (40, 40), (1, 1)])
def test_a_constant_image_gives_the_same_at_every_size(grid: tuple[int, int]) -> None:
    """A field without detail is compressed to the same keys and values, where the maps are without detail, too."""
    maps = torch.randn(4, 1, dtype=torch.float64).expand(4, 30)
    torch.testing.assert_close(resize(maps, (5, 6), grid).sum(1), maps.sum(1))
    torch.testing.assert_close(spread(maps, math.prod(grid), None).sum(1), maps.sum(1))


def test_finer_grids_keep_the_sums_of_any_map() -> None:
    maps = torch.randn(4, 30, dtype=torch.float64)
    torch.testing.assert_close(resize(maps, (5, 6), (20, 12)).sum(1), maps.sum(1))
    torch.testing.assert_close(spread(maps, 120, None).sum(1), maps.sum(1))


def test_a_sequence_of_the_references_length_is_the_reference() -> None:
    maps = torch.randn(4, 30, dtype=torch.float64)
    torch.testing.assert_close(spread(maps, 30, None), maps, rtol=0, atol=0)
    torch.testing.assert_close(resize(maps, (5, 6), (5, 6)), maps, rtol=0, atol=0)


def test_real_tokens_are_spread_by_their_rank() -> None:
    maps, mask = torch.randn(4, 30, dtype=torch.float64), torch.zeros(2, 1, 20, 1, dtype=torch.bool)
    mask[0, 0, torch.randperm(20)[:11]] = True
    mask[1, 0, 3] = True
    got = spread(maps, 20, mask)
    for row, real in enumerate((11, 1)):
        torch.testing.assert_close(got[row, 0][:, mask[row, 0, :, 0]], spread(maps, real, None))


@pytest.mark.parametrize("grid", [(5, 6), (9, 4), (1, 13)])
def test_tokens_in_front_stay_themselves(grid: tuple[int, int]) -> None:
    module, (q, k, v) = make(), heads(2 + math.prod(grid))
    k_maps, v_maps = (resize(maps, (5, 6), grid) for maps in (module.k_maps, module.v_maps))
    keys = torch.cat([k[:, :, :2], k_maps @ k[:, :, 2:]], dim=2)
    values = torch.cat([v[:, :, :2], v_maps @ v[:, :, 2:]], dim=2)
    torch.testing.assert_close(module.mix(q, k, v, None, grid), softmax(q, keys, values))


def test_padding_on_the_grid_and_in_front_of_it() -> None:
    """A padded position counts as zero; a padded token in front is not there at all."""
    module, x = make(), torch.randn(1, 14, 24, dtype=torch.float64)
    mask = torch.ones(1, 14, dtype=torch.bool)
    mask[0, [0, 5, 9]] = False
    got = module(x.masked_fill(~mask.unsqueeze(2), float("nan")), mask, grid=(3, 4))
    want = module(x[:, 1:].masked_fill(~mask[:, 1:].unsqueeze(2), 0), grid=(3, 4))  # no bias: K and V are zero there
    torch.testing.assert_close(got[:, 1:][mask[:, 1:]], want[mask[:, 1:]])


def test_volumes() -> None:
    module = make(reference=(2, 3, 4))
    x = torch.randn(2, 60, 24, dtype=torch.float64, requires_grad=True)
    module(x, grid=(3, 4, 5)).sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
    with pytest.raises(UserError, match="3 sides for Linformer's maps of 2"):
        make()(x, grid=(3, 4, 5))


def test_compressed_values_keep_their_size() -> None:
    module = LinformerAttention(24, 3)
    value = torch.randn(1, 3, 196, 8)
    assert (module.v_maps @ value).std().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("options", [{"landmarks": 0}, {"reference": ()}, {"reference": (3, 0)}])
def test_options_that_do_not_go(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="landmarks for a grid of"):
        make(**options)
