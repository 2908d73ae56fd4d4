"""Newton's iteration against torch.linalg, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from softfree.attention.soft.pseudoinverse import by_eigenvalues, pseudoinverse, residual, start, step, to_unit_norm


def symmetric(values: list[float], batch: int = 1, seed: int = 0) -> Tensor:
    """Matrices (batch, m, m) in float64 with these eigenvalues."""
    torch.manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(batch, len(values), len(values), dtype=torch.float64))[0]
    return (vectors * torch.tensor(values, dtype=torch.float64)) @ vectors.mT


def kernel(tokens: int, width: int, spread: float = 1.0) -> Tensor:
    at = torch.randn(2, 3, tokens, width, dtype=torch.float64) * spread
    return (-torch.cdist(at, at).square() / 2).exp()


def assert_same(got: Tensor, want: Tensor, tolerance: float) -> None:
    assert (got - want).abs().max() < tolerance * want.abs().max()


@pytest.mark.parametrize("values", [[1.0, 2, 3], [5.0, 1, 0.05], [1.0, -2, 3], [7.0]], ids=str)
def test_full_rank_gives_the_inverse(values: list[float]) -> None:
    a = symmetric(values, batch=4)
    inverse = pseudoinverse(a, iterations=40)
    assert_same(inverse.value, torch.linalg.inv(a), 1e-9)
    assert (inverse.residual < 1e-6).all()
    assert not inverse.replaced.any()


@pytest.mark.parametrize("values", [[1.0, 2, 0, 0], [3.0, 0], [0.0, 0]], ids=str)
def test_lower_rank_gives_the_pseudoinverse(values: list[float]) -> None:
    a = symmetric(values, batch=2)
    assert_same(pseudoinverse(a).value + 1e-30, torch.linalg.pinv(a, rtol=1e-9) + 1e-30, 1e-5)


@pytest.mark.parametrize("values", [[1.0, 2, 3], [1.0, 2, 0.5, 0]], ids=str)
def test_gradient_is_that_of_torch(values: list[float]) -> None:
    """A = B diag B^T keeps its rank under every change of B, so that the derivative is defined."""
    mine = torch.linalg.eigh(symmetric(values))[1].requires_grad_()
    theirs = mine.detach().clone().requires_grad_()
    diagonal = torch.linalg.eigh(symmetric(values))[0].clamp(min=0)
    diagonal = torch.where(diagonal < 1e-9, 0, diagonal)
    weights = torch.randn(len(values), len(values), dtype=torch.float64)
    got = pseudoinverse((mine * diagonal) @ mine.mT, iterations=40).value
    want = torch.linalg.pinv((theirs * diagonal) @ theirs.mT, rtol=1e-9, hermitian=True)
    (got * weights).sum().backward()
    (want * weights).sum().backward()
    assert_same(mine.grad, theirs.grad, 1e-5)


def test_gradcheck() -> None:
    a = symmetric([1.0, 2, 3]).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: pseudoinverse((t + t.mT) / 2, iterations=40).value, a)


def test_neighbors_change_no_bit() -> None:
    easy, hard = symmetric([1.0, 1.1, 1.2]).float(), symmetric([1.0, 1e-3, 1e-4]).float()
    alone = pseudoinverse(easy).value
    together = pseudoinverse(torch.cat([easy, hard])).value
    assert torch.equal(together[:1], alone)


def test_iteration_is_the_filter_of_the_eigenvalues() -> None:
    a, _ = to_unit_norm(kernel(49, 4))
    assert_same(pseudoinverse(a, iterations=20).value, by_eigenvalues(a, 20), 1e-8)
    x = start(a)
    for _ in range(20):
        x = step(a, x)
    assert_same(x, by_eigenvalues(a, 20), 1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_nearly_singular_kernels_of_any_type(dtype: torch.dtype) -> None:
    a = kernel(49, 8, spread=0.1).to(dtype).requires_grad_()
    with torch.autocast(torch.get_default_device().type, torch.bfloat16):
        inverse = pseudoinverse(a)
    assert inverse.value.dtype == dtype
    assert inverse.residual.dtype == torch.float32
    assert (inverse.residual < 1e-2).all()
    assert not inverse.replaced.any()
    inverse.value.float().square().mean().backward()
    assert a.grad.isfinite().all()


def test_ridge_is_added_to_the_diagonal() -> None:
    a = symmetric([1.0, 2, 0])
    want = torch.linalg.inv(a + 0.5 * torch.eye(3, dtype=a.dtype))
    assert_same(pseudoinverse(a, ridge=0.5, iterations=40).value, want, 1e-9)


def test_ones_and_zeros() -> None:
    """A constant image gives the one, an empty sample may give the other."""
    ones, zeros = torch.ones(1, 49, 49), torch.zeros(1, 49, 49)
    assert_same(pseudoinverse(ones).value, ones / 49**2, 1e-4)
    assert (pseudoinverse(zeros).value == 0).all()


def test_a_failed_iteration_is_replaced_and_counted() -> None:
    assert not pseudoinverse(symmetric([1.0, 1.0]), iterations=6).replaced.any()
    hard = symmetric([1.0, 0.3, 0.2], batch=2)
    inverse = pseudoinverse(hard, iterations=2)
    assert inverse.replaced.all()
    assert_same(inverse.value, torch.linalg.inv(hard), 1e-6)
    torch.testing.assert_close(residual(hard, inverse.value), inverse.residual, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_size_does_not_matter(size: float) -> None:
    a = symmetric([1.0, 0.5, 0.4])
    inverse = pseudoinverse((a * size).float())
    assert_same(inverse.value.double() * size, torch.linalg.inv(a), 1e-4)
    assert not inverse.replaced.any()


def test_what_is_not_finite_stays_so() -> None:
    a = symmetric([1.0, 2, 3], batch=2)
    a[0, 0, 0] = float("nan")
    inverse = pseudoinverse(a)
    assert inverse.value[0].isnan().any()
    assert inverse.value[1].isfinite().all()
    assert not inverse.replaced.any()


def test_compiled_as_one_graph() -> None:
    a = symmetric([1.0, 2, 3], batch=2)
    compiled = torch.compile(lambda t: pseudoinverse(t).value, fullgraph=True, backend="aot_eager")
    assert_same(compiled(a), pseudoinverse(a).value, 1e-5)


def test_gradient_of_a_graph_is_that_of_the_inverse() -> None:
    """And not that of the iterations, which differs as long as they have not converged."""
    a = kernel(6, 4).float() + 100 * torch.eye(6)
    compiled = torch.compile(lambda t: pseudoinverse(t, iterations=5).value, fullgraph=True, backend="aot_eager")
    gradients = []
    for run in (compiled, lambda t: pseudoinverse(t, iterations=5).value):
        leaf = a.clone().requires_grad_()
        (run(leaf) * torch.arange(36.0).view(6, 6)).sum().backward()
        gradients.append(leaf.grad)
    assert_same(gradients[0], gradients[1], 1e-5)
