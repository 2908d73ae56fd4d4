"""Which order "auto" takes, and what may not be asked of an order."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from softfree.attention import SeqNormAttention
from softfree.attention.seqnorm.module import GRAM_FROM, choose_order
from softfree_runtime.core.errors import UserError


class Adapted(nn.Linear):
    """A projection that is more than its matrix: ``W x + up down x``."""

    def __init__(self, plain: nn.Linear, rank: int = 2) -> None:
        super().__init__(plain.in_features, plain.out_features, plain.bias is not None)
        self.load_state_dict(plain.state_dict())
        self.down = nn.Parameter(torch.randn(rank, plain.in_features))
        self.up = nn.Parameter(torch.randn(plain.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.down.T @ self.up.T


@pytest.mark.parametrize("width", [24, 192, 385])
def test_folded_below_the_bound_and_gram_from_it(width: int) -> None:
    bound = math.ceil(GRAM_FROM * width)
    orders = {tokens: choose_order(torch.empty(2, tokens, width)) for tokens in (1, bound - 1, bound, 100 * bound)}
    assert list(orders.values()) == ["folded", "folded", "gram", "gram"]


def test_auto_follows_the_rule() -> None:
    module = SeqNormAttention(24, 3)
    bound = math.ceil(GRAM_FROM * 24)
    few, many = torch.randn(1, bound - 1, 24), torch.randn(1, bound, 24)
    assert (module.order_for(few), module.order_for(many)) == ("folded", "gram")
    for x in (few, many):
        with_name = SeqNormAttention(24, 3, order=module.order_for(x))
        with_name.load_state_dict(module.state_dict())
        assert torch.equal(module(x), with_name(x))


@pytest.mark.parametrize("order", ["literal", "folded", "gram"])
def test_a_named_order_is_kept(order: str) -> None:
    module = SeqNormAttention(24, 3, order=order)
    assert {module.order_for(torch.empty(1, tokens, 24)) for tokens in (1, 36, 10_000)} == {order}


def recorder() -> tuple[nn.Module, list[str]]:
    """A module that notes what the rule says about its input."""
    said: list[str] = []  # no attribute: export would put it back to empty

    class Recorder(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            said.append(choose_order(x))
            return x + 1

    return Recorder(), said


def test_gram_while_exporting() -> None:
    (module, said), x = recorder(), torch.randn(1, 5, 24)
    torch.export.export(module, (x,), strict=False)
    assert set(said) == {"gram"}
    assert choose_order(x) == "folded"


def test_gram_while_tracing() -> None:
    (module, said), x = recorder(), torch.randn(1, 5, 24)
    torch.jit.trace(module, x, check_trace=False)
    assert set(said) == {"gram"}


@pytest.mark.parametrize("order", ["folded", "gram"])
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"norm": "layer"}, "norm='layer'"),
        ({"norm": "batch"}, "norm='batch'"),
        ({"norm": "none"}, "norm='none'"),
        ({"scale_norm": True}, "scale_norm=True"),
        ({"class_token_in_statistics": False, "num_prefix_tokens": 1}, "class_token_in_statistics=False"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_fast_order_cannot_express(order: str, options: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=f"order='{order}' with {named}.*order='literal'"):
        SeqNormAttention(24, 3, order=order, **options)
    assert SeqNormAttention(24, 3, order="literal", **options).order_for(torch.empty(1, 99, 24)) == "literal"
    assert SeqNormAttention(24, 3, **options).order_for(torch.empty(1, 99, 24)) == "literal"


@pytest.mark.parametrize(("order", "near"), [("gramm", "gram"), ("fold", "folded"), ("Auto", "auto")])
def test_unknown_order(order: str, near: str) -> None:
    with pytest.raises(UserError, match=f"order of SeqNormAttention: '{order}': did you mean {near}"):
        SeqNormAttention(24, 3, order=order)


@pytest.mark.parametrize("projection", ["qkv", "proj"])
@pytest.mark.parametrize("tokens", [10, 100])
def test_auto_uses_a_replaced_projection(projection: str, tokens: int) -> None:
    module, x = SeqNormAttention(24, 3), torch.randn(2, tokens, 24)
    adapted = Adapted(module.get_submodule(projection))
    setattr(module, projection, adapted)
    assert module.order_for(x) == "literal"
    got = module(x)
    merged = SeqNormAttention(24, 3, order="literal")
    state = {key: value for key, value in module.state_dict().items() if not key.endswith((".up", ".down"))}
    state[f"{projection}.weight"] = adapted.weight + adapted.up @ adapted.down
    merged.load_state_dict(state)
    torch.testing.assert_close(got, merged(x), rtol=1e-4, atol=1e-4)
    got.sum().backward()
    assert adapted.up.grad is not None


@pytest.mark.parametrize("order", ["folded", "gram"])
@pytest.mark.parametrize("projection", ["qkv", "proj"])
def test_a_named_order_never_passes_over_a_replaced_projection(order: str, projection: str) -> None:
    module, x = SeqNormAttention(24, 3, order="literal"), torch.randn(1, 100, 24)
    setattr(module, projection, Adapted(module.get_submodule(projection)))
    want = module(x)
    module.order = order
    try:
        got = module(x)
    except UserError:
        return
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("projection", ["qkv", "proj"])
def test_hooks_of_a_projection_are_called(projection: str) -> None:
    module, calls = SeqNormAttention(24, 3), []
    module.get_submodule(projection).register_forward_hook(lambda *_: calls.append(projection))
    module(torch.randn(1, 100, 24))
    assert calls == [projection]


@pytest.mark.parametrize("projection", ["qkv", "proj"])
def test_pruned_weights_follow_their_training(projection: str) -> None:
    """torch's pruning computes the weight anew in a hook before each call."""
    module, x = SeqNormAttention(24, 3), torch.randn(1, 100, 24)
    pruned = module.get_submodule(projection)
    prune.l1_unstructured(pruned, "weight", 0.5)
    with torch.no_grad():
        pruned.weight_orig.normal_()
    got = module(x)
    module.order = "literal"
    torch.testing.assert_close(got, module(x), rtol=1e-4, atol=1e-4)


def test_parametrized_weights_follow_their_training() -> None:
    module, x = SeqNormAttention(24, 3), torch.randn(1, 100, 24)
    nn.utils.parametrizations.weight_norm(module.qkv)
    with torch.no_grad():
        module.qkv.parametrizations.weight.original0.mul_(3)
    got = module(x)
    module.order = "literal"
    torch.testing.assert_close(got, module(x), rtol=1e-4, atol=1e-4)
