"""The methods on small models in float64: each against what it is by definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from softfree.attention import ATTENTIONS
from softfree.errors import UserError
from softfree.explain.gradients import grad_cam, gradient_times_input
from softfree.explain.maps import METHODS, explain_tensor
from softfree.explain.passes import attention_inputs, classify, enter, through, watch
from softfree.explain.rollout import rollout
from softfree.explain.rows import attention_row
from softfree.explain.split import split_logit
from softfree.models import BagTransformer, SoftPyramid, VisionTransformer, VolumeTransformer


def model(attention: str = "seqnorm", **options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    made = VisionTransformer(32, 8, 1, 3, 32, 3, 2, attention=attention, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made.eval().double()


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(1, 1, 32, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def bag(**options: Any) -> tuple[BagTransformer, Tensor]:
    """A model and two bags, the second padded."""
    torch.manual_seed(0)
    made = BagTransformer(6, 3, 32, 2, 2, **options).eval().double()
    bags = torch.rand(2, 9, 9, dtype=torch.float64)
    bags[1, 5:, -1] = float("nan")
    return made, bags


@pytest.mark.parametrize("pool", ["avg", "token", "topk"])
def test_a_pass_in_parts_is_the_pass(pool: str, pixels: Tensor) -> None:
    network = model(pool=pool)
    entry = enter(network, pixels)
    half = entry._replace(tokens=through(network, entry, 0, 1))
    torch.testing.assert_close(classify(network, half, through(network, half, 1)), network(pixels))
    assert not network.blocks._forward_pre_hooks


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_split_sums_to_the_logit(attention: str, pixels: Tensor) -> None:
    network = model(attention, class_token=True)
    for index in range(3):
        parts, constant = split_logit(network, enter(network, pixels), index)
        assert abs(float(parts.sum() + constant - network(pixels)[0, index].detach())) < 1e-10
        assert parts.std() > 1e-3


@pytest.mark.parametrize("pool", ["topk", "mean_topk", "lse", "gated"])
def test_split_of_heads(pool: str, pixels: Tensor) -> None:
    """Exact, whatever the head; and a sample's parts know nothing of padding."""
    network = model(pool=pool, class_token=True)
    for index in range(3):
        parts, constant = split_logit(network, enter(network, pixels), index)
        assert abs(float(parts.sum() + constant - network(pixels)[0, index].detach())) < 1e-10
    network, bags = bag(pool=pool)
    parts, constant = split_logit(network, enter(network, bags), 1)
    assert (parts.sum(1) + constant - network(bags)[:, 1]).abs().max() < 1e-10
    assert (parts[1, 5:] == 0).all()
    alone, _ = split_logit(network, enter(network, bags[1:, :5]), 1)
    torch.testing.assert_close(alone, parts[1:, :5])


def test_the_split_of_topk_is_its_evidence(pixels: Tensor) -> None:
    """The logits of the chosen tokens, shared out; the shift of the norm and the bias speak of no token."""
    network = model(pool="topk")
    entry = enter(network, pixels)
    parts, constant = split_logit(network, entry, 1)
    logits = network.head(network.norm(through(network, entry)))[0, :, 1]
    chosen = logits.topk(4).indices
    assert set(parts[0].nonzero()[:, 0].tolist()) == set(chosen.tolist())
    shift = network.head.weight[1] @ network.norm.bias + network.head.bias[1]  # type: ignore[union-attr, operator]
    torch.testing.assert_close(parts[0, chosen], (logits[chosen] - shift).detach() / 4)
    torch.testing.assert_close(constant, shift.detach()[None])


def test_split_of_padded_bags_sums_to_the_logits() -> None:
    network, bags = bag()
    parts, constant = split_logit(network, enter(network, bags), 1)
    assert (parts.sum(1) + constant - network(bags)[:, 1]).abs().max() < 1e-10
    assert (parts[1, 5:] == 0).all()
    alone, _ = split_logit(network, enter(network, bags[1:, :5]), 1)
    torch.testing.assert_close(alone, parts[1:, :5])


