"""torch.func's transforms through every attention method, against its plain float64 formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.attention.references import FORMS, assert_same, leaves, make, padded_batch, reference
from torch import Tensor
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, vmap

from softfree.attention import SeqNormAttention, SoftAttention, create_attention
from softfree.attention.soft.pseudoinverse import pseudoinverse
from softfree_runtime.core.errors import UserError

# Torch's fused kernel, as in timm, has a first derivative in reverse only.
FUSED = ("softmax", "linformer", "nystromformer")
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch's fused kernel under vmap


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("recording", [False, True], ids=["inference", "gradients"])
def test_vmap(form: str, recording: bool) -> None:
    module, (x, mask) = make(form), padded_batch()
    with torch.set_grad_enabled(recording):
        got = vmap(lambda t, m: module(t[None], m[None])[0])(x, mask)
    for row in range(len(x)):
        assert_same(got[row, mask[row]], reference(module, x[row, mask[row]][None], leaves(module))[0])
    whole = torch.randn(3, 40, 24, dtype=torch.float64)
    assert_same(vmap(lambda t: module(t[None])[0])(whole), reference(module, whole, leaves(module)))


def test_vmap_over_one_mask_for_all(form: str) -> None:
    module, x = make(form), torch.randn(3, 2, 40, 24, dtype=torch.float64)
    mask = torch.arange(40).expand(2, -1) < torch.tensor([[40], [17]])
    assert_same(vmap(lambda t: module(t, mask))(x)[:, mask], torch.stack([module(t, mask) for t in x])[:, mask])


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_each_sample(form: str, training: bool) -> None:
    """As training with differential privacy needs them."""
    module, (x, mask) = make(form).train(training), padded_batch()
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    weights = torch.randn(40, 24, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], t: Tensor, m: Tensor) -> Tensor:
        return (functional_call(module, parameters, (t[None], m[None]))[0] * weights * m[:, None]).sum()

    got = vmap(grad(loss), (None, 0, 0))(parameters, x, mask)
    for row in range(len(x)):
        own = leaves(module)
        want = reference(module, x[row, mask[row]][None], own)[0] * weights[mask[row]]
        slopes = torch.autograd.grad(want.sum(), [own[name] for name in parameters])
        for name, slope in zip(parameters, slopes, strict=True):
            assert_same(got[name][row], slope)


def test_several_models_at_once(form: str) -> None:
    module, x = make(form), torch.randn(2, 40, 24, dtype=torch.float64)
    each = {name: torch.stack([p.detach(), 0.5 * p.detach()]) for name, p in module.named_parameters()}
    got = vmap(lambda parameters: functional_call(module, parameters, (x,)))(each)
    for number in range(2):
        own = dict(module.named_buffers()) | {name: p[number] for name, p in each.items()}
        assert_same(got[number], reference(module, x, own))


def few(form: str, dim: int = 24) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]:
    """The attention and its formula as functions of 9 tokens, the last one padding, to the mean of the real ones."""
    module, mask = make(form, dim), torch.arange(9)[None] < 8

    def mine(t: Tensor) -> Tensor:
        return module(t, mask)[:, :8].mean((0, 1))

    def theirs(t: Tensor) -> Tensor:
        return reference(module, t[:, :8], leaves(module)).mean((0, 1))

    return mine, theirs, torch.randn(1, 9, dim, dtype=torch.float64)


def test_jacobian_in_reverse(form: str) -> None:
    mine, theirs, x = few(form)
    want = torch.autograd.functional.jacobian(theirs, x)
    assert_same(jacrev(mine)(x), want)
    assert_same(jacrev(mine, chunk_size=1)(x), want)
    assert_same(torch.autograd.functional.jacobian(mine, x, vectorize=True), want)
    leaf = x.clone().requires_grad_()
    slopes = torch.autograd.grad(mine(leaf), leaf, torch.eye(24, dtype=x.dtype), is_grads_batched=True)[0]
    assert_same(slopes, want)


def test_jacobian_forward(form: str) -> None:
    if form in FUSED:
        pytest.skip("the fused kernel has none")
    mine, theirs, x = few(form)
    assert_same(jacfwd(mine)(x), torch.autograd.functional.jacobian(theirs, x))
    slope = torch.randn_like(x)
    with torch.autograd.forward_ad.dual_level():
        dual = mine(torch.autograd.forward_ad.make_dual(x, slope))
        got = torch.autograd.forward_ad.unpack_dual(dual).tangent
    assert_same(got, torch.autograd.functional.jvp(theirs, x, slope)[1])


def test_second_derivatives(form: str) -> None:
    if form in FUSED:
        pytest.skip("the fused kernel has none")
    mine, theirs, x = few(form, 6)
    want = torch.autograd.functional.hessian(lambda t: theirs(t).square().sum(), x)
    assert_same(hessian(lambda t: mine(t).square().sum())(x), want, 1e-9)
    assert_same(torch.autograd.functional.hessian(lambda t: mine(t).square().sum(), x), want, 1e-9)


def test_gradients_of_a_gram_order_with_a_penalty_on_its_gradient() -> None:
    """create_graph=True through the parameters, too, as a gradient penalty needs it."""
    results = []
    for order in ("literal", "gram"):
        torch.manual_seed(1)
        module = make(f"seqnorm {order}")
        x = torch.randn(2, 40, 24, dtype=torch.float64, requires_grad=True)
        mask = torch.arange(40).expand(2, -1) < torch.tensor([[40], [17]])
        y = module(x, mask)[mask]
        (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum() + y.sum(), [x, *module.parameters()]))
    for literal, gram in zip(*results, strict=True):
        assert_same(gram, literal, 1e-9)


def test_matrices_on_which_the_iteration_fails_are_replaced_under_vmap() -> None:
    """Each by itself, as without: Newton's iteration needs more steps for eigenvalues so far apart."""
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    spread = torch.tensor([1, 1, 1, 1, 1e-1, 1e-1], dtype=torch.float64)
    a = torch.stack([torch.eye(6, dtype=torch.float64), rotation @ torch.diag(spread) @ rotation.T]).repeat(2, 1, 1, 1)
    want, got = pseudoinverse(a, iterations=2), vmap(lambda t: pseudoinverse(t, iterations=2))(a)
    assert want.replaced.any()
    assert torch.equal(got.replaced, want.replaced)
    torch.testing.assert_close(got.value, want.value)
    torch.testing.assert_close(got.residual, want.residual)


def test_soft_counts_no_replacements_under_vmap() -> None:
    module = SoftAttention(24, 3)
    vmap(lambda t: module(t[None])[0])(torch.randn(2, 9, 24))
    assert module.replaced == 0


def test_batch_norm_in_training_says_what_to_do() -> None:
    module, x = SeqNormAttention(24, 3, norm="batch"), torch.randn(2, 9, 24)
    with pytest.raises(UserError, match=r"call eval\(\) first"):
        vmap(lambda t: module(t[None]))(x)
    module.eval()
    torch.testing.assert_close(vmap(lambda t: module(t[None])[0])(x), module(x))


def test_features_of_performer_stay_under_a_transform() -> None:
    module, x = create_attention("performer", 24, 3, redraw_every=1).train(), torch.randn(2, 9, 24)
    before = module.projection.clone()
    for _ in range(3):
        grad(lambda t: module(t).sum())(x)
    assert torch.equal(module.projection, before)
    assert module.clock[1] == 0
