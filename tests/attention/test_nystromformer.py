"""What is particular to Nystromformer: landmarks on grids, empty windows, the inverse, the convolution."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from softfree.attention import NystromformerAttention
from softfree.attention.grid import window_means
from softfree.attention.nystromformer.module import pseudo_inverse
from softfree_runtime.core.errors import UserError


def make(**options: Any) -> NystromformerAttention:
    return NystromformerAttention(24, 3, **{"dtype": torch.float64, **options})


def heads(tokens: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(batch, 3, tokens, 8, dtype=torch.float64) for _ in range(3))  # type: ignore[return-value]


def weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT / math.sqrt(q.shape[3])).softmax(3)


def expected(q: Tensor, k: Tensor, v: Tensor, q_means: Tensor, k_means: Tensor) -> Tensor:
    """The formula with the N x N matrix, and a pseudo-inverse by singular values."""
    inverse = torch.linalg.pinv(weights(q_means, k_means))
    return (weights(q, k_means) @ inverse @ weights(q_means, k)) @ v


@pytest.mark.parametrize(("tokens", "grid"), [(20, None), (20, (4, 5)), (24, (2, 3, 4)), (1, None)])
def test_all_tokens_as_landmarks_give_softmax(tokens: int, grid: tuple[int, ...] | None) -> None:
    q, k, v = heads(tokens)
    got = make(iterations=40).mix(3 * q, k, v, None, grid)
    torch.testing.assert_close(got, weights(3 * q, k) @ v, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("grid", [(5, 7), (2, 31), (3, 4, 5)])
def test_grids_of_any_shape_with_a_token_in_front(grid: tuple[int, ...]) -> None:
    q, k, v = heads(1 + math.prod(grid))
    q = 3 * q  # a kernel far from singular
    means = (window_means(t, grid, None, number=9)[0] for t in (q, k))
    got = make(landmarks=9, iterations=40).mix(q, k, v, None, grid)
    torch.testing.assert_close(got, expected(q, k, v, *means), rtol=1e-6, atol=1e-6)


def test_empty_windows_change_nothing() -> None:
    """Windows of padding alone stand in no softmax and not in the inverse, for six iterations, too."""
    grid, module = (6, 6), make(landmarks=9)
    mask = torch.zeros(2, 1, 36, 1, dtype=torch.bool)
    mask.view(2, 6, 6)[0, :4, :3] = True  # windows of 2 x 2: two whole rows of windows, one and a half columns
    mask.view(2, 6, 6)[1, 5, 5] = True
    q, k, v = heads(36)
    got = module.mix(q, k, v, mask, grid)
    for row in range(2):
        real = mask[row, 0, :, 0]
        means, kept = zip(*(window_means(t, grid, mask, number=9) for t in (q, k)), strict=True)
        q_means, k_means = (t[row, :, kept[0][row, 0, :, 0]] for t in means)
        alone = [t[row : row + 1, :, real] for t in (q, k, v)]
        first = weights(alone[0], k_means[None])
        last = weights(q_means[None], alone[1])
        want = first @ pseudo_inverse(weights(q_means[None], k_means[None]), 6) @ last @ alone[2]
        torch.testing.assert_close(got[row : row + 1, :, real], want)


def test_the_inverse_is_that_of_singular_values() -> None:
    a = (3 * torch.randn(2, 3, 8, 8, dtype=torch.float64)).softmax(3)
    torch.testing.assert_close(pseudo_inverse(a, 40), torch.linalg.pinv(a), rtol=1e-6, atol=1e-6)


def test_six_iterations_of_a_good_matrix_are_enough() -> None:
    a = torch.eye(8, dtype=torch.float64) + 0.3 * torch.rand(8, 8, dtype=torch.float64)
    torch.testing.assert_close(pseudo_inverse(a, 6) @ a, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-6)


def test_gradients_go_through_the_inverse() -> None:
    a = torch.rand(2, 5, 5, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda matrix: pseudo_inverse(matrix.softmax(2), 6), a)


def test_each_matrix_starts_by_itself() -> None:
    a = torch.rand(2, 5, 5, dtype=torch.float64).softmax(2)
    other = torch.stack([a[0], torch.eye(5, dtype=torch.float64)])
    assert torch.equal(pseudo_inverse(a, 2)[0], pseudo_inverse(other, 2)[0])


@pytest.mark.parametrize(("grid", "front"), [((4, 5), 1), ((20,), 0)])
def test_the_convolution_is_added(grid: tuple[int, ...], front: int) -> None:
    module, (q, k, v) = make(conv=3, conv_dims=len(grid)), heads(20 + front)
    got = module.mix(q, k, v, None, grid)
    added = module.conv(v, grid, None)
    assert added.abs().max() > 0.01
    torch.testing.assert_close(got - added, make().mix(q, k, v, None, grid))


def test_the_convolution_needs_the_sides_it_was_made_for() -> None:
    x = torch.randn(1, 20, 24, dtype=torch.float64)
    make(conv=3, conv_dims=1)(x)
    with pytest.raises(UserError, match="pass the grid to the attention"):
        make(conv=3)(x)


def test_nothing_of_tokens_by_landmarks_is_kept() -> None:
    module = make(dtype=torch.float32, landmarks=100)
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        module(torch.randn(1, 2000, 24), grid=(40, 50))
    assert max(sizes) == 2000 * 24


@pytest.mark.parametrize("options", [{"landmarks": 0}, {"iterations": 0}, {"conv": 4}])
def test_options_that_do_not_go(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected"):
        make(**options)