def test_a_part_is_the_logit_without_the_token_when_the_deviation_stays(pixels: Tensor) -> None:
    network = model()
    entry = enter(network, pixels)
    tokens = through(network, entry)
    parts, _ = split_logit(network, entry, 2)
    mean, less = tokens.mean(1), tokens.mean(1) - tokens[:, 7] / tokens.shape[1]
    row, norm = network.head.weight[2] * network.fc_norm.weight, (mean.var(correction=0) + 1e-6).rsqrt()  # type: ignore
    lost = ((mean - mean.mean()) - (less - less.mean())) * norm @ row
    torch.testing.assert_close(parts[0, 7], lost[0].detach())


@pytest.mark.parametrize("residual", ["half", "identity"])
@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_rollout_is_dense_rollout(attention: str, pool: str, residual: Any, pixels: Tensor) -> None:
    network = model(attention, pool=pool)
    entry = enter(network, pixels)
    inputs, _ = attention_inputs(network, entry)
    number = entry.tokens.shape[1]
    whole = torch.eye(number, dtype=torch.float64)
    for one, x in zip(network.blocks, inputs, strict=True):
        rows = [attention_row(one.attn, x, query, grid=entry.grid)[0].mean(0) for query in range(number)]
        mixing = torch.stack(rows) + torch.eye(number)
        whole = (mixing if residual == "identity" else mixing / 2) @ whole
    want = whole[0, 1:] if pool == "token" else whole.mean(0)
    assert whole.std() > 1e-3
    torch.testing.assert_close(rollout(network, entry, residual)[0], want, rtol=1e-9, atol=1e-12)


def test_rollout_of_softmax_is_a_distribution(pixels: Tensor) -> None:
    network = model("softmax")
    found = rollout(network, enter(network, pixels))
    assert float(found.min()) > 0
    torch.testing.assert_close(found.sum(1), torch.ones(1, dtype=torch.float64))


def test_padding_has_no_part_in_a_rollout() -> None:
    network, bags = bag()
    found = rollout(network, enter(network, bags))
    assert (found[1, 5:] == 0).all()
    torch.testing.assert_close(rollout(network, enter(network, bags[1:, :5])), found[1:, :5])


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_gradient_times_input_is_the_slope_as_a_token_grows(attention: str, layer: int, pixels: Tensor) -> None:
    network = model(attention)
    entry = enter(network, pixels)
    found = gradient_times_input(network, entry, watch(network, entry, layer), 1)
    tokens = through(network, entry, 0, layer).detach()

    def logit(step: float) -> float:
        grown = tokens.clone()
        grown[:, 7] *= 1 + step
        return float(classify(network, entry, through(network, entry._replace(tokens=grown), layer))[0, 1].detach())

    # SOFT's gradient is that of the exact inverse, which its iteration comes close to; Performer's takes the maximum
    # in its exponent, which cancels but for eps, as fixed.
    tolerance = 1e-2 if attention in ("soft", "soft_norm", "performer") else 1e-5
    assert float(found[0, 7]) == pytest.approx((logit(1e-5) - logit(-1e-5)) / 2e-5, rel=tolerance, abs=1e-7)


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_grad_cam_is_its_formula(attention: str, pool: str, pixels: Tensor) -> None:
    network = model(attention, pool=pool)
    kept: list[Tensor] = []

    def keep(_module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        given[0].retain_grad()
        kept.append(given[0])

    network.blocks[-1].register_forward_pre_hook(keep)
    network(pixels)[0, 1].backward()
    prefix = network.num_prefix_tokens
    tokens, gradient = kept[0][0, prefix:], kept[0].grad[0, prefix:]  # type: ignore[index]
    want = (tokens * gradient.mean(0)).sum(1).clamp(min=0)
    entry = enter(network, pixels)
    found = grad_cam(network, entry, watch(network, entry, -1), 1)[0]
    assert float(found.max()) > 0
    torch.testing.assert_close(found, want.detach())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_map_on_the_grid(method: Any, pixels: Tensor) -> None:
    found = explain_tensor(model(), pixels[0], method, target=1)
    assert found.values.shape == (4, 5)
    assert found.values.std() > 0
    assert found.target == 1
    assert found.description.endswith(".")
    assert "\n" not in found.description
    if method == "split":
        assert found.values.sum() + found.constant == pytest.approx(found.logits[1], abs=1e-10)
    assert (found.values.min() < 0) == (found.signed and method != "rollout") or method == "rollout"


def test_volumes_and_bags_have_maps() -> None:
    torch.manual_seed(0)
    volumes = VolumeTransformer((8, 16, 16), (4, 8, 8), 1, num_classes=2, embed_dim=24, depth=1, num_heads=2).eval()
    assert explain_tensor(volumes, torch.randn(1, 8, 16, 24)).values.shape == (2, 2, 3)
    assert explain_tensor(volumes, torch.randn(1, 8, 16, 24), "attention", at=[0.9, 0, 0]).values.shape == (2, 2, 3)
    network, bags = bag()
    assert explain_tensor(network, bags[0], "rollout").values.shape == (9,)


def test_the_query_is_where_it_is_asked_for(pixels: Tensor) -> None:
    network = model()
    entry = enter(network, pixels)
    want = attention_row(network.blocks[1].attn, attention_inputs(network, entry)[0][1], 3 * 5 + 1)  # type: ignore
    found = explain_tensor(network, pixels, "attention", layer=1, head=1, at=[0.3, 0.9])
    torch.testing.assert_close(torch.from_numpy(found.values.ravel()), want[0, 1].detach())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"method": "gradient", "layer": 3}, "--layer 3: this model has 3 layers, from 0 to 2"),
        ({"method": "attention", "head": 2}, "--head 2: the layer has 2 heads"),
        ({"method": "attention", "at": [0.5, 1.0]}, "expected parts of the sample's sides"),
        ({"method": "attention", "at": [0.5]}, r"as '\[0.5, 0.5\]'"),
        ({"method": "split", "layer": 1}, "--layer is not for --method split"),
        ({"method": "rollup"}, "did you mean rollout"),
        ({"target": 3}, "3 classes, from 0 to 2"),
        ({"target": "ill"}, "expected its number"),
    ],
)
def test_what_cannot_be_asked(given: dict[str, Any], says: str, pixels: Tensor) -> None:
    with pytest.raises(UserError, match=says):
        explain_tensor(model(), pixels, **given)


class Other(torch.nn.Module):
    """An attention of another library."""

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return x


def test_models_without_an_explanation(pixels: Tensor) -> None:
    with pytest.raises(UserError, match="gradcam, rollout, attention"):
        explain_tensor(model(pool="token"), pixels, "split")
    with pytest.raises(UserError, match="pools the deviation of its tokens: expected --method gradient"):
        explain_tensor(model(pool="mean_std"), pixels, "split")
    assert explain_tensor(model(pool="token"), pixels).method == "gradient"
    with pytest.raises(UserError, match="SoftPyramid has no single grid"):
        explain_tensor(SoftPyramid(32, 1, 2, (8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1)), pixels)
    replaced = model()
    replaced.blocks[0].attn = Other()
    with pytest.raises(UserError, match="Other, whose weights are not known"):
        explain_tensor(replaced, pixels, "attention", layer=0)
    with pytest.raises(UserError, match="batch of 1"):
        explain_tensor(model(), pixels.expand(2, -1, -1, -1))
    with pytest.raises(UserError, match="num_classes > 0"):
        explain_tensor(VisionTransformer(32, 8, 1, 0, 32, 1, 2), pixels)
